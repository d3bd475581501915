"""What the package promises as a whole: its public names, their docstrings, the contract with C, one version."""

import ast
import inspect
import re
import subprocess
import sys

import pytest
from strategies import ROOT

import nsnet
from nsnet import errors, kernel

# DESIGN.md, "The public face". Names of later issues are added as they come to be.
PUBLIC = {
    "Network": ["up", "down", "launch", "attach", "__enter__", "__exit__"],
    "ShardedNetwork": ["up", "down", "launch", "attach", "launch_many", "attach_many", "detach_many", "settle",
                       "__enter__", "__exit__"],
    "Netns": ["current", "new", "new_many", "open", "of_pid", "fd", "links", "addresses", "routes", "neighbours", "batch",
              "close"],
    "Batch": ["add_bridge", "add_veth", "set_link", "del_link", "add_address", "del_address", "add_route", "del_route",
              "__enter__", "__exit__"],
    "Process": ["pid", "pidfd", "userns", "go", "wait", "poll", "send_signal", "terminate", "kill", "communicate",
                "wait_async", "__enter__", "__exit__"],
    "Container": ["remove"],
    "Attachment": ["detach"],
    "Link": [], "Address": [], "Route": [], "Neighbour": [], "spawn": [], "namespaces": [], "explain": [],
    "Request": ["type", "flags", "payload", "words"], "Outcome": ["replies", "error", "warning"],
    "Monitor": ["read", "close", "__iter__", "__enter__", "__exit__", "__aiter__", "__aenter__", "__aexit__"],
    "NsnetError": [], "UsageError": [], "ProtocolError": [], "KernelError": [], "NetlinkError": [], "AlreadyExists": [],
    "NotPermitted": [], "NoSuchObject": [], "RollbackError": [],
}
SIGNATURES = {
    "Network.launch": ["argv", "address", "ifname", "host_ifname", "lladdr", "capabilities", "hold", "default_route"],
    "Network.attach": ["netns", "address", "ifname"],
    "Netns.add_veth": ["peer", "peer_netns", "master", "up"],
    "Netns.set_link": ["up", "lladdr"],
    "Netns.add_route": ["dst", "via"],
    "Process.wait": ["timeout"],
    "spawn": ["argv", "new", "join", "uid_map", "gid_map", "setgroups", "user", "group", "groups", "capabilities",
              "no_new_privs", "hold", "env", "cwd", "stdin", "stdout", "stderr", "pass_fds", "pdeathsig", "cgroup", "rlimits",
              "hostname", "new_session", "proc", "loopback", "umask", "oom_score_adj"],
}
FILES = sorted((ROOT / "nsnet").rglob("*.py"))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_with_its_members(name):
    assert name in nsnet.__all__
    found = getattr(nsnet, name)
    assert [member for member in PUBLIC[name] if not hasattr(found, member)] == []


@pytest.mark.parametrize("path", SIGNATURES)
def test_a_public_function_takes_what_the_design_says(path):
    found = nsnet
    for part in path.split("."):
        found = getattr(found, part)
    assert set(SIGNATURES[path]) <= set(inspect.signature(found).parameters)


def test_all_is_what_is_there_and_sorted():
    assert sorted(nsnet.__all__) == nsnet.__all__ == sorted(set(nsnet.__all__))
    assert [name for name in nsnet.__all__ if not hasattr(nsnet, name)] == []


def test_every_error_is_public():
    own = {name for name, value in vars(errors).items() if inspect.isclass(value)
                                        and issubclass(value, errors.NsnetError)}
    assert own <= set(nsnet.__all__)


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_every_file_begins_with_its_theory(file):
    assert ast.get_docstring(ast.parse(file.read_text())) or not file.read_text().strip()


def plain_field(member):
    """Whether it is a property of one expression, such as those of nsnet.objects: its name and its class say enough."""
    return isinstance(member, property) and member.fget.__name__ == "<lambda>"


def documented_names():
    """What `import nsnet` gives to its users: every public function, class, and public member of one."""
    for name in nsnet.__all__:
        found = getattr(nsnet, name)
        if not (inspect.isclass(found) or inspect.isfunction(found)):
            continue
        yield name, found
        if inspect.isclass(found):
            for member, value in inspect.getmembers(found):
                defined = any(member in vars(base) for base in found.__mro__ if base.__module__.startswith("nsnet"))
                inherited = hasattr(tuple, member) or member in getattr(found, "_fields", ()) or plain_field(value)
                visible = callable(value) or isinstance(value, property)
                if defined and visible and not inherited and not member.startswith("_"):
                    yield f"{name}.{member}", value


@pytest.mark.parametrize("path, found", list(documented_names()),
                         ids=lambda value: value if isinstance(value, str) else "")
def test_a_public_name_has_a_docstring(path, found):
    words = inspect.getdoc(found) or ""
    assert words.strip(), f"{path} has no docstring"
    assert not words.startswith(f"{path}("), f"{path} has only the docstring that NamedTuple makes"


def test_the_contract_with_c_has_no_preprocessor_line():
    """cffi reads it as it stands."""
    text = (ROOT / "csrc" / "api.h").read_text()
    assert [line for line in text.splitlines() if re.match(r"\s*#", line)] == []
    assert "nsnet_nl_talk" in text


def test_the_steps_of_c_have_words_in_python():
    names = re.findall(r"\bNSNET_STEP_(\w+)", (ROOT / "csrc" / "api.h").read_text().partition("enum nsnet_step")[2])
    words = [kernel.step_name(number) for number in range(len(set(names)))]
    assert words[0] == "none" and {"clone3", "uid_map", "gid_map", "execve", "capabilities"} <= set(words)


def test_there_is_one_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", nsnet.__version__)
    setup = (ROOT / "setup.py").read_text()
    assert "__version__" in setup and not re.search(
        r'version\s*=\s*["\']\d', setup), "setup.py reads it, and has none itself"


def test_the_changelog_begins_with_this_version():
    headings = re.findall(r"^## \[?v?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings and headings[0] == nsnet.__version__


def test_the_package_lists_every_folder_that_has_python():
    folders = {str(file.parent.relative_to(ROOT)).replace("/", ".") for file in FILES}
    listed = set(ast.literal_eval(re.search(r"packages=(\[.*?\])", (ROOT / "setup.py").read_text(), re.S).group(1)))
    assert listed == folders


def test_importing_the_package_imports_nothing_of_it():
    """Who runs once a container waits for what it uses, and for nothing else."""
    script = "import sys, nsnet; print([name for name in sys.modules if name.startswith('nsnet.')])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "['nsnet.lazy']\n"


def test_the_names_are_said_to_be_where_they_are():
    """Twice in nsnet/__init__.py: for who runs it, and for who reads it."""
    tree = ast.parse((ROOT / "nsnet" / "__init__.py").read_text())
    (static,) = (node for node in tree.body if isinstance(node, ast.If))
    assert {alias.name: node.module for node in static.body for alias in node.names} == {
        name: f"nsnet.{module}" for name, module in nsnet._WHERE.items()}
    assert sorted(nsnet._WHERE) == nsnet.__all__
    with pytest.raises(AttributeError, match="nosuch"):
        nsnet.nosuch
    assert set(nsnet.__all__) <= set(dir(nsnet))

"""The rooms of DESIGN.md, enforced: who may import whom, who may talk to the system, and what the package needs."""

import ast
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from strategies import ROOT

PACKAGE = ROOT / "nsnet"

# From the ground up. A module imports only from ranks below its own; one without a rank is not part of the house yet.
RANKS = [
    {"digest", "errors", "lazy", "named"},
    {"wire"},
    {"tables"},
    {"values"},
    {"rtnl"},
    {"exchange", "idmap", "kernel", "ranges"},
    {"caller"},
    {"clone", "kinds", "names", "pins", "state"},
    {"documents", "requests", "objects", "explainer", "pcap"},
    {"monitor"},
    {"hints", "subids"},
    {"verbs"},
    {"reading"},
    {"netns"},
    {"job"},
    {"leases", "process", "sysctls"},
    {"declaration"},
    {"attachments", "ownership", "reaper"},
    {"forwarding", "plan"},
    {"removal"},
    {"collection", "drift"},
    {"network"},
    {"pool"},
    {"__init__"},                       # the public face
    {"cli"},
    {"__main__"},
]
PACKAGES = {"rtnl", "requests", "verbs", "leases", "network", "cli"}     # among themselves their files may import as they like
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}

NO_IO = {"digest", "errors", "named", "wire", "tables", "values", "rtnl", "exchange", "idmap", "requests", "objects",
         "names", "explainer", "pcap", "ranges"}
# What these rooms may use of modules that could also do I/O: text of an errno, text of an address, the byte order.
USES_ALLOWED = {
    ("errors", "os"): {"strerror"},
    ("wire", "_socket"): {"inet_pton", "inet_ntop", "AF_INET", "AF_INET6"},
    ("wire", "sys"): {"byteorder"},
    ("objects", "sys"): {"byteorder"},
    ("requests", "sys"): {"byteorder"},
}
IO_MODULES = {
    "os", "io", "pathlib", "fcntl", "select", "selectors", "socket", "socketserver", "subprocess", "threading",
    "signal", "time", "mmap", "resource", "ctypes", "tempfile", "shutil", "glob", "asyncio", "multiprocessing", "sys",
    "logging", "posix", "_socket", "urllib", "http", "random", "secrets", "importlib",
}
STARTS_PROGRAMS = {
    "system", "popen", "execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp", "execlpe", "spawnl",
    "spawnle", "spawnlp", "spawnlpe", "spawnv", "spawnve", "spawnvp", "spawnvpe", "posix_spawn", "posix_spawnp", "fork",
    "forkpty",
}

FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text(), str(file)) for file in FILES}
each_file = pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])


def room(file):
    """The name under which a file has its rank."""
    return file.relative_to(PACKAGE).parts[0].replace(".py", "")


def imports(tree):
    """Every (module, name or None) that a tree imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import; write where it comes from"
            for alias in node.names:
                yield node.module, alias.name


def running(tree):
    """The tree without what stands under `if TYPE_CHECKING:`, which names types and never runs."""
    return ast.Module([node for node in tree.body if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name)
                                                          and node.test.id == "TYPE_CHECKING")], [])


def own_imports(tree):
    """The rooms of nsnet that a tree imports; "__init__" for the package itself."""
    for module, name in imports(running(tree)):
        first, _, rest = module.partition(".")
        if first != "nsnet":
            continue
        if rest:
            yield rest.split(".")[0]
        elif name is not None and ((PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()):
            yield name
        else:
            yield "__init__"


def attributes_used(tree, module):
    """The attributes of an imported module that a tree names: {"strerror"} for os.strerror."""
    names = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names if alias.name == module}
    return {node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names}


def from_imports(tree, module):
    return {name for found, name in imports(tree) if found == module and name is not None}


@each_file
def test_a_module_imports_only_downwards(file):
    own = room(file)
    assert own in RANK, f"{own} has no rank: give it one in {Path(__file__).name}, and in DESIGN.md"
    for other in own_imports(TREES[file]):
        if other == "_native" or (own == other and own in PACKAGES):
            continue
        assert other in RANK, f"{other} has no rank"
        assert RANK[other] < RANK[own], f"{own} imports {other}, which is not below it"


def test_every_rank_is_of_a_module_that_exists():
    assert set(RANK) == {room(file) for file in FILES}


@each_file
def test_no_module_imports_typing_when_it_runs(file):
    """It takes as long as half of nsnet: nsnet/named.py."""
    assert "typing" not in {module for module, _ in imports(running(TREES[file]))} or room(file) == "named"


@each_file
def test_only_kernel_imports_the_extension(file):
    assert ("_native" in set(own_imports(TREES[file]))) == (room(file) == "kernel")


@each_file
def test_no_module_starts_a_program_by_another_way_than_spawn(file):
    tree = TREES[file]
    modules = {module for module, _ in imports(tree)}
    allowed = {"subprocess"} if room(file) == "subids" else set()       # law 1: newuidmap and newgidmap
    assert not modules & {"subprocess", "pty", "multiprocessing", "pexpect", "ctypes"} - allowed
    assert not (attributes_used(tree, "os") | from_imports(tree, "os")) & STARTS_PROGRAMS
    assert "which" not in attributes_used(tree, "shutil") | from_imports(tree, "shutil")


@pytest.mark.parametrize("file", [file for file in FILES if room(file) in NO_IO],
                         ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_below_the_kernel_does_no_input_or_output(file):
    own, tree = room(file), TREES[file]
    for module, name in imports(tree):
        first = module.split(".")[0]
        if first not in IO_MODULES:
            continue
        allowed = USES_ALLOWED.get((own, first))
        assert allowed is not None and name is None, f"{own} imports {module}"
        assert attributes_used(tree, first) <= allowed
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


def is_stdlib(module):
    """Whether a top-level module comes with Python, of whatever version (sys.stdlib_module_names is 3.10's)."""
    if module in sys.builtin_module_names:
        return True
    paths = sysconfig.get_paths()
    spec = PathFinder.find_spec(module, [paths["stdlib"], paths["platstdlib"],
                                str(Path(paths["stdlib"]) / "lib-dynload")])
    return spec is not None and "site-packages" not in (spec.origin or "")


@each_file
def test_the_package_needs_nothing_but_python_and_its_extension(file):
    others = {module.split(".")[0] for module, _ in imports(TREES[file])} - {"nsnet"}
    if room(file) == "digest":
        others -= {"_sha2", "_sha256"}      # each of some versions of Python, and tried in turn
    assert {module for module in others if not is_stdlib(module)} == set()


def test_what_comes_with_python_is_told_from_what_does_not():
    assert is_stdlib("os") and is_stdlib("sys") and is_stdlib("json") and is_stdlib("fcntl")
    assert not is_stdlib("pytest") and not is_stdlib("hypothesis") and not is_stdlib("no_such_module")


def test_every_room_without_input_or_output_exists():
    assert NO_IO <= {room(file) for file in FILES}


@each_file
def test_nothing_is_kept_in_module_level_state(file):
    """Law 9: no socket, no default namespace. What a module makes at import are constants, and calls make tables."""
    for node in TREES[file].body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        for call in (item for item in ast.walk(node.value) if isinstance(item, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            assert name not in {"open", "socket", "local", "Lock", "RLock", "current", "RtnlSocket", "new", "host"}
    assert not [node for node in ast.walk(TREES[file]) if isinstance(node, ast.Global)]

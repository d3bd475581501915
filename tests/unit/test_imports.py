"""What is imported by whom: a hook runs once a container, and waits for each module that it does not need.

Each case is a fresh interpreter that lists what it has imported beyond a bare one. No time is measured here.
"""

import os
import pickle
import subprocess
import sys
import threading

import pytest
from strategies import ROOT

import nsnet
from nsnet import lazy

# Of Python. typing takes as long as half of nsnet; re, socket and signal make enums; hashlib loads OpenSSL.
SLOW = {"typing", "re", "enum", "inspect", "dataclasses", "socket", "selectors", "signal", "json", "hashlib", "_hashlib",
        "difflib", "shutil", "tempfile", "subprocess", "logging", "argparse", "asyncio", "pathlib", "ipaddress", "pwd", "grp",
        "copy", "weakref", "bisect", "string", "shlex", "textwrap", "concurrent.futures", "ctypes"}
# argparse wants re, which makes enums; who reads or writes a claim wants json; signals that end a command have names.
SLOW_FOR_A_COMMAND = SLOW - {"re", "enum", "argparse", "json", "signal"}
# Of ours: what few come to who build a network, or enter one.
WORDS = {"nsnet.explainer", "nsnet.names", "nsnet.pcap"}
FILES = {"nsnet.documents", "nsnet.leases.disk", "nsnet.leases.memory", "nsnet.leases.book", "nsnet.pins"}
TRAFFIC = {"nsnet.requests.tc", "nsnet.requests.filters", "nsnet.requests.rules"}
LISTENING = {"nsnet.monitor"}
NETWORK = {"nsnet.network", "nsnet.plan", "nsnet.drift", "nsnet.removal", "nsnet.forwarding", "nsnet.attachments"}
LAUNCH = {"nsnet.process"}
FEW = WORDS | TRAFFIC | LISTENING | {"nsnet.documents", "nsnet.leases.disk", "nsnet.leases.memory", "nsnet.leases.book",
                                     "nsnet.collection", "nsnet.cli"}
COMMANDS = {                    # what must not be imported by a run that does something, if it is only a little
    ("list",): NETWORK | LAUNCH | FILES | WORDS | TRAFFIC | LISTENING,
    ("gc",): LAUNCH | FILES | WORDS | TRAFFIC | LISTENING | {"nsnet.network", "nsnet.plan", "nsnet.drift"},
    ("down", "nosuch"): (FILES - {"nsnet.pins"}) | WORDS | TRAFFIC | LISTENING | {"nsnet.collection"},
    ("show", "nosuch"): (FILES - {"nsnet.pins"}) | WORDS | TRAFFIC | LISTENING | {"nsnet.collection"},
    ("up", "--schema"): (FILES - {"nsnet.pins"}) | WORDS | TRAFFIC | LISTENING | {"nsnet.collection"},
    ("exec", "nosuch", "--", "/bin/true"): NETWORK | WORDS | TRAFFIC | LISTENING | (FILES - {"nsnet.pins"}),
    ("run", "--", "/bin/true"): NETWORK | FILES | WORDS | TRAFFIC | LISTENING | {
        "nsnet.ownership", "nsnet.declaration"},
    ("explain", "00"): NETWORK | LAUNCH | FILES | {"nsnet.kernel", "nsnet.netns", "nsnet._native", "nsnet.verbs"},
}

LISTED = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("\\n" + " ".join(sorted(sys.modules))))
sys.path[:0] = {path!r}
import runpy, _cffi_backend
"""


def run(script, **environment):
    """The names of all modules, of an interpreter without site's."""
    path = [str(ROOT), *(entry for entry in sys.path if entry.endswith("-packages"))]       # there is cffi's backend
    done = subprocess.run([sys.executable, "-W", "error", "-S", "-c", LISTED.format(path=path) + script], cwd="/", text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment})
    assert "Traceback" not in done.stderr, done.stderr
    return set(done.stderr.split("\n")[-1].split())


@pytest.fixture(scope="module")
def bare():
    found = run("")
    assert "sys" in found and "_cffi_backend" in found and not any(name.startswith("nsnet") for name in found)
    return found


def test_the_package_alone_imports_nothing_to_speak_of(bare):
    assert run("import nsnet") - bare == {"nsnet", "nsnet.lazy"}
    assert run("import nsnet; dir(nsnet), nsnet.__all__, nsnet.__version__") - bare == {"nsnet", "nsnet.lazy"}


def test_an_error_is_had_without_the_kernel(bare):
    found = run("import nsnet; nsnet.NsnetError, nsnet.AlreadyExists") - bare
    assert {name for name in found if name.startswith("nsnet")} == {"nsnet", "nsnet.lazy", "nsnet.errors"}


@pytest.mark.parametrize("name, unwanted", [
    ("Netns", NETWORK | LAUNCH | FILES | {"nsnet.declaration", "nsnet.ownership", "nsnet.state", "threading"}),
    ("Batch", NETWORK | LAUNCH | FILES),
    ("LinkRef", NETWORK | LAUNCH | FILES | {"nsnet.netns", "nsnet.clone"}),
    ("Link", NETWORK | LAUNCH | FILES | {"nsnet.netns", "nsnet.kernel", "nsnet.verbs"}),
    ("spawn", NETWORK | FILES | {"nsnet.declaration", "nsnet.ownership", "nsnet.state", "threading"}),
    ("Network", set()),
    ("Container", set()),
])
def test_a_name_imports_what_it_is_made_of(bare, name, unwanted):
    found = run(f"import nsnet; nsnet.{name}") - bare
    assert f"nsnet.{nsnet._WHERE[name]}" in found
    assert found & (SLOW | FEW | unwanted) == set()


def test_bytes_are_explained_without_the_kernel(bare):
    found = run("import nsnet; nsnet.explain(b'')") - bare
    assert "nsnet.explainer" in found and found & (SLOW | {"nsnet.kernel", "nsnet._native", "nsnet.netns"}) == set()


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_command_imports_its_family(bare, argv, tmp_path):
    found = run(f"sys.argv[1:] = {list(argv)!r}\nrunpy.run_module('nsnet', run_name='__main__', alter_sys=True)",
                NSNET_STATE_DIR=str(tmp_path / "state")) - bare
    assert f"nsnet.cli.{argv[0]}" in found
    others = {name for name in found if name.startswith("nsnet.cli.")} - {"nsnet.cli." + name for name in (
        argv[0], "signals", "options", "attend", "list")}
    assert others == set()
    slow = SLOW_FOR_A_COMMAND - ({"string"} if argv[0] == "explain" else set())
    assert found & (slow | COMMANDS[argv]) == set()


def test_star_gives_all_that_is_public():
    names = {}
    exec("from nsnet import *", names)
    assert set(nsnet.__all__) <= set(names) and all(names[name] is getattr(nsnet, name) for name in nsnet.__all__)


def test_names_are_pickled_by_where_they_are():
    for name in ("Link", "Address", "Request", "NsnetError", "Network", "LinkRef", "spawn", "explain"):
        assert pickle.loads(pickle.dumps(getattr(nsnet, name))) is getattr(nsnet, name)


def test_help_shows_the_package():
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import nsnet; help(nsnet); help(nsnet.Network); help(nsnet.LinkRef)"],
                          cwd=ROOT, text=True, capture_output=True, check=True, env={**os.environ, "PAGER": "cat"})
    assert "joined to a bridge" in done.stdout and "launch(" in done.stdout and "ifname" in done.stdout and done.stderr == ""


def test_a_name_that_is_not_there_is_no_attribute():
    for package in ("nsnet", "nsnet.requests", "nsnet.leases"):
        module = sys.modules[package] if package in sys.modules else __import__(package, fromlist=["x"])
        with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nosuch'"):
            module.nosuch
        assert not hasattr(module, "nosuch")
        with pytest.raises(ImportError, match="nosuch"):
            exec(f"from {package} import nosuch")


def test_each_lazy_name_is_where_it_is_said_to_be():
    for package in ("nsnet.requests", "nsnet.leases"):
        module = __import__(package, fromlist=["x"])
        assert [name for name in module.__all__ if not callable(getattr(module, name)) and name != "GONE"] == []


@pytest.mark.parametrize("name", ["Network", "spawn", "explain"])
def test_threads_that_ask_at_once_get_the_same(name):
    script = f"""
import nsnet, threading
found, start = [], threading.Barrier(8)
def ask():
    start.wait(30)
    found.append(nsnet.{name})
threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join(60) for thread in threads]
assert len(found) == 8 and all(one is nsnet.{name} for one in found), found
"""
    assert f"nsnet.{nsnet._WHERE[name]}" in run(script)


def test_a_fork_asks_for_itself():
    script = """
import nsnet, os
pid = os.fork()
if pid == 0:
    nsnet.Netns
    os._exit(0 if "nsnet.netns" in sys.modules else 1)
assert os.waitpid(pid, 0)[1] == 0 and "nsnet.netns" not in sys.modules
nsnet.Netns
"""
    assert "nsnet.netns" in run(script)


def test_what_the_first_reader_makes_is_made_once():
    """The named tuple of a struct, for threads that read the first ones of it at once."""
    from nsnet import wire

    fields, start, found = tuple(f"field{place}" for place in range(60)), threading.Barrier(8), []
    fixed = [wire.Fixed("of_a_test", "60I", *fields) for _ in range(8)]

    def read(one):
        start.wait(30)
        found.append(one.decode(bytes(240)))
    threads = [threading.Thread(target=read, args=(one,)) for one in fixed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8 and len({type(one) for one in found}) == 1


def test_an_importer_finds_once():
    asked = []
    find = lazy.importer("nsnet.verbs", {"Sentinel": "base"})
    sys.modules["nsnet.verbs.base"].Sentinel = asked
    try:
        assert find("Sentinel") is asked and sys.modules["nsnet.verbs"].Sentinel is asked
    finally:
        del sys.modules["nsnet.verbs.base"].Sentinel, sys.modules["nsnet.verbs"].Sentinel

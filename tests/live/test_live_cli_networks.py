"""`nsnet up`, `down`, `list`, `show` and `gc`, as a person and as a program sees them."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

import nsnet
from live_helpers import (IS_ROOT, PATIENCE, Running, become_nobody, claims, environment, go_inside, is_gone, links_of,
                          needs, nsnet_argv, public_copy, run_nsnet)
from network_helpers import SLEEP, leased, sh, strays
from test_live_drift import FILTERS, changes_in, tree
from test_live_killed import traced

NETS = {"network": [
    {"bridge": "br0", "address": ["10.0.0.1/24", "fd00::1/64"], "attachments": [
        {"name": "site", "command": SLEEP, "address": "10.0.0.2/24", "host_ifname": "v0"}]},
    {"bridge": "br1", "address": "10.1.0.1/24", "lifetime": "attachments", "attachments": [
        {"name": "other", "command": SLEEP, "address": "auto", "host_ifname": "v1"}]}]}

TOML = """
version = 1
[[network]]
bridge = "br0"
address = ["10.0.0.1/24", "fd00::1/64"]
[[network.attachments]]
name = "site"
command = ["/bin/sleep", "1000"]
address = "10.0.0.2/24"
host_ifname = "v0"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nets.json"
    path.write_text(json.dumps(NETS))
    return path


def write(path, *networks):
    path.write_text(json.dumps({"network": list(networks)}))
    return path


def one_line(done, code, *words):
    """A refusal: nothing on stdout, one line on stderr."""
    assert (done.returncode, done.stdout) == (code, ""), done.stdout + done.stderr
    assert done.stderr.startswith("nsnet: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(str(word) in done.stderr for word in words), done.stderr
    return done.stderr


def said(done, code=0):
    assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
    return done.stdout


def test_a_life_in_words(host, state, file):
    def does(*words, code=0):
        return said(run_nsnet(host, state, *words), code)
    assert does("list") == "no networks\n"
    assert does("gc") == "nothing to remove\n"
    assert does("down", file) == "br1: nothing to take down\nbr0: nothing to take down\n"
    assert does("up", file) == "br0: up, 1 attached\nbr1: up, 1 attached\n"
    assert does("up", file) == "br0: it is as declared\nbr1: it is as declared\n"
    rows = [line.split() for line in does("list").splitlines()]
    assert rows == [["bridge", "state", "lifetime", "address", "attached"],
                    ["br0", "up", "declared", "10.0.0.1/24", "fd00::1/64", "1"],
                    ["br1", "up", "attachments", "10.1.0.1/24", "1"]]
    shown = does("show", "br0").splitlines()
    pid = int(shown[2].rpartition(" ")[2])
    assert shown == ["br0: up, lifetime declared", "  address     10.0.0.1/24, fd00::1/64",
                     f"  attached    site: v0 to eth0, 10.0.0.2/24, process {pid}"]
    assert not is_gone(pid)
    kept = does("gc").splitlines()
    assert len(kept) == 2 and all("it is to stay; nsnet down removes it" in line for line in kept)
    assert does("down", "br1").startswith("br1: removed process ")
    taken = does("down", file)
    assert taken.startswith("br1: nothing to take down\nbr0: removed ") and is_gone(pid)
    assert does("list") == "no networks\n" and strays(host) == [] and claims(state) == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML needs Python 3.11")
def test_a_file_in_toml(host, state, tmp_path):
    path = tmp_path / "nets.toml"
    path.write_text(TOML)
    assert said(run_nsnet(host, state, "up", path)) == "br0: up, 1 attached\n"
    assert said(run_nsnet(host, state, "down", path)).startswith("br0: removed process ")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML needs Python 3.11")
@pytest.mark.parametrize("text", [TOML, json.dumps(NETS["network"][0])], ids=["TOML", "JSON"])
def test_a_file_from_standard_input(host, state, text):
    def does(*words):
        return said(subprocess.run(nsnet_argv(*words), env=environment(state), input=text, text=True, timeout=PATIENCE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=go_inside(host.fd)))
    assert does("up", "-") == "br0: up, 1 attached\n"
    assert does("up", "-") == "br0: it is as declared\n"
    assert does("down", "-").startswith("br0: removed ")


@needs("ip")
def test_a_life_in_json(host, state, file):
    def does(*words, code=0):
        return json.loads(said(run_nsnet(host, state, *words, "--json"), code))
    assert does("list") == []
    assert does("gc") == {"removed": [], "alive": [], "kept": [], "elsewhere": [], "failed": []}
    made = does("up", file)["networks"]
    assert [(one["bridge"], one["state"]) for one in made] == [("br0", "created"), ("br1", "created")]
    (site,) = made[0]["attachments"]
    assert {**site, "pid": 0} == {"name": "site", "host_ifname": "v0", "ifname": "eth0", "addresses": ["10.0.0.2/24"],
                                  "pid": 0, "declared": True}
    assert made[0]["changes"][0] == {"where": "br0", "what": "no bridge"}
    assert [one["state"] for one in does("up", file)["networks"]] == ["unchanged"] * 2
    sh(host, "link set br0 down")
    faults = [{"where": "br0", "what": what} for what in ("no address fd00::1/64", "down")]
    shown = does("show", "br0", code=1)
    assert shown["faults"] == faults and shown["attachments"] == [site] and shown["remote_routes"] == []
    assert shown["declaration"]["bridge"] == "br0" and shown["lifetime"] == "declared" and shown["here"] is True
    again = does("up", file)["networks"]
    assert [(one["state"], one["changes"]) for one in again] == [("repaired", faults), ("unchanged", [])]
    assert does("show", "br0")["faults"] == []
    listed = does("list")
    assert [(one["bridge"], one["attached"], one["state"], one["owner"]) for one in listed] == [
        ("br0", 1, "up", None), ("br1", 1, "up", None)]
    gone = does("down", "br1", file)
    assert gone["failed"] == {} and set(gone["removed"]) == {"br0", "br1"}
    assert "br0" in gone["removed"]["br0"]
    assert does("list") == []


@needs("ip")
def test_what_was_repaired_is_said(host, state, file):
    said(run_nsnet(host, state, "up", file))
    sh(host, "address delete 10.0.0.1/24 dev br0")
    sh(host, "link set v1 nomaster")
    assert said(run_nsnet(host, state, "show", "br0"), 1).endswith("\n  not so      br0: no address 10.0.0.1/24\n")
    assert said(run_nsnet(host, state, "up", file)) == (
        "br0: repaired: no address 10.0.0.1/24\nbr1: repaired: other: v1: no port of the bridge\n")
    said(run_nsnet(host, state, "down", file))


# --- refusals ---

@pytest.mark.parametrize("words, code, text", [
    (["up", "/nonexistent/file"], 1, "/nonexistent/file"), (["up"], 2, "FILE"), (["up", "--dry-run"], 2, "FILE"),
    (["down", "/nonexistent/file"], 1, "/nonexistent/file"), (["show", "br9"], 1, "no network of that name here"),
    (["down", "a b"], 1, "a b"), (["down", "br0", "--timeout", "soon"], 2, "soon"),
])
def test_what_cannot_be_meant_is_refused_in_one_line(host, state, words, code, text):
    if words[0] == "down" and words[1] == "a b":            # each network by itself
        done = run_nsnet(host, state, *words)
        assert done.returncode == 1 and text in done.stderr and done.stderr.count("\n") == 1
        return
    one_line(run_nsnet(host, state, *words), code, text)


@pytest.mark.parametrize("content, text", [
    ("", "bad.json"), ("{", "bad.json"), ("[]", "bad.json"), ('{"network": []}', "network"),
    ('{"bridge": "br0"}', "address"), ('{"bridge": "br0", "bridge": "br1"}', "bridge"),
    ('{"bridge": "br0", "address": "10.0.0.1/24", "adress": 1}', "did you mean 'address'?"),
    ('{"bridge": "br0", "address": "10.0.0.300/24"}', "10.0.0.300/24"),
    ('{"bridge": "br0", "address": "10.0.0.1/24", "attachments": [{"command": "ls"}]}', "attachments[0].command"),
    ('{"version": 2, "bridge": "br0", "address": "10.0.0.1/24"}', "version"),
    ('{"network": [{"bridge": "br0", "address": "10.0.0.1/24"}, {"bridge": "br0", "address": "10.1.0.1/24"}]}',
     "it stands for two links"),
])
def test_a_bad_file(host, state, tmp_path, content, text):
    path = tmp_path / "bad.json"
    path.write_text(content)
    verb = "down" if text == "bad.json" else "up"           # they read it in the same way
    one_line(run_nsnet(host, state, verb, path), 2, "bad.json", text)
    assert strays(host) == [] and claims(state) == []


def test_a_lifetime_that_ends_with_the_command_needs_the_foreground(host, state, tmp_path):
    for lifetime in ("process", "owner"):
        path = write(tmp_path / "nets.json", {"bridge": "br0", "address": "10.0.0.1/24", "lifetime": lifetime})
        one_line(run_nsnet(host, state, "up", path), 2, "br0", lifetime, "--foreground", "declared")
    assert strays(host) == []


def test_a_second_network_that_fails_undoes_the_first(host, state, tmp_path):
    good, bad = NETS["network"][0], {"bridge": "br1", "address": "10.1.0.1/24", "attachments": [
        {"name": "a", "command": ["/nonexistent/command"]}]}
    path = write(tmp_path / "nets.json", good, bad)
    one_line(run_nsnet(host, state, "up", path), 1, "/nonexistent/command")
    assert strays(host) == [] and claims(state) == [] and leased(state) == []
    # One that was up before stays.
    said(run_nsnet(host, state, "up", write(tmp_path / "first.json", good)))
    one_line(run_nsnet(host, state, "up", path), 1, "/nonexistent/command")
    assert strays(host) == ["br0", "v0"] and said(run_nsnet(host, state, "show", "br0"))
    said(run_nsnet(host, state, "down", "br0"))


def test_a_bridge_of_somebody_else(host, state, file):
    host.add_bridge("br1")
    one_line(run_nsnet(host, state, "up", file), 1, "br1", "adopt it")
    assert strays(host) == ["br1"] and claims(state) == []
    assert said(run_nsnet(host, state, "down", file)) == "br1: nothing to take down\nbr0: nothing to take down\n"
    assert strays(host) == ["br1"]
    host.del_link("br1")


def test_a_network_of_a_process_is_not_taken_away(host, state, file):
    """Not waited for either."""
    with nsnet.Network("br1", address="10.1.0.1/24", netns=host) as network:
        done = run_nsnet(host, state, "down", "br1", timeout=10)
        assert (done.returncode, done.stdout) == (1, "") and f"process {os.getpid()} has it up" in done.stderr
        one_line(run_nsnet(host, state, "up", file, timeout=10), 1, f"process {os.getpid()} has it up")
        assert strays(host) == ["br1"] and network.faults() == []
        shown = said(run_nsnet(host, state, "show", "br1"))
        assert shown.startswith(f"br1: up, by process {os.getpid()}, lifetime process\n")
        assert "its owner lives" in said(run_nsnet(host, state, "gc"))


def test_show_of_a_process_with_an_attachment(host, state):
    with nsnet.Netns.new(beside=host) as other, nsnet.Network("br0", address="10.0.0.1/24", netns=host) as network:
        network.attach(other, address="10.0.0.2/24", name="a", host_ifname="va")
        with network.launch(SLEEP, address="10.0.0.3/24", name="b"):
            shown = said(run_nsnet(host, state, "show", "br0"))
            assert "attached    a: va to eth0, 10.0.0.2/24\n" in shown and "attached    b: " in shown


# --- a dry run ---

@needs("strace")
def test_a_dry_run_says_all_and_sends_nothing(host, state, file, tmp_path):
    before = links_of(host)
    words = said(run_nsnet(host, state, "up", file, "--dry-run"))
    for text in ("br0: no bridge\n", "br0: site: it is not attached\n", "br1: other: it is not attached\n",
                 "RTM_NEWLINK", "RTM_NEWADDR", "RTM_NEWROUTE", "10.0.0.2", "v0"):
        assert text in words, text
    assert links_of(host) == before and claims(state) == [] and leased(state) == []
    log = tmp_path / "dry.log"
    assert traced(host, state, ["up", str(file), "--dry-run"], log, *FILTERS) == 0
    assert changes_in(log)[0] == [] and claims(state) == []
    changes = json.loads(said(run_nsnet(host, state, "up", file, "--dry-run", "--json")))["changes"]
    assert [(one["bridge"], one["where"]) for one in changes] == [("br0", "br0"), ("br0", "site"), ("br1", "br1"),
                                                                 ("br1", "other")]
    for one in changes:                                     # what it says is what these bytes are
        explained = said(run_nsnet(host, state, "explain", one["hex"]))
        assert "RTM_NEWLINK" in explained and "RTM_NEWLINK" in one["messages"]


@needs("ip")
def test_a_dry_run_of_what_is_up(host, state, file):
    said(run_nsnet(host, state, "up", file))
    before = tree(state)
    assert said(run_nsnet(host, state, "up", file, "--dry-run")) == ""
    assert json.loads(said(run_nsnet(host, state, "up", file, "--dry-run", "--json"))) == {"changes": []}
    sh(host, "link set v0 nomaster")
    words = said(run_nsnet(host, state, "up", file, "--dry-run"))
    assert words.startswith("br0: site: v0: no port of the bridge\n") and words.count("RTM_") == 1
    assert tree(state) == before
    assert said(run_nsnet(host, state, "show", "br0"), 1)
    said(run_nsnet(host, state, "down", file))


# --- in the foreground ---

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_in_the_foreground_it_ends_with_a_signal(host, state, tmp_path, number):
    path = write(tmp_path / "nets.json", NETS["network"][0],
                 {"bridge": "br1", "address": "10.1.0.1/24", "lifetime": "owner"},
                 {"bridge": "br2", "address": "10.2.0.1/24", "lifetime": "process"})
    with Running(host, state, "up", path, "--foreground") as running:
        assert [running.line() for _ in range(4)] == [
            "br0: up, 1 attached\n", "br1: up, 0 attached\n", "br2: up, 0 attached\n", "Up until Ctrl-C or SIGTERM.\n"]
        assert strays(host) == ["br0", "br1", "br2", "v0"]
        running.signal(number)
        code, _, errors = running.end()
    assert (code, errors) == (128 + number, "")
    assert strays(host) == [] and claims(state) == []


def test_in_the_foreground_as_json(host, state, file):
    with Running(host, state, "up", file, "--foreground", "--json") as running:
        made = json.loads(running.line())["networks"]
        assert [one["state"] for one in made] == ["created", "created"]
        running.signal(signal.SIGTERM)
        assert running.end()[0] == 128 + signal.SIGTERM
    assert strays(host) == [] and claims(state) == []


def as_somebody(words, state, **options):
    """nsnet with arguments as a user without privilege, in the namespace that this test run is in."""
    if not IS_ROOT:
        return {"args": nsnet_argv(*words), "env": environment(state), **options}
    if public_copy() is None:
        pytest.skip("no interpreter that any user can run")
    interpreter, directory = public_copy()
    return {"args": [interpreter, "-m", "nsnet", *map(str, words)], "preexec_fn": become_nobody, "cwd": "/",
            "env": {**environment(state), "PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"}, **options}


@pytest.fixture
def public():
    """A directory of its own below /tmp for whoever runs the command."""
    directory = tempfile.mkdtemp(prefix="nsnet-cli-")
    try:
        if IS_ROOT:
            os.chown(directory, 65534, 65534)
        yield directory
    finally:
        shutil.rmtree(directory)


def test_without_privilege_only_in_the_foreground(public):
    path = os.path.join(public, "nets.json")
    with open(path, "w") as file:
        json.dump(NETS, file)
    os.chmod(path, 0o644)
    state = os.path.join(public, "state")
    here = links_here()
    done = subprocess.run(**as_somebody(["up", path], state, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        stdin=subprocess.DEVNULL, timeout=PATIENCE))
    one_line(done, 1, "CAP_NET_ADMIN", "--foreground", "br0")
    options = as_somebody(["up", path, "--foreground"], state)
    with Running(None, state, argv=options["args"], env=options["env"], preexec=options.get("preexec_fn"),
                 cwd=options.get("cwd")) as running:
        assert running.until("br0: up, 1 attached") and running.until("Up until")
        listed = subprocess.run(**as_somebody(["list"], state, stdout=subprocess.PIPE, text=True, timeout=PATIENCE))
        assert "br0" in listed.stdout and "in another network namespace" in listed.stdout
        running.signal(signal.SIGINT)
        assert running.end()[0] == 130
    assert claims(state) == [] and links_here() == here


def links_here():
    with open("/proc/net/dev") as file:
        return [line.split(":")[0].strip() for line in file][2:]


# --- progress ---

def on_a_terminal(host, state, *words):
    """(status, what it said on the terminal that is its stderr)."""
    main, side = pty.openpty()
    try:
        popen = subprocess.Popen(nsnet_argv(*words), env=environment(state), stdin=subprocess.DEVNULL, stderr=side,
                                 stdout=subprocess.DEVNULL, preexec_fn=go_inside(host.fd))
        os.close(side)
        side, seen = -1, b""
        while select.select([main], [], [], PATIENCE)[0]:
            try:
                part = os.read(main, 4096)
            except OSError:                                 # EIO: nobody has the other end any more
                break
            seen += part
        return popen.wait(PATIENCE), seen.decode()
    finally:
        os.close(main)
        if side >= 0:
            os.close(side)


def test_progress_is_shown_on_a_terminal_only(host, state, file):
    code, seen = on_a_terminal(host, state, "up", file)
    assert code == 0
    for text in ("br0: 0 of 2 attached", "br0: 1 of 2 attached", "br1: 2 of 2 attached"):
        assert text in seen, seen
    assert seen.endswith("\r\033[K") and "\n" not in seen   # one line, which is gone at the end
    said(run_nsnet(host, state, "down", file))
    assert run_nsnet(host, state, "up", file).stderr == ""
    assert on_a_terminal(host, state, "up", file, "--json")[1] == ""
    said(run_nsnet(host, state, "down", file))


# --- what was declared, by its name ---

def test_exec_into_a_container_by_its_name(host, state, file):
    said(run_nsnet(host, state, "up", file))
    for name in ("site", "v0", "br0"):
        words = said(run_nsnet(host, state, "exec", name, "--", "/bin/cat", "/proc/net/dev"))
        assert "eth0:" in words and "br0:" not in words, name
    one_line(run_nsnet(host, state, "exec", "nobody", "--", "/bin/true"), 1, "nobody", "site")
    said(run_nsnet(host, state, "down", file))
    one_line(run_nsnet(host, state, "exec", "site", "--", "/bin/true"), 1, "site")


def test_the_schema(host, state):
    schema = json.loads(said(run_nsnet(host, state, "up", "--schema")))
    assert schema["$schema"].startswith("https://json-schema.org/") and "attachment" in schema["$defs"]


def test_gc_removes_what_a_killed_foreground_left(host, state, file):
    path = file.with_name("one.json")
    write(path, {"bridge": "br7", "address": "10.7.0.1/24", "lifetime": "process"},
          {"bridge": "br8", "address": "10.8.0.1/24", "lifetime": "owner"})
    with Running(host, state, "up", path, "--foreground") as running:
        running.until("Up until")
        running.popen.kill()
        running.popen.wait()
    assert strays(host) == ["br7", "br8"]
    listed = json.loads(said(run_nsnet(host, state, "list", "--json")))
    assert [one["bridge"] for one in listed] == ["br7", "br8"] and "gc removes it" in listed[0]["state"]
    words = said(run_nsnet(host, state, "gc"))
    assert set(words.splitlines()) == {"removed br7", "removed br8"}
    assert strays(host) == []

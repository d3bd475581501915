"""What is on disk when it is not as it was left: kept by whoever cannot read it or only looks, harmless to print."""

import json
import os

import pytest

import nsnet
from hostile_helpers import (CONTAINER, LEFT, SILENT, SLEEP, claim_of, declaration_file, declared, resident, script,
                             snapshot)
from live_helpers import inside, is_gone, links_of, needs, run_nsnet, which

ESCAPE = "\x1b[2J"


def rewrite(path, content, **changed):
    path.write_text(json.dumps({**content, **changed}))


# --- claims ---

def test_a_claim_of_a_newer_version_is_kept_by_whoever_cannot_read_it(host, state, tmp_path):
    """Links and processes would be nobody's without it."""
    network = declared(host, CONTAINER)
    network.up()
    path, content = claim_of(state)
    rewrite(path, content, version=content["version"] + 1)
    before, pid = snapshot(host, state), content["attachments"]["va"]["pid"]
    for call in (network.faults, network.preview, network.up, network.down, declared(host).up,
                 nsnet.Network("br0", address="10.0.0.1/24", netns=host).up):
        with pytest.raises(nsnet.KernelError, match="not a claim of version"):
            call()
        assert snapshot(host, state) == before and not is_gone(pid), call
    assert not network.is_up and network.entries() == []
    path.write_text(json.dumps(content))
    network.down()
    assert is_gone(pid)


def test_a_removal_that_is_refused_keeps_the_claim(host, state):
    network = declared(host, CONTAINER)
    network.up()
    path, content = claim_of(state)
    rewrite(path, content, state="removing")                # killed in the middle of `down`
    host.set_link("br0", ifalias="mine")
    with pytest.raises(nsnet.KernelError, match="its alias is 'mine'"):
        network.up()
    assert claim_of(state)[1]["state"] == "removing" and "br0" in links_of(host)
    host.set_link("br0", ifalias=content["mark"])
    network.down()


# Where, in a claim, and what is there instead; None: nothing at all.
WRONG = [(("attachments", "va", "name"), None), (("attachments", "va", "spec"), None),
         (("attachments", "va", "addresses"), None), (("attachments", "va", "addresses"), [1]),
         (("attachments", "va", "index"), [1]), (("attachments", "va", "pid"), -1), (("attachments", "va", "pid"), "1"),
         (("attachments", "va"), []), (("forwarding",), {"lo": {"index": 1, "earlier": {"x": "1"}}}),
         (("forwarding",), {"lo": 1}), (("declaration",), []), (("owner",), {}), (("owner", "started"), "x"),
         (("mark",), 5), (("mark",), "nsnet:"), (("group",), 0), (("group",), True), (("lifetime",), "ever"),
         (("state",), {}), (("boot_id",), None), (("netns",), "elsewhere"),
         (("inode",), "1"), (("adopted",), 1), (("pid_namespace",), [])]
# What only show and up read.
UNDECLARED = [(("declaration",), {}), (("declaration", "address"), "nowhere"),
              (("attachments", "va", "spec"), {"address": 7})]
COMMANDS = [["show", "br0"], ["down", "br0"], ["list"], ["gc"], ["exec", "nosuch", "--", "true"]]

ALL_OF_THEM = """
import contextlib, io, traceback
from nsnet.cli import main
path, (wrong, commands) = sys.argv[1], json.loads(sys.argv[2])
with open(path) as file:
    right = file.read()
for place, value in wrong:
    changed = json.loads(right)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if value is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    for words in commands:
        with open(path, "w") as file:
            json.dump(changed, file)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(words)
            except BaseException:
                code = traceback.format_exc()
        with open(path) as file:
            kept = json.load(file) == changed
        print(json.dumps([place, value, words[0], code, out.getvalue(), err.getvalue(), kept]))
with open(path, "w") as file:
    file.write(right)
"""


def test_a_claim_with_missing_or_wrong_keys_is_one_line_to_each_command(host, state, tmp_path):
    """No traceback, nothing removed by half of what it says, and the claim stays for a person to look at."""
    network = declared(host)
    network.up()
    file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.0.0.1/24"})
    with nsnet.Netns.new(beside=host) as box:
        network.attach(box, name="a", address="10.0.0.2/24", host_ifname="va")
        before = links_of(host)
        said = script(host, state, ALL_OF_THEM, str(claim_of(state)[0]),
                      json.dumps([WRONG, [*COMMANDS, ["up", str(file)]]]))
        assert links_of(host) == before
        for place, value, command, code, out, err, kept in map(json.loads, said.splitlines()):
            what = (place, value, command, code, out, err)
            assert code in (0, 1) if command == "list" else code == 1, what
            assert err.count("\n") == (code != 0) and kept, what
        said = script(host, state, ALL_OF_THEM, str(claim_of(state)[0]),
                      json.dumps([UNDECLARED, [["show", "br0"], ["up", str(file)], ["list"]]]))
        for *what, command, code, _, err, kept in map(json.loads, said.splitlines()):
            assert code in ((0, 1) if command == "list" else (1, 2)), (what, command, code, err)
            assert err.count("\n") == (code != 0) and kept, (what, command, err)
        network.down()


def test_what_a_dead_owner_left_is_not_touched_by_who_only_looks(host, state, tmp_path):
    pid = int(script(host, state, """
network = nsnet.Network("br0", address="10.0.0.1/24")
maps = {"uid_map": {0: 0}, "gid_map": {0: 0}}
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), nsnet.DEVNULL)
print(network.launch(["/bin/sleep", "1000"], address="10.0.0.2/24", **quiet, **maps).pid, flush=True)
os._exit(0)
"""))
    file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.0.0.1/24"})
    before = snapshot(host, state)
    for look in (declared(host).faults, declared(host).preview):
        with pytest.raises(nsnet.AlreadyExists, match="up, or gc, removes it"):
            look()
        assert snapshot(host, state) == before and not is_gone(pid)
    done = run_nsnet(host, state, "up", "--dry-run", file)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not declared(host).is_up and snapshot(host, state) == before and not is_gone(pid)
    declared(host).up()                                     # this one may
    assert is_gone(pid) and claim_of(state)[1]["lifetime"] == "declared"
    declared(host).down()


def test_a_lock_file_that_a_cleaner_removed_takes_nobody_his_network(host, state, tmp_path):
    """An ordinary user's state may be below /tmp."""
    with nsnet.Network("br0", address="10.0.0.1/24", netns=host) as network:
        container = network.launch(SLEEP, address="10.0.0.2/24", **SILENT)
        (lock,) = state.glob("*.lock")
        lock.unlink()
        done = run_nsnet(host, state, "gc")
        assert (done.returncode, done.stderr) == (0, "") and "its owner lives" in done.stdout
        file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.0.0.1/24"})
        for words_of in (["down", "br0"], ["up", file], ["up", "--dry-run", file]):
            done = run_nsnet(host, state, *words_of)
            assert done.returncode == 1 and f"process {os.getpid()} has it up" in done.stderr, words_of
        assert container.poll() is None and "br0" in links_of(host)


# --- what a terminal obeys ---

def rename(host, ifname, to):
    host.set_link(ifname, up=False)
    inside(host, [which("ip"), "link", "set", ifname, "name", to], check=True)


def says_harmlessly(host, state, *words, code):
    """What a command says, without a byte that a terminal obeys."""
    done = run_nsnet(host, state, *words)
    said = done.stdout + done.stderr
    assert "\x1b" not in said and "Traceback" not in said, (words, ascii(said))
    assert done.returncode == code and "\\x1b" in said, (words, ascii(said))
    return said


@needs("ip")
def test_names_of_links_reach_no_terminal_as_they_are(host, state, tmp_path):
    """The kernel takes escape sequences for a name."""
    script(host, state, LEFT, "br1")
    rename(host, "br1", f"b{ESCAPE}")
    assert "owner" in says_harmlessly(host, state, "list", code=0)
    assert "removed b\\x1b" in says_harmlessly(host, state, "gc", code=0)
    with resident(host) as (_, pid):
        file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.0.0.1/24", "attachments": [
            {"name": "a", "pid": pid, "address": "10.0.0.2/24", "host_ifname": "va"}]})
        assert run_nsnet(host, state, "up", file).returncode == 0
        rename(host, "va", f"v{ESCAPE}")
        says_harmlessly(host, state, "show", "br0", code=1)
        says_harmlessly(host, state, "up", "--dry-run", file, code=0)
        assert "repaired" in says_harmlessly(host, state, "up", file, code=0) and "va" in links_of(host)
        rename(host, "va", f"v{ESCAPE}")
        assert "removed v\\x1b" in says_harmlessly(host, state, "down", "br0", code=0)


@needs("ip")
def test_aliases_reach_no_terminal_as_they_are(host, state, tmp_path):
    file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.0.0.1/24"})
    assert run_nsnet(host, state, "up", file).returncode == 0
    path, content = claim_of(state)
    host.set_link("br0", ifalias=f"mine{ESCAPE}")
    says_harmlessly(host, state, "down", "br0", code=1)
    rewrite(path, content, state="removing")
    for words in (["gc"], ["up", file], ["down", file]):
        says_harmlessly(host, state, *words, code=1)
    host.set_link("br0", ifalias=content["mark"])
    assert run_nsnet(host, state, "down", "br0").returncode == 0


def test_words_of_a_claim_reach_no_terminal_as_they_are(host, state):
    """Whoever could write one may have written anything."""
    with resident(host) as (_, pid):
        network = declared(host, {"name": "a", "pid": pid, "address": "10.0.0.2/24", "host_ifname": "va"})
        network.up()
        path, content = claim_of(state)
        changed = json.loads(json.dumps(content))
        changed["attachments"]["va"]["name"] = changed["attachments"]["va"]["ifname"] = f"a{ESCAPE}"
        path.write_text(json.dumps(changed))
        says_harmlessly(host, state, "show", "br0", code=0)
        says_harmlessly(host, state, "exec", "nosuch", "--", "/bin/true", code=1)
        says_harmlessly(host, state, "exec", f"no{ESCAPE}", "--", "/bin/true", code=1)
        path.write_text(json.dumps(content))
        network.down()

"""What somebody new to networks stumbled over: what is said, by whom it is, and what can be done about it."""

import json
import os
import subprocess
import sys

import pytest

import nsnet
from live_helpers import (PATIENCE, claims, environment, go_inside, ifnames, inside, is_gone, needs, needs_root,
                          run_nsnet, which)
from network_helpers import SLEEP, V4, declared, entry, route_table, sh, strays, sysctl, up
from nsnet import collection
from nsnet.network import take_down

MADE_BY_OTHERS = """
import os, sys, nsnet
nsnet.Network("br0", address="10.0.0.1/24", lifetime=sys.argv[1]).up()
print("up", flush=True)
sys.stdin.read()
"""


def file_of(tmp_path, **network):
    path = tmp_path / "net.json"
    path.write_text(json.dumps({"bridge": "br0", "address": V4, **network}))
    return path


def test_settle_names_what_is_still_there(host):
    with nsnet.Netns.new(beside=host) as other, up(host) as network:
        attachment = network.attach(other, name="x")
        with network._lock:                                 # the reaper cannot begin
            attachment.detach(wait=False)
            with pytest.raises(nsnet.StillPending) as pending:
                network.settle(timeout=0)
            assert pending.value.pending == ["x"] and "x (down again" in str(pending.value)
        network.settle(PATIENCE)
        assert network.entries() == []


@needs("ip")
def test_a_renamed_uplink_gets_its_forwarding_back(host, state):
    sh(host, "link add up0 type veth peer name up1")
    with up(host, address=["10.0.0.1/24", "fd00::1/64"], forward=["up0"]):
        sh(host, "link set up0 name up9")
        assert sysctl(host, "net/ipv4/conf/up9/forwarding") == "1"
    assert sysctl(host, "net/ipv4/conf/up9/forwarding") == "0"
    assert sysctl(host, "net/ipv6/conf/up9/force_forwarding") == "0" and claims(state) == []
    host.del_link("up9")


@needs("ip")
@pytest.mark.parametrize("family, wrong, right", [("-4", "10.0.0.9", "10.0.0.1"), ("-6", "fd00::9", "fd00::1")])
def test_a_default_route_that_leads_elsewhere_is_led_back(host, family, wrong, right):
    """The kernel takes no second route to a destination with the same metric."""
    with nsnet.Netns.new(beside=host) as other, up(host, address=["10.0.0.1/24", "fd00::1/64"]) as network:
        network.attach(other, name="x", address=["10.0.0.2/24", "fd00::2/64"])
        before = route_table(other)
        sh(other, f"{family} route replace default via {wrong}" + (" metric 1024" if family == "-6" else ""))
        (fault,) = network.faults()
        assert str(fault) == f"x: eth0: route to default via {wrong}, expected default via {right}"
        network.up()
        assert network.faults() == [] and route_table(other) == before


@pytest.mark.parametrize("lifetime", ["owner", "process"])
def test_a_network_of_another_process_is_not_called_a_strangers(host, state, tmp_path, lifetime):
    with subprocess.Popen([sys.executable, "-c", MADE_BY_OTHERS, lifetime], env=environment(state), stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, preexec_fn=go_inside(host.fd)) as owner:
        assert owner.stdout.readline() == b"up\n"
        said = {"owner": "keeps nothing on disk", "process": f"process {owner.pid} has it up"}[lifetime]
        for words in (["down", "br0"], ["up", file_of(tmp_path)]):
            done = run_nsnet(host, state, *words)
            assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done
        assert "br0" in ifnames(host)
        owner.kill()
        owner.wait()
    nsnet.collect(host)
    assert strays(host) == [] and claims(state) == []


def test_a_network_with_another_state_directory_is_told_so(host, state, tmp_path, monkeypatch):
    with up(host) as network:
        with monkeypatch.context() as patch:
            patch.setenv("NSNET_STATE_DIR", str(tmp_path / "another"))
            for call in (declared(host).up, lambda: take_down("br0", netns=host)):
                with pytest.raises(nsnet.AlreadyExists, match="expected the state directory that it was made with"):
                    call()
        assert network.faults() == []


def test_without_privilege_up_is_not_permitted(host):
    """Of a namespace that is not ours to administer."""
    script = ("import nsnet\ntry:\n    nsnet.Network('br0', address='10.0.0.1/24', lifetime='declared').up()\n"
              "except nsnet.NotPermitted as error:\n    print(error)")
    done = inside(host, [which("unshare") or "unshare", "--user", sys.executable, "-c", script],
                  env=environment(os.environ["NSNET_STATE_DIR"]))
    assert "br0: Operation not permitted" in done.stdout and "Netns.host()" in done.stdout, done


def test_a_file_that_is_not_there_is_no_bridge(host, state):
    done = run_nsnet(host, state, "down", "nofile.toml")
    assert done.returncode == 1 and "nofile.toml" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("attachment, said", [
    ({"command": ["/nonexistent/command"]}, "execve"), ({"command": SLEEP, "cwd": "/proc/none"}, "/proc/none"),
    ({"command": SLEEP, "stdout": "/proc/none/x"}, "/proc/none/x"), ({"pin": "nosuch"}, "nosuch"),
    ({"command": SLEEP, "sysctls": {"net.ipv4.nosuch": 1}}, "net.ipv4.nosuch"),
    ({"command": SLEEP, "routes": [{"dst": "10.8.0.0/16", "via": "10.99.0.1"}]}, "10.8.0.0/16"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_fails_is_said_to_be_of_its_attachment(host, state, tmp_path, attachment, said):
    done = run_nsnet(host, state, "up", file_of(tmp_path, attachments=[{"command": SLEEP, "name": "good"},
                                                                       {"name": "bad", **attachment}]))
    assert done.returncode in (1, 2) and done.stderr.startswith("nsnet: br0: bad: ") and said in done.stderr, done
    assert done.stderr.count("\n") == 1 and strays(host) == [] and claims(state) == []


def test_an_uplink_that_is_missing_is_said_to_be_one(host, state, tmp_path):
    done = run_nsnet(host, state, "up", file_of(tmp_path, forward=["nosuch0"]))
    assert (done.returncode, done.stderr) == (1, "nsnet: forward to nosuch0: No such device (ENODEV): an uplink of br0:"
                                                 " expected a link that is there\n")


def test_a_dry_run_says_what_is_done_besides(host, state, tmp_path):
    path = file_of(tmp_path, attachments=[{"command": SLEEP, "name": "a", "sysctls": {"net.ipv4.ip_forward": 1}}])
    done = run_nsnet(host, state, "up", "--dry-run", path)
    assert done.returncode == 0 and strays(host) == []
    for line in ("its addresses are found then", "it runs /bin/sleep 1000", "sysctl net.ipv4.ip_forward = 1"):
        assert f"  {line}\n" in done.stdout


def test_list_says_what_cannot_be_read_and_whose_bridge_is_gone(host, state):
    with up(host):
        host.del_link("br0")
        done = run_nsnet(host, state, "list")
        assert done.returncode == 0 and "up, but its bridge is gone" in done.stdout
    bad = state / "0123456789ab.json"
    bad.write_text("{bad")
    done = run_nsnet(host, state, "list")
    assert done.returncode == 1 and str(bad) in done.stderr and done.stderr.count("\n") == 1
    bad.unlink()


@needs_root
def test_a_namespace_that_is_known_to_be_gone(host, state, monkeypatch):
    """Where not every process is seen, nobody can find that out but the user."""
    monkeypatch.setattr(collection, "_sees_all", lambda: False)
    elsewhere = nsnet.Netns.new()
    with nsnet.Netns.open(f"/proc/self/fd/{elsewhere.fd}") as there:
        network = declared(there, {"name": "a", "command": SLEEP})
        network.up()
        pid = entry(network, "a")["pid"]
    elsewhere.close()
    (path,) = state.glob("*.json")
    assert [path.stem in one for one in nsnet.collect(host).elsewhere] == [True] and not is_gone(pid)
    with pytest.raises(nsnet.UsageError, match="nosuchkey"):
        nsnet.collect(host, gone=["nosuchkey"])
    found = nsnet.collect(host, gone=[path.stem])
    assert found.removed == [f"process {pid}"] and claims(state) == [] and is_gone(pid)
    for container in network._containers.values():          # it is our child
        container.wait(PATIENCE)
        container.close()


def test_a_fork_may_not_bring_it_up(host):
    with nsnet.Network("br0", address=V4, netns=host) as network:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                network.up()
            except nsnet.UsageError as error:
                os.write(writer, str(error).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with open(reader, encoding="utf-8") as file:
            assert "this is a fork" in file.read()
        assert repr(network) == "<Network br0 10.0.0.1/24 up>"
    assert repr(network) == "<Network br0 10.0.0.1/24 down>"


@pytest.mark.parametrize("lifetime", ["process", "declared", "attachments", "owner"])
def test_a_fork_that_leaves_the_block_takes_nothing_away(host, lifetime):
    network = nsnet.Network("br0", address=V4, netns=host, lifetime=lifetime)
    with network:
        with network.launch(SLEEP, address="10.0.0.2/24", host_ifname="v0") as box:
            child = os.fork()
            if not child:
                try:
                    with network:
                        pass
                except nsnet.UsageError:
                    pass
                network.__exit__(None, None, None)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert box.poll() is None and {"br0", "v0"} <= set(ifnames(host)) and network.faults() == []
    network.down()

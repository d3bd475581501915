"""Networks among people who mean ill: in a container, in another namespace, in an alias, on a socket.

Whoever reads what others can write must not be led to kill, change or forget what is somebody else's.
"""

import json
import os
import socket
import subprocess

import pytest

import nsnet
from hostile_helpers import (CONTAINER, LEFT, claim_of, declaration_file, declared, entries_of, process_in, resident,
                             script, snapshot)
from live_helpers import (PATIENCE, Running, Worker, become_nobody, environment, go_inside, has_ended, ifnames, inside,
                          ip_link, is_gone, kill_and_wait, links_of, needs, needs_root, nsnet_argv, read_inside,
                          run_nsnet, which)
from nsnet import collection, kernel, state as state_directory


# --- what is in a container ---

@pytest.mark.parametrize("inner", ["as it is", "by a link"])
def test_the_hosts_own_namespace_is_never_attached(host, state, tmp_path, inner):
    """A path in somebody's directory may become a link to it: the host would get a default route, and settings."""
    itself = f"/proc/{os.getpid()}/fd/{host.fd}"
    place = tmp_path / "ns"
    with resident(host) as (_, pid):
        place.symlink_to(f"/proc/{pid}/ns/net" if inner == "by a link" else itself)
        network = declared(host, {"name": "a", "netns": str(place), "address": "10.0.0.2/24", "host_ifname": "va",
                                  "sysctls": {"net.ipv4.ip_forward": 1}})
        if inner == "by a link":
            network.up()
            place.unlink()
            place.symlink_to(itself)
        before = read_inside(host, "/proc/net/route"), read_inside(host, "/proc/sys/net/ipv4/ip_forward"), ifnames(host)
        with pytest.raises(nsnet.UsageError, match="another network namespace than that of br0"):
            network.up()
        now = read_inside(host, "/proc/net/route"), read_inside(host, "/proc/sys/net/ipv4/ip_forward"), ifnames(host)
        assert now == before
        with pytest.raises(nsnet.UsageError, match="another network namespace than that of br0"):
            network.attach(host, address="10.0.0.3/24")
        assert "eth0" not in links_of(host)
        network.down()


def test_a_container_that_gives_its_links_name_to_another_cannot_escape_down(host, state):
    """Its root may rename what it has. It cannot be repaired then, but its process is not forgotten."""
    network = declared(host, CONTAINER)
    network.up()
    pid = entries_of(state)["a"]["pid"]
    with nsnet.Netns.of_pid(pid) as there, there.batch() as net:    # what it could do by itself
        net.set_link("eth0", up=False)
        net.set_link("eth0", ifname="x")
        net.add_bridge("eth0")
    with pytest.raises(nsnet.AlreadyExists):
        declared(host, CONTAINER).up()
    assert entries_of(state)["a"]["pid"] == pid and not is_gone(pid)
    done = run_nsnet(host, state, "down", "br0")
    assert (done.returncode, done.stderr) == (0, "") and is_gone(pid)


# --- other pid and mount namespaces ---

def inner_pid_namespace(host, state, *words):
    """`nsnet WORDS`, and then a shell that stays, in a pid namespace of their own."""
    command = " ".join(nsnet_argv(*words)) + "; echo done; exec cat"
    return subprocess.Popen([which("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", command],
                            env=environment(state), preexec_fn=go_inside(host.fd), stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_done(process):
    for line in process.stdout:
        if line == "done\n":
            return
    raise AssertionError(process.stderr.read())


def test_a_process_that_has_in_our_pid_namespace_the_number_of_ours_is_not_taken_for_it(host, state, monkeypatch):
    """Its network namespace would be attached, or given a default route: here it is the host's."""
    monkeypatch.setattr(state_directory, "FIRST_PID_NAMESPACE", "pid:[0]", raising=False)
    with resident(host) as (_, pid), process_in(host) as stranger:
        network = declared(host, {"name": "a", "pid": pid, "address": "10.0.0.2/24", "host_ifname": "va"})
        network.up()
        path, content = claim_of(state)
        foreign = json.loads(json.dumps(content))
        foreign["pid_namespace"] = "pid:[1]"
        foreign["attachments"]["va"].update(pid=stranger.pid, started=kernel.started(stranger.pid))
        path.write_text(json.dumps(foreign))
        before = snapshot(host, state), read_inside(host, "/proc/net/route")
        assert network.faults() == [] == network.up()
        assert (snapshot(host, state), read_inside(host, "/proc/net/route")) == before
        assert stranger.poll() is None
        path.write_text(json.dumps(content))
        network.down()


@needs_root
@needs("unshare")
def test_a_claim_of_another_pid_namespace_is_collected_when_that_has_ended(host, state, tmp_path, monkeypatch):
    """As long as it is there, nobody else can look at its processes; only who sees all of them sees that it is not."""
    file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.0.0.1/24", "attachments": [CONTAINER]})
    inner, first = inner_pid_namespace(host, state, "up", file), None
    try:
        until_done(inner)
        with open(f"/proc/{inner.pid}/task/{inner.pid}/children", encoding="ascii") as children:
            first = os.pidfd_open(int(children.read()))
        with process_in(host) as stranger:
            path, content = claim_of(state)
            content["attachments"]["va"].update(pid=stranger.pid, started=kernel.started(stranger.pid))
            path.write_text(json.dumps(content))            # the number that it has in there is somebody's here
            before = links_of(host), path.read_bytes()
            monkeypatch.setattr(state_directory, "FIRST_PID_NAMESPACE", os.readlink("/proc/self/ns/pid"))
            network = declared(host, CONTAINER)
            assert network.up() == []
            with pytest.raises(nsnet.KernelError, match="it is of another pid namespace"):
                network.down()
            content["state"] = "up"
            path.write_text(json.dumps(content))
            assert nsnet.collect(host).kept and (links_of(host), path.read_bytes()) == before
            assert run_nsnet(host, state, "show", "br0").returncode == 0 and stranger.poll() is None
    finally:
        kill_and_wait(inner)                                # and, by --kill-child, all that is in it
        if first is not None:
            assert has_ended(first)
            os.close(first)
    monkeypatch.setattr(state_directory, "FIRST_PID_NAMESPACE", "pid:[0]")     # from another one, it may still be there
    with pytest.raises(nsnet.KernelError, match="it is of another pid namespace"):
        nsnet.network.take_down("br0", netns=host)
    assert nsnet.collect(host).elsewhere and "br0" in links_of(host)
    monkeypatch.setattr(state_directory, "FIRST_PID_NAMESPACE", os.readlink("/proc/self/ns/pid"))
    assert {"va", "br0"} & set(nsnet.collect(host).removed) and "br0" not in links_of(host)


@needs_root
@needs("unshare")
def test_gc_in_a_containers_pid_namespace_does_not_forget_the_hosts_network(host, state, tmp_path):
    """It sees all processes that it can see, and none of the host's; the state directory is shared."""
    file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.0.0.1/24"})
    assert run_nsnet(host, state, "up", file).returncode == 0
    before = snapshot(host, state)
    done = inside(host, [which("unshare"), "-n", "--pid", "--fork", "--mount-proc", *nsnet_argv("gc")],
                  env=environment(state))
    assert (done.returncode, done.stderr) == (0, "") and "it is in another namespace" in done.stdout
    assert snapshot(host, state) == before
    assert run_nsnet(host, state, "down", "br0").returncode == 0


def sees_all(monkeypatch):
    """As in the first pid namespace, with no process out of sight: what is not found may be thought gone."""
    monkeypatch.setattr(collection, "_sees_all", lambda: True)


@needs_root
@needs("unshare")
@needs("nsenter")
def test_a_namespace_that_is_mounted_in_another_mount_namespace_only_is_there(host, state, tmp_path, monkeypatch):
    file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.0.0.1/24", "attachments": [CONTAINER]})
    place = tmp_path / "ns"
    place.write_text("")
    command = (f"{which('unshare')} --net={place} true; {which('nsenter')} --net={place} "
               + " ".join(nsnet_argv("up", file)) + "; echo done; exec cat")
    there = subprocess.Popen([which("unshare"), "-m", "--propagation", "private", "sh", "-c", command], text=True,
                             env=environment(state), preexec_fn=go_inside(host.fd), stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        until_done(there)
        pid = entries_of(state)["a"]["pid"]
        sees_all(monkeypatch)
        found = nsnet.collect(host)
        assert found.removed == [] == found.failed and f"/root{place}" in found.elsewhere[0], found
        assert not is_gone(pid) and claim_of(state)
        done = inside(host, [which("nsenter"), "-t", there.pid, "-m", which("nsenter"), f"--net={place}",
                             *nsnet_argv("down", "br0")], env=environment(state))
        assert done.returncode == 0 and is_gone(pid), done.stderr
    finally:
        kill_and_wait(there)


def test_a_namespace_that_only_a_socket_holds_is_there(host, state, tmp_path, monkeypatch):
    """No path leads to it; the process in its container still has the other end of the veth."""
    file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.0.0.1/24", "attachments": [CONTAINER]})
    with nsnet.Netns.new() as box:
        def enter():                                        # in the child: here no descriptor of it is opened
            go_inside(box.fd)()
        with Running(None, state, "up", file, preexec=enter) as command:
            assert command.end()[0] == 0
        pid = entries_of(state)["a"]["pid"]
        sees_all(monkeypatch)
        found = nsnet.collect(host)
        assert found.removed == [] == found.failed and found.elsewhere, found
        assert not is_gone(pid) and {"br0", "va"} <= set(links_of(box))
        assert run_nsnet(box, state, "down", "br0").returncode == 0 and is_gone(pid)


# --- marks ---

@needs_root
def test_an_alias_that_names_a_process_of_the_host_kills_nobody(host, state):
    """Whoever administers a network namespace, a container's root, may write any alias there."""
    with process_in(host) as victim, nsnet.spawn(["/bin/cat"], new={"user", "net"}, stdin=nsnet.PIPE,
                                                 uid_map={0: 0}, gid_map={0: 0}) as box:
        forged = f"nsnet:0123456789ab:77:{victim.pid}:{kernel.started(victim.pid)}:{os.readlink('/proc/self/ns/pid')}"
        with box.netns.batch() as net:
            link = net.add_bridge("x", group=77)
            net.set_link(link, ifalias=forged)
        done = run_nsnet(box.netns, state, "gc")
        assert done.returncode == 0 and "another user namespace's" in done.stdout, done
        assert victim.poll() is None and "x" in links_of(box.netns)
        box.kill()
        box.wait(PATIENCE)


@needs_root
@needs("ip")
@pytest.mark.parametrize("listens", [True, False], ids=["listening", "bound only"])
def test_a_name_that_another_user_has_taken_keeps_nothing_from_being_collected(host, state, listens):
    """The name of an owner's socket is in the alias, for everybody to read, and free once the owner is dead."""
    script(host, state, LEFT, "br0")
    name = "\0" + ":".join(ip_link(host, "br0")["ifalias"].split(":")[:2])

    def squat(channel):
        go_inside(host.fd)()
        become_nobody()
        taken = [socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
        for one in taken:
            one.bind(name)
        if listens:
            taken[0].listen(1)
        channel.send(b"x")
        channel.recv(1)
        return "squatted"
    with Worker(squat) as squatter:
        done = run_nsnet(host, state, "gc")
        assert (done.returncode, done.stdout, done.stderr) == (0, "removed br0\n", "") and "br0" not in links_of(host)
    assert squatter.said == "squatted"


def test_a_name_that_an_owner_of_our_user_has_is_not_taken_from_it(host, state):
    with nsnet.Network("br0", address="10.0.0.1/24", lifetime="owner", netns=host):
        done = run_nsnet(host, state, "gc")
        assert done.returncode == 0 and "its owner lives" in done.stdout and "br0" in links_of(host)

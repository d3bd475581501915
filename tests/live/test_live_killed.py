"""SIGKILL at any moment, then `python -m nsnet gc`: no link, no process and no claim of ours is left; and gc by itself.

strace kills the demo when it is about to make its n-th system call of a kind. It is attached when the interpreter has
loaded everything, so that n counts the demo's own calls only: a first run counts them, then every n is tried.
"""

import collections
import json
import os
import re
import signal
import subprocess
import sys

import pytest

import nsnet
from live_helpers import (PATIENCE, Running, children, claims, environment, go_inside, has_ended, ifnames, in_parallel,
                          inside, ip_link, is_gone, links_of, needs, run_nsnet, which)

# Calls of the demo's own process by which it changes something, or waits for somebody.
CALLS = ["sendto", "recvmsg", "openat", "close", "ioctl", "fsync", "rename", "unlink", "flock", "clone3", "socketpair",
         "write", "pidfd_send_signal", "poll", "socket", "getrandom", "fcntl"]
LEAST = 60                                                  # points that the sweep must have
MOST_OF_A_KIND = 9


LOADED = """
import ctypes, sys
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)       # PR_SET_PTRACER: where only that lets strace in
from nsnet.cli import main, demo, echo, gc
import json, nsnet.ownership
print("loaded", flush=True)
sys.stdin.readline()
sys.exit(main(sys.argv[1:]))
"""


def traced(host, state, words, log, *filters):
    """Run nsnet under strace to its end, however that comes; returns its status."""
    nsnet_itself = subprocess.Popen(
        [sys.executable, "-c", LOADED, *words], env=environment(state), stdin=subprocess.PIPE, bufsize=0,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=go_inside(host.fd))
    assert nsnet_itself.stdout.readline() == b"loaded\n"
    tracer = subprocess.Popen(
        [which("strace"), "-p", str(nsnet_itself.pid), "-o", str(log), *filters], text=True, bufsize=1,
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=go_inside(host.fd))
    try:
        assert "attached" in tracer.stderr.readline()
        nsnet_itself.stdin.write(b"\n")                     # now it may begin
        return nsnet_itself.wait(PATIENCE)
    finally:
        if nsnet_itself.poll() is None:
            nsnet_itself.kill()
        nsnet_itself.communicate()
        tracer.communicate()


def calls_in(log):
    """[(name, n)] of the system calls of the demo, in the order in which they were made."""
    counts = collections.Counter()
    found = []
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match:
            counts[match.group(1)] += 1
            found.append((match.group(1), counts[match.group(1)]))
    return found


def launched_in(log):
    """The processes that the demo made."""
    return [int(pid) for pid in re.findall(r"^clone3?\(.* = (\d+)$", log.read_text(errors="replace"), re.MULTILINE)]


def spread(items, most):
    """At most so many of them, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


@needs("strace")
def test_killed_at_any_system_call_gc_leaves_nothing(tmp_path):
    with nsnet.Netns.new() as host:
        host.set_link("lo", up=True)
        log = tmp_path / "count.log"
        assert traced(host, tmp_path / "count", ["demo", "--json"], log, "-e", "trace=" + ",".join(CALLS)) == 0
    calls = calls_in(log)
    points = [point for name in CALLS for point in spread([call for call in calls if call[0] == name], MOST_OF_A_KIND)]
    assert len(points) >= LEAST, points

    def kill_at(point):
        name, number = point
        state, log = tmp_path / f"{name}{number}", tmp_path / f"{name}{number}.log"
        with nsnet.Netns.new() as host:
            host.set_link("lo", up=True)
            status = traced(host, state, ["demo", "--json"], log, "-e", f"trace={name},clone3", "-e",
                            f"inject={name}:signal=KILL:when={number}")
            before = [link.ifname for link in host.links() if link.kind in ("bridge", "veth")]
            done = run_nsnet(host, state, "gc")
            links = [link.ifname for link in host.links() if link.kind in ("bridge", "veth")]
            processes = [pid for pid in launched_in(log) if not is_gone(pid)]
            return point, status, before, (done.returncode, done.stderr, links, processes, claims(state))

    results = in_parallel(kill_at, points, workers=5)
    for point, status, _, end in results:
        assert status in (0, -signal.SIGKILL), point        # poll is not made equally often each time
        assert end == (0, "", [], [], []), point
    assert sum(status == -signal.SIGKILL for _, status, *_ in results) >= LEAST
    assert sum(bool(before) for _, _, before, _ in results) >= 10           # gc had something to do


# --- gc by itself ---

VICTIM = """
import os, sys, nsnet
network = nsnet.Network("br0", address="10.0.0.1/24")
maps = {"uid_map": {0: 0}, "gid_map": {0: 0}}
held = network.launch(["/bin/cat"], address="10.0.0.2/24", host_ifname="v0", hold=True, stdin=nsnet.DEVNULL, **maps)
run = network.launch(["/bin/sleep", "1000"], address="10.0.0.3/24", host_ifname="v1", stdin=nsnet.DEVNULL,
                     stdout=nsnet.DEVNULL, stderr=nsnet.DEVNULL, **maps)
other = nsnet.Netns.open(sys.argv[1])
network.attach(other, address="10.0.0.4/24", host_ifname="v2")
print(held.pid, run.pid, flush=True)
sys.stdin.read()
"""


class Victim:
    """A process with a network of three attachments, which can be killed in the middle of its life."""

    def __init__(self, host, state):
        self.other = nsnet.Netns.new(beside=host)
        self.popen = subprocess.Popen([sys.executable, "-c", VICTIM, f"/proc/self/fd/{self.other.fd}"], text=True,
                                      env=environment(state), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      pass_fds=[self.other.fd], preexec_fn=go_inside(host.fd))
        self.pids = [int(word) for word in self.popen.stdout.readline().split()]
        assert len(self.pids) == 2

    def kill(self):
        self.popen.kill()
        self.popen.communicate()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.popen.poll() is None:
            self.kill()
        self.other.close()


def test_gc_removes_what_a_killed_process_left(host, state):
    with Victim(host, state) as victim:
        assert {"br0", "v0", "v1", "v2"} <= set(ifnames(host))
        victim.kill()
        assert "br0" in ifnames(host) and not is_gone(victim.pids[1])
        done = run_nsnet(host, state, "gc")
        assert (done.returncode, done.stderr) == (0, "")
        assert "removed br0" in done.stdout and f"removed process {victim.pids[1]}" in done.stdout
        assert not {"br0", "v0", "v1", "v2"} & set(ifnames(host)) and "eth0" not in ifnames(victim.other)
        assert all(is_gone(pid) for pid in victim.pids)
        again = run_nsnet(host, state, "gc")
        assert (again.returncode, again.stdout) == (0, "nothing to remove\n")


def test_gc_leaves_live_networks_alone(host, state):
    with nsnet.Network("br0", address="10.0.0.1/24", netns=host) as network:
        with network.launch(["/bin/cat"], address="10.0.0.2/24", stdin=nsnet.PIPE) as container:
            before = links_of(host), claims(state)
            done = run_nsnet(host, state, "gc")
            assert (done.returncode, done.stderr) == (0, "") and re.search("left br0.*owner lives", done.stdout)
            assert (links_of(host), claims(state)) == before and container.poll() is None
            report = json.loads(run_nsnet(host, state, "gc", "--json").stdout)
            assert set(report) == {"removed", "alive", "kept", "elsewhere", "failed"} and len(report["alive"]) == 1


def test_a_live_and_a_dead_network_side_by_side(host, state):
    with nsnet.Network("alive", address="10.1.0.1/24", netns=host), Victim(host, state) as victim:
        victim.kill()
        done = run_nsnet(host, state, "gc")
        assert done.returncode == 0 and "removed br0" in done.stdout and "left alive" in done.stdout
        assert "alive" in ifnames(host) and "br0" not in ifnames(host)


def test_several_gc_at_once(host, state):
    with Victim(host, state) as victim:
        victim.kill()
        running = [Running(host, state, "gc") for _ in range(4)]
        try:
            ends = [gc.end() for gc in running]
        finally:
            for gc in running:
                gc.__exit__()
        assert [(code, err) for code, _, err in ends] == [(0, "")] * 4, ends
        assert not {"br0", "v0", "v1", "v2"} & set(ifnames(host))
        assert all(is_gone(pid) for pid in victim.pids) and claims(state) == []


@needs("strace")
def test_a_gc_that_is_killed_can_be_repeated(tmp_path):
    """Killed before each of its netlink sends and unlinks; the next one finishes."""
    def kill_gc(point):
        name, number = point
        state = tmp_path / f"{name}{number}"
        with nsnet.Netns.new() as host:
            host.set_link("lo", up=True)
            with Victim(host, state) as victim:
                victim.kill()
                first = traced(host, state, ["gc"], tmp_path / f"{name}{number}.log", "-e", f"trace={name}", "-e",
                               f"inject={name}:signal=KILL:when={number}")
                second = run_nsnet(host, state, "gc")
                links = [link.ifname for link in host.links() if link.kind in ("bridge", "veth")]
                return (point, first, second.returncode, second.stderr, links,
                        [pid for pid in victim.pids if not is_gone(pid)], claims(state))

    points = [("sendto", 1), ("sendto", 2), ("recvmsg", 1), ("unlink", 1), ("unlink", 2), ("unlink", 3), ("flock", 1),
              ("pidfd_open", 1), ("pidfd_send_signal", 1), ("pidfd_send_signal", 2)]
    results = in_parallel(kill_gc, points)
    for point, first, second, err, *left in results:
        assert (second, err, left) == (0, "", [[], [], []]), point
    assert sum(first == -signal.SIGKILL for _, first, *_ in results) >= 8, results


@needs("ip")
@pytest.mark.parametrize("how", ["our name", "our group", "our alias", "our prefix"])
def test_gc_leaves_strangers_alone(host, state, how):
    with Victim(host, state) as victim:
        mark = ip_link(host, "br0")
        victim.kill()
        name = {"our name": "v0", "our prefix": "br0-other"}.get(how, "theirs")
        if how == "our name":
            inside(host, [which("ip"), "link", "delete", "v0"])
        inside(host, [which("ip"), "link", "add", name, "type", "bridge"], check=True)
        if how == "our group":
            inside(host, [which("ip"), "link", "set", name, "group", mark["group"]], check=True)
        if how == "our alias":
            inside(host, [which("ip"), "link", "set", name, "alias", mark["ifalias"]], check=True)
        before = ip_link(host, name)
        done = run_nsnet(host, state, "gc")
        assert (done.returncode, done.stderr) == (0, "") and ip_link(host, name) == before
        assert not {"br0", "v1", "v2"} & set(ifnames(host))
        inside(host, [which("ip"), "link", "delete", name], check=True)


def test_gc_in_another_namespace_leaves_it_to_a_gc_in_the_right_one(host, state):
    with Victim(host, state) as victim, nsnet.Netns.new(beside=host) as elsewhere:
        victim.kill()
        done = run_nsnet(elsewhere, state, "gc")
        assert done.returncode == 0 and "it is in another namespace" in done.stdout and "br0" in ifnames(host)
        done = run_nsnet(host, state, "gc")
        assert done.returncode == 0 and "br0" not in ifnames(host)


def claim_in(state):
    (path,) = state.glob("*.json")
    return path


def test_a_claim_from_before_the_last_boot_is_forgotten(host, state):
    """What it names is gone from the kernel; a link or process of that name or number is somebody else's."""
    with Victim(host, state) as victim:
        victim.kill()
        path = claim_in(state)
        real = path.read_text()
        path.write_text(json.dumps({**json.loads(real), "boot_id": "00000000-0000-0000-0000-000000000000"}))
        done = run_nsnet(host, state, "gc")
        assert (done.returncode, done.stderr) == (0, "") and claims(state) == []
        assert "br0" in ifnames(host) and not is_gone(victim.pids[1])
        path.write_text(real)                               # as it was: now it is collected
        assert run_nsnet(host, state, "gc").returncode == 0 and "br0" not in ifnames(host) and is_gone(victim.pids[1])


def test_a_process_that_has_the_number_of_ours_is_not_killed(host, state):
    """Its start time differs from the one that was recorded."""
    with Victim(host, state) as victim:
        victim.kill()
        path = claim_in(state)
        claim = json.loads(path.read_text())
        for entry in claim["attachments"].values():
            if "pid" in entry:
                entry["started"] += 1
        path.write_text(json.dumps(claim))
        done = run_nsnet(host, state, "gc")
        assert done.returncode == 0 and "br0" not in ifnames(host)
        pidfd = os.pidfd_open(victim.pids[1])
        try:
            assert not is_gone(victim.pids[1])
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert has_ended(pidfd)
        finally:
            os.close(pidfd)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 99}', b'{"version": 1}', b"\xff\xfe", b"null",
                                     b"[" * 5000, b'{"version": 1, "attachments": 3, "boot_id": 4}'], ids=repr)
def test_a_claim_that_makes_no_sense_is_reported_and_kept(host, state, content):
    state.mkdir(mode=0o700)
    path = state / "0123456789ab.json"
    path.write_bytes(content)
    done = run_nsnet(host, state, "gc")
    assert done.returncode == 1 and str(path) in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr and path.exists()
    for name in claims(state):
        (state / name).unlink()


def test_gc_where_nothing_ever_was(host, state):
    done = run_nsnet(host, state, "gc")
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to remove\n", "")


def test_collect_is_a_call_of_the_library(host, state):
    with Victim(host, state) as victim:
        victim.kill()
        found = nsnet.collect(host)
        assert {"br0", "v2", f"process {victim.pids[1]}"} <= set(found.removed) and not found.failed
        assert children() == set()

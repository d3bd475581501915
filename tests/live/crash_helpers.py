"""A network in a throw-away host: how it may be when a command begins, and what of it is there when that has ended.

The witnesses are /proc, files, and packets; not nsnet.
"""

import collections
import contextlib
import json
import os
import re
import signal

import nsnet
from crash_runner import OTHER_FD, Started
from live_helpers import claims, has_ended

BRIDGE, UPLINK, SYSCTL = "br0", "up0", "net/ipv4/ip_unprivileged_port_start"
GATEWAY, COMMAND, OTHER = "10.0.0.1", "10.0.0.2", "10.0.0.3"          # "auto" gives the lowest that is free
ALL = os.environ.get("NSNET_HYPOTHESIS") == "long"


class Place:
    """A host with an uplink, a namespace to be attached, a state directory, and the file that declares what is to be.

    `lifetime`: of the network; `runner`: of whom its commands are forks.
    """

    def __init__(self, directory, runner, lifetime="declared"):
        self.directory, self.runner, self.lifetime = directory, runner, lifetime
        self.state, self.file, self.log = directory / "state", directory / "network.json", directory / "log"
        directory.mkdir()
        with contextlib.ExitStack() as opened:
            self.host = opened.enter_context(nsnet.Netns.new())
            self.other = opened.enter_context(nsnet.Netns.new(beside=self.host))
            self.host.set_link("lo", up=True)
            self.host.add_veth(UPLINK, peer="up1", up=True)
            self._opened = opened.pop_all()
        self.file.write_text(json.dumps({
            "bridge": BRIDGE, "address": f"{GATEWAY}/24", "lifetime": lifetime,
            "forward": [] if lifetime == "owner" else [UPLINK], "attachments": [
                {"name": "one", "command": ["/bin/sleep", "1000"], "address": "auto", "sysctls": {SYSCTL: 7}},
                {"name": "two", "netns": f"/proc/self/fd/{OTHER_FD}", "address": f"{OTHER}/24",
                 "host_ifname": "v2"}]}))
        self.before = self.look()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.runner.children():                  # of a test that failed
            os.kill(pid, signal.SIGKILL)
        self._opened.close()

    # --- commands ---

    def nsnet(self, *words, strace=()):
        """One command, to its end; `strace`: how it is traced, into self.log."""
        words = [*words, self.file] if words == ("up",) else words
        with Started(self, words) as started:
            return started.end(strace, self.log)

    def up(self):
        return self.nsnet("up")

    def down(self):
        return self.nsnet("down", BRIDGE)

    # --- witnesses ---

    def look(self):
        """What must be as it was: links, forwarding."""
        return self.runner.witness(self.host.fd, "look"), self.runner.witness(self.other.fd, "look")["links"]

    def claim(self):
        """The one that is on disk, None if there is none."""
        found = list(self.state.glob("*.json"))
        return json.loads(found[0].read_text()) if found else None

    def left(self):
        """What of a network there is, in words; nothing if all is as it was."""
        found = [f"process {pid}" for pid in self.runner.children() if not _ends(pid)]
        found += [f"file {name}" for name in claims(self.state)]
        found += [f"lease of {path.name}" for path in self.state.glob("leases/*/[0-9]*.*")]
        now = self.look()
        return found if now == self.before else [*found, now]

    def lacks(self):
        """What is not as declared, in words."""
        claim, now = self.claim(), self.look()
        if claim is None:
            return ["a claim"]
        found = [] if claim["state"] == "up" else [f"state up: {claim['state']}"]
        found += [f"{name} ready" for name, entry in claim["attachments"].items() if not entry["ready"]]
        wanted = sorted({*self.before[0]["links"], BRIDGE, *claim["attachments"]})
        if len(claim["attachments"]) != 2 or now[0]["links"] != wanted or now[1] != ["eth0", "lo"]:
            found.append(f"links {wanted}: {now}")
        found += [f"forwarding of {name}" for name in (BRIDGE, UPLINK) if now[0]["forwarding"].get(name) != "1"]
        if now[0]["forwarding"]["all"] != self.before[0]["forwarding"]["all"]:
            found.append("the global switch as it was")
        if not any(path.name == COMMAND for path in self.state.glob("leases/*/*")):
            found.append("the lease")
        processes = self.runner.children()
        if len(processes) != 1:
            return [*found, f"one process: {processes}"]
        with open(f"/proc/{processes[0]}/ns/net", "rb") as inside:
            if self.runner.witness(inside.fileno(), "look")["port_start"] != "7":
                found.append("the sysctl")
            roads = [(self.host.fd, COMMAND), (self.host.fd, OTHER), (self.other.fd, COMMAND),
                     (inside.fileno(), GATEWAY)]
            return found + [f"a way to {ip}" for fd, ip in roads if not self.runner.witness(fd, "reach", ip)]


def _ends(pid):
    """What was parked or at work for a command that was killed finds that out by itself."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return has_ended(pidfd, 5)
    finally:
        os.close(pidfd)


# --- how it may be when a command begins ---

def broken(place):
    """Up, and then not as declared any more."""
    done(place.up())
    (process,) = place.runner.children()
    os.kill(process, signal.SIGKILL)
    place.host.del_address(BRIDGE, "10.0.0.1/24")
    place.host.del_link("v2")
    place.host.set_link(BRIDGE, up=False)
    place.host.set_conf(UPLINK, forwarding=0)


def abandoned(place):
    """Bring it up by a process that is killed."""
    reader, writer = os.pipe()
    with Started(place, ["up", place.file, "--foreground"], writer) as started:
        started.go()
        with open(reader, encoding="ascii") as said:
            assert any("Up until" in line for line in said), started.said()
        os.kill(started.pid, signal.SIGKILL)
        assert started.wait().status == -signal.SIGKILL


def done(ended):
    assert (ended.status, ended.err) == (0, ""), ended
    return ended


# --- points ---

def calls_in(log, state, but="$^"):
    """[(name, n)] of the system calls of a traced command in their order, from the first that has to do with its state.

    Without what it says in the end, and those that match `but`.
    """
    counts, found, begun = collections.Counter(), [], False
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match:
            counts[match.group(1)] += 1
            begun = begun or str(state) in line
            if begun and not re.match(f"write.1, |{but}", line):
                found.append((match.group(1), counts[match.group(1)]))
    return found


def counted(directory, runner, lifetime, begin, words, but="$^"):
    """The calls of a command that is left alone, from where `begin` takes a network to; nothing is left then."""
    with Place(directory, runner, lifetime) as place:
        if begin is not None:
            begin(place)
        done(place.nsnet(*words, strace=["-e", "trace=all"]))
        calls = calls_in(place.log, place.state, but)
        done(place.nsnet("gc"))
        done(place.down())
        assert place.left() == []
    return calls


def spread(items, most):
    """At most so many of them, the first and the last among them."""
    if len(items) <= most or most < 2:
        return items[:most]
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]

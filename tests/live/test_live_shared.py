"""Networks shared by processes that come, go and are killed: one state directory, one namespace, nothing left.

The workers write what they do into one log, whose order is that of their appends: what an address is held by is known
from when attach() has returned until detach begins. The check over it finds an address that two held at a time.
"""

import collections
import json
import os
import random
import select
import signal
import threading
import time
import traceback

import pytest

import nsnet
from live_helpers import PATIENCE, claims, ifnames, inside, ip, is_gone, links_of, needs, run_nsnet, which
from nsnet import ownership
from nsnet.leases import disk
from nsnet.network import take_down

SOAK = os.environ.get("NSNET_HYPOTHESIS") == "long"         # the long profile of the other long tests
SECONDS = 120 if SOAK else 2.0                              # for each lifetime
SEED = 5
ADDRESS = "10.0.0.1/27"
CAT = ["/bin/cat"]


# --- processes of ours ---

class Forked:
    """A process that runs `work(stop_fd)`, until it returns or is killed; what it had to complain of is `failed`."""

    def __init__(self, work):
        self.stop_fd, self._stop = os.pipe()
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            failed = b""
            try:
                os.close(reader)
                work(self.stop_fd)
            except BaseException:                           # noqa: B902  told to the parent
                failed = traceback.format_exc().encode()
            os.write(writer, failed)
            os._exit(0)
        os.close(writer)
        self._reader = reader

    def end(self):
        """Let it come to its end; "" or its traceback."""
        os.write(self._stop, b".")                          # not its end of file: who was forked later has it too
        os.close(self._stop)
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        in_time = poll.poll(PATIENCE * 1000)
        if not in_time:
            os.kill(self.pid, signal.SIGKILL)
        failed = b"".join(iter(lambda: os.read(self._reader, 65536), b""))
        self._collect()
        return failed.decode() if in_time else "it did not end in time"

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.close(self._stop)
        self._collect()

    def _collect(self):
        os.waitpid(self.pid, 0)
        os.close(self._reader)
        os.close(self.stop_fd)


def is_over(fd):
    return bool(select.select([fd], [], [], 0)[0])


class Worker:
    """Brings the network up and down at random, attaches and detaches; in a process of its own."""

    def __init__(self, host_fd, lifetime, seed, log_fd, beat_fd):
        self.lifetime, self.random, self.log_fd, self.beat_fd = lifetime, random.Random(seed), log_fd, beat_fd
        self.here = nsnet.Netns.open(f"/proc/self/fd/{host_fd}")        # not private: its leases outlive the network
        declared = [{"name": "server", "command": ["/bin/sleep", "1000"]}] if lifetime == "declared" else []
        self.network = nsnet.Network("br0", address=ADDRESS, netns=self.here, lifetime=lifetime, attachments=declared)
        self.held = []

    def __call__(self, stop_fd):
        while not is_over(stop_fd):
            getattr(self, self.lifetime)()
            os.write(self.beat_fd, b".")

    def say(self, what, *words):
        os.write(self.log_fd, " ".join([str(os.getpid()), what, *words, "\n"]).encode())

    def process(self):
        try:
            self.network.up()
        except nsnet.AlreadyExists:                         # the other's turn
            select.select([], [], [], self.random.uniform(0, 0.003))
            return
        for _ in range(self.random.randrange(3)):
            self.attach()
        self.let_go(self.held)
        self.network.down()
        self.held.clear()

    def attachments(self):
        for _ in range(self.random.randrange(1, 4)):
            self.attach()
            if self.held and self.random.random() < 0.4:
                self.detach(self.random.choice(self.held))
        while self.held:
            self.detach(self.held[-1])

    def declared(self):
        choice = self.random.random()
        if choice < 0.15:
            self.say("down")
            self.network.down()
            self.say("downed")
            self.held.clear()
        elif choice < 0.35:
            self.network.up()
        elif choice < 0.75 or not self.held:
            self.attach()
        else:
            self.detach(self.random.choice(self.held))
        if len(self.held) > 3:
            self.detach(self.held[0])

    def attach(self):
        """By a name that both want, or one of its own, or none; a namespace, or a process."""
        name = self.random.choice(["both", f"own{os.getpid()}", None])
        self.say("try")
        netns = None
        try:
            if self.random.random() < 0.25:
                container = self.network.launch(CAT, name=name, stdin=nsnet.PIPE, stdout=nsnet.DEVNULL)
                one, thing = container.attachment, container
            else:
                netns = nsnet.Netns.new(beside=self.here)
                one = thing = self.network.attach(netns, name=name)
        except nsnet.UsageError as error:                   # the name is taken: by the other, or by one that was killed
            assert "it stands for two attachments" in str(error)
            if netns is not None:
                netns.close()
            return
        self.say("hold", one.addresses[0])
        os.write(self.beat_fd, b",")
        self.held.append((one, thing, netns))

    def let_go(self, held):
        for one, _, _ in held:
            self.say("free", one.addresses[0])
        for _, _, netns in held:
            if netns is not None and self.random.random() < 0.5:
                netns.close()                               # the kernel takes the link before nsnet does, or after

    def detach(self, held):
        self.held.remove(held)
        self.let_go([held])
        os.write(self.beat_fd, b",")
        one, thing, netns = held
        if thing is not one:
            thing.remove()
        else:
            self.network.detach_many([one.name if self.random.random() < 0.5 and one.name.startswith("own") else one])
        if netns is not None:
            netns.close()


def double_leases(log):
    """[(address, one pid, the other's)], and how many leases were looked at.

    What down() takes from the others they do not know of, so what was attached before or while one ran is not counted.
    """
    holder, tried, downs, epoch, dead = {}, {}, set(), 0, set()
    double, seen = [], 0
    for line in log.splitlines():
        pid, what, *words = line.split()
        if pid in dead:
            continue
        if what == "try":
            tried[pid] = epoch, not downs
        elif what == "hold" and tried[pid] == (epoch, True) and not downs:
            seen += 1
            if words[0] in holder:
                double.append((words[0], holder[words[0]], pid))
            holder[words[0]] = pid
        elif what == "free" and holder.get(words[0]) == pid:
            del holder[words[0]]
        elif what == "down":
            downs.add(pid)
            holder.clear()
        elif what in ("downed", "dead"):
            if what == "dead":
                dead.add(pid)
                holder = {address: who for address, who in holder.items() if who != pid}
            if pid in downs:
                downs.discard(pid)
                epoch += 1
    return double, seen


def test_the_check_of_the_log_finds_what_it_looks_for():
    assert double_leases("1 try\n1 hold a\n2 try\n2 hold b\n1 free a\n2 try\n2 hold a\n") == ([], 3)
    assert double_leases("1 try\n2 try\n1 hold a\n2 hold a\n") == ([("a", "1", "2")], 2)
    assert double_leases("1 try\n1 hold a\n1 dead\n2 try\n2 hold a\n1 hold a\n") == ([], 2)
    assert double_leases("1 try\n1 hold a\n2 down\n2 downed\n3 try\n3 hold a\n") == ([], 2)
    assert double_leases("1 try\n2 down\n2 downed\n1 hold a\n3 try\n3 hold a\n3 try\n3 hold a\n") == ([("a", "3", "3")], 2)


# --- those who have nothing to do with it ---

class Strangers:
    """Bridges with the prefix of ours, and each with one of our marks of the moment: its alias, or its group."""

    def __init__(self, host, state):
        self.host, self.state = host, state
        self.ip("link", "add", "br0-alias", "type", "bridge")
        self.ip("link", "add", "br0-group", "type", "bridge")
        self.ip("address", "add", "10.0.0.1/27", "dev", "br0-alias")
        self.before = self.look()

    def ip(self, *words):
        inside(self.host, [which("ip"), *words], check=True)

    def look(self):
        return [ip(self.host, "address", "show", name) for name in ("br0-alias", "br0-group")]

    def mark(self, grouped):
        """Take the marks that are in the claim now, if there is one. Without a stranger in our group, the kernel is
        asked for all of the group at once."""
        assert self.look() == self.before
        for path in self.state.glob("*.json"):
            # Who joins a group between the look at it and its delete goes with it, so only while nobody is at work there
            held = ownership.lock(str(self.state), path.stem, 0.2)
            if held is None:
                continue
            with held:
                claim = ownership.load(str(self.state), path.stem)
                if claim is None:
                    ownership.forget(str(self.state), path.stem)
                    continue
                self.ip("link", "set", "br0-alias", "alias", claim.mark)
                self.ip("link", "set", "br0-group", "group", str(claim.group if grouped else 0))
        self.before = self.look()

    def end(self):
        assert self.look() == self.before
        for name in ("br0-alias", "br0-group"):
            self.ip("link", "delete", name)


def leased(state):
    """All addresses that are leased, by the files."""
    place = state / "leases"
    return [record for name in (os.listdir(place) if place.is_dir() else ())
            for record in disk.read_records(str(place / name))]


# --- two at random, and a third that kills ---

@needs("ip")
@pytest.mark.parametrize("lifetime", ["process", "attachments", "declared"])
def test_two_bring_it_up_and_down_while_a_third_kills_them(host, state, tmp_path, lifetime):
    generator = random.Random(SEED)
    host_fd, strangers = host.fd, Strangers(host, state)
    log_fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    beats, beat_fd = os.pipe()
    seeds = iter(range(SEED, 10**9))
    workers, failed = [], []
    figures = collections.Counter()

    def start():
        seed = next(seeds)
        workers.append(Forked(lambda stop_fd: Worker(host_fd, lifetime, seed, log_fd, beat_fd)(stop_fd)))
    try:
        start()
        start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            beaten = b""
            while len(beaten) < 6 and select.select([beats], [], [], PATIENCE)[0]:
                beaten += os.read(beats, 100)
            select.select([], [], [], generator.uniform(0, 0.03))       # at any moment of a cycle
            victim = workers.pop(generator.randrange(2))
            os.write(log_fd, f"{victim.pid} dead\n".encode())
            victim.kill()
            start()
            found = nsnet.collect(host)
            assert found.failed == [] and found.elsewhere == [], found
            strangers.mark(generator.random() < 0.5)
            figures["cycles"] += beaten.count(b".")
            figures["kills"] += 1
    finally:
        failed = [worker.end() for worker in workers]
        os.close(beats)
        os.close(beat_fd)
        content = os.pread(log_fd, 1 << 28, 0).decode()
        os.close(log_fd)
    assert failed == ["", ""], failed
    if lifetime == "declared":
        take_down("br0", netns=host)
    # What those that were killed had attached goes with their namespaces, when the kernel comes to it.
    with host.monitor("link") as monitor:
        while any(link.kind == "veth" for link in host.links()):
            assert monitor.read(timeout=PATIENCE) is not None
    done = run_nsnet(host, state, "gc")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert claims(state) == [] and leased(state) == [], (done.stdout, [path.read_text() for path in state.glob("*.json")])
    assert set(ifnames(host)) == {"lo", "br0-alias", "br0-group"}
    strangers.end()
    double, seen = double_leases(content)
    print(f"{lifetime}: {figures['cycles']} cycles, {figures['kills']} kills, {seen} leases, {len(content)} bytes of log")
    assert double == [] and seen > 5 and figures["kills"] > 2, (double, seen, figures)


# --- eight at once ---

EIGHT = 8


def at_once(work, count=EIGHT):
    """[work(number)] of so many processes that begin together; what it returns is fit for JSON."""
    gate, opener = os.pipe()
    asked = []
    for number in range(count):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(opener)
                os.read(gate, 1)                            # its end of file
                said = work(number)
            except BaseException:                           # noqa: B902  told to the parent, which compares
                said = {"failed": traceback.format_exc()}
            os.write(writer, json.dumps(said).encode())
            os._exit(0)
        os.close(writer)
        asked.append((pid, reader))
    os.close(gate)
    os.close(opener)
    answers = []
    for pid, reader in asked:
        with open(reader, encoding="utf-8") as file:
            answers.append(json.load(file))
        os.waitpid(pid, 0)
    return answers


DECLARED = {"bridge": "br0", "address": ADDRESS, "lifetime": "declared", "attachments": [
    {"name": "one", "command": ["/bin/sleep", "1000"]}, {"name": "two", "command": ["/bin/sleep", "1000"]}]}


def declared(host):
    return nsnet.Network.from_dict(DECLARED, netns=host)


def pids_of(network):
    return {entry["name"]: entry["pid"] for entry in network.entries()}


def test_eight_up_at_once_one_builds_and_the_others_find_it_as_declared(host):
    host.fd
    answers = at_once(lambda _: len(declared(host).up()))
    network = declared(host)
    pids = pids_of(network)
    try:
        assert sorted(answers) == [0] * 7 + [3], answers            # the bridge, and two attachments
        assert network.up() == [] and network.is_up and sorted(pids) == ["one", "two"]
        assert len([name for name in ifnames(host) if name != "lo"]) == 3
    finally:
        network.down()
    assert all(map(is_gone, pids.values()))


@pytest.mark.parametrize("how", ["down", "take_down"])
def test_eight_take_it_down_at_once_and_each_finds_it_gone(host, state, how):
    for _ in range(3):
        network = declared(host)
        network.up()
        pids = pids_of(network)

        def take_it(_):
            return declared(host).down() if how == "down" else take_down("br0", netns=host)
        answers = at_once(take_it)
        assert all(answer is None or isinstance(answer, list) for answer in answers), answers
        if how == "take_down":
            assert sum("br0" in answer for answer in answers) == 1 and answers.count([]) == 7, answers
        assert ifnames(host) == ["lo"] and claims(state) == [] and all(map(is_gone, pids.values()))


def test_four_up_and_four_down_at_once_it_is_there_or_not_but_whole(host, state):
    for number in range(4 if not SOAK else 100):
        answers = at_once(lambda number: len(declared(host).up() if number % 2 else declared(host).down() or []))
        assert all(isinstance(answer, int) for answer in answers), answers
        network = declared(host)
        there = "br0" in ifnames(host)
        assert network.is_up == there == bool(claims(state)), number
        assert not there or network.faults() == []
    network.down()
    assert ifnames(host) == ["lo"]


@pytest.mark.parametrize("lifetime", ["process", "owner", "declared"])
def test_eight_threads_take_one_network_down_at_once(host, state, lifetime):
    network = nsnet.Network("br0", address=ADDRESS, netns=host, lifetime=lifetime)
    with nsnet.Netns.new(beside=host) as other:
        network.up()
        container = network.launch(CAT, stdin=nsnet.PIPE, stdout=nsnet.DEVNULL)
        network.attach(other)
        gate, failed = threading.Barrier(EIGHT), []

        def take_it():
            gate.wait(PATIENCE)
            try:
                network.down()
            except BaseException:                           # noqa: B902  told to the parent, which compares
                failed.append(traceback.format_exc())
        running = [threading.Thread(target=take_it) for _ in range(EIGHT)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(PATIENCE)
        assert failed == [] and not network.is_up and is_gone(container.pid)
        assert ifnames(host) == ["lo"] and claims(state) == []


def test_eight_gc_at_once(host, state):
    """After one that was killed: each of the eight is content, and together they removed each thing once."""
    def be_killed(_):
        network = nsnet.Network("br0", address=ADDRESS, netns=host)
        network.up()
        network.launch(["/bin/sleep", "1000"], host_ifname="v0", stdin=nsnet.DEVNULL)
        network.launch(["/bin/sleep", "1000"], host_ifname="v1", stdin=nsnet.DEVNULL)
        os.kill(os.getpid(), signal.SIGKILL)
    victim = Forked(be_killed)
    victim.end()
    assert {"br0", "v0", "v1"} <= set(ifnames(host)) and len(claims(state)) == 2
    answers = at_once(lambda _: nsnet.collect(host)._asdict())
    removed = collections.Counter(name for answer in answers for name in answer["removed"])
    assert [answer["failed"] + answer["elsewhere"] + answer["kept"] for answer in answers] == [[]] * EIGHT, answers
    # The veth of a process that was killed may be gone by itself
    assert "br0" in removed and set(removed.values()) == {1} and sum(name.startswith("process ") for name in removed) == 2
    assert ifnames(host) == ["lo"] and claims(state) == []


@pytest.mark.parametrize("lifetime", ["process", "declared", "attachments"])
def test_who_inherits_from_the_dead_has_the_lock_all_along(host, state, lifetime):
    """What they left is removed, its claim too; but not the lock, by which nobody else builds meanwhile."""
    def be_killed(_):
        nsnet.Network("br0", address=ADDRESS, netns=host).up()
        os.kill(os.getpid(), signal.SIGKILL)
    Forked(be_killed).end()
    locked = []

    def look(step):
        held = ownership.lock(str(state), ownership.key_of(host.identity, "br0"))
        locked.append((step.name, held is None))
        if held is not None:
            held.close()
    network = nsnet.Network("br0", address=ADDRESS, netns=host, lifetime=lifetime, on_step=look)
    network.up()
    assert locked == [("claim", True), ("bridge", True)]
    network._on_step = None
    network.down()
    assert claims(state) == []


def test_a_lock_holds_until_its_network_is_let_go_of(host, state):
    """What a dead owner left is removed by who comes next; meanwhile, and until it is down, nobody else has it up."""
    def be_killed(_):
        nsnet.Network("br0", address=ADDRESS, netns=host).up()
        os.kill(os.getpid(), signal.SIGKILL)
    Forked(be_killed).end()
    network = nsnet.Network("br0", address=ADDRESS, netns=host)
    network.up()
    there = links_of(host)
    with pytest.raises(nsnet.AlreadyExists):
        nsnet.Network("br0", address=ADDRESS, netns=host).up()
    with pytest.raises(nsnet.AlreadyExists):
        nsnet.Network("br0", address=ADDRESS, netns=host, lifetime="declared").up()
    assert nsnet.collect(host).alive and links_of(host) == there
    network.down()


def test_who_comes_while_gc_is_at_work_waits_for_it(host, state):
    """Whoever has a network up is not waited for; who removes it, or looks at it, is."""
    network = nsnet.Network("br0", address=ADDRESS, netns=host)
    network.up()
    network.down()
    held = ownership.lock(str(state), ownership.key_of(host.identity, "br0"))
    up = threading.Thread(target=network.up)
    up.start()
    try:
        up.join(0.05)
        assert up.is_alive() and not network.is_up
    finally:
        held.close()
        up.join(PATIENCE)
    assert network.is_up
    network.down()

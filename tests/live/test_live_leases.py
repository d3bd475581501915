"""Address leases on disk: exact between processes, whatever kills them, and when the machine restarts.

What is held is told by logs of the holders themselves, and by the files, read here without nsnet.
"""

import collections
import hashlib
import json
import os
import random
import select
import signal
import socket
import threading
import time

import pytest

from lease_helpers import OTHER_BOOT, SUBNETS, forked, on_disk, shown, strays
from live_helpers import PATIENCE
from nsnet import state
from nsnet.errors import KernelError, LeaseTaken, NoFreeAddress, UsageError
from nsnet.leases import Leases, MemoryLeases
from nsnet.leases import book as rules


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "leases")


# --- the files ---

def test_the_files_are_as_promised(place):
    book = Leases(place, SUBNETS)
    book.take_all("web")
    book.claim("web", "10.0.0.9")
    assert sorted(os.listdir(place)) == ["10.0.0.2", "10.0.0.9", "boot", "fd00::2", "lock", "owners"]
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot_id = file.read().strip()
    for number, (name, address) in enumerate([("10.0.0.2", "10.0.0.2/24"), ("fd00::2", "fd00::2/64"),
                                              ("10.0.0.9", "10.0.0.9/24")]):
        path = os.path.join(place, name)
        with open(path, encoding="utf-8") as file:
            assert json.load(file) == {"version": 1, "address": address, "owner": "web", "boot_id": boot_id,
                                       "number": number}
        named = f"{hashlib.sha256(b'web').hexdigest()[:32]}.{socket.inet_pton(10 if ':' in name else 2, name).hex()}"
        assert os.path.samefile(path, os.path.join(place, "owners", named))
        assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(place).st_mode & 0o777 == 0o700
    book.release("web")
    assert sorted(os.listdir(place)) == ["boot", "lock", "owners"]
    assert sorted(name[33:] for name in os.listdir(os.path.join(place, "owners"))) == [
        "0a000002.2", "0a000009.0", "fd000000000000000000000000000002.1"]


@pytest.mark.parametrize("path", ["leases", "", None, 5, "/tmp/\0"], ids=repr)
def test_a_directory_is_an_absolute_path(path):
    with pytest.raises(UsageError, match="expected an absolute path"):
        Leases(path, SUBNETS)


def test_a_directory_of_others_is_refused(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(UsageError, match="only it may write"):
        Leases(str(shared), SUBNETS)
    (tmp_path / "file").write_text("")
    with pytest.raises(KernelError):
        Leases(str(tmp_path / "file"), SUBNETS)


def test_nothing_is_made_for_what_makes_no_sense(place):
    with pytest.raises(UsageError):
        Leases(place, SUBNETS, ranges=["10.0.0.300"])
    assert not os.path.exists(place)


def test_a_lock_that_is_held_is_an_error_in_time(place, monkeypatch):
    book = Leases(place, SUBNETS)
    monkeypatch.setattr(rules, "LOCK_TIMEOUT", 0.01)
    with state.lock(os.path.join(place, "lock")):
        with pytest.raises(KernelError, match="another process has held the lock"):
            book.take("a")
        assert book.leases() == []                      # to read takes no lock
    assert book.take("a").ip == "10.0.0.2"
    with pytest.raises(KernelError, match="another process has held the lock"):
        book.collect(lambda owner: bool(book.take("a")))
    assert book.take("a").ip == "10.0.0.2"


def test_the_lock_is_not_inherited_for_long(place):
    """A child that another thread forks meanwhile has the descriptor of the lock too."""
    book, children = Leases(place, SUBNETS), []
    reader, writer = os.pipe()

    def fork(owner):
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        children.append(pid)
        return True

    try:
        book.take("a")
        book.collect(fork)
        assert state.lock(os.path.join(place, "lock")) is not None
    finally:
        os.close(writer)
        os.close(reader)
        for pid in children:
            os.waitpid(pid, 0)


# --- the same answers as in memory ---

@pytest.mark.parametrize("seed", range(6))
def test_several_hold_of_one_directory_and_memory_agree(place, monkeypatch, seed):
    """Any calls, by any of three objects, between reboots."""
    monkeypatch.setattr(rules, "MOST_REMEMBERED", 6)
    chance = random.Random(seed)
    declared = {"subnets": ("10.0.0.1/28", "fd00::1/125"), "ranges": ["10.0.0.3-10.0.0.8"], "exclude": ["10.0.0.5"]}
    memory, books = MemoryLeases(**declared), [Leases(place, **declared) for _ in range(3)]

    def outcome(book, verb, *arguments):
        try:
            return getattr(book, verb)(*arguments)
        except LeaseTaken as error:
            return error.owner
        except NoFreeAddress as error:
            return str(error).partition(";")[0]

    def plain(value):
        if hasattr(value, "owner"):
            value = [value]
        return shown(value) if isinstance(value, list) and all(hasattr(one, "owner") for one in value) else value

    for step in range(250):
        owner = chance.choice("abcdefghij")
        verb, *arguments = chance.choice([
            ("take", owner), ("take", owner, 6), ("take_all", owner), ("release", owner), ("release", owner),
            ("take_many", chance.sample("abcdefghij", 3)), ("release_many", chance.sample("abcdefghij", 3)),
            ("claim", owner, f"10.0.0.{chance.randint(2, 14)}"), ("release_address", f"fd00::{chance.randint(2, 7)}"),
            ("collect", set(chance.sample("abcdefghij", 8)).__contains__), ("leases",), ("reboot",)])
        book = chance.choice(books)
        if verb == "reboot":
            monkeypatch.setattr(state, "boot_id", lambda name=f"boot{step}": name)
            assert all(not lease.current for lease in book.leases())
            verb, arguments = "collect", [lambda owner: False]
        expected = plain(outcome(memory, verb, *arguments))
        assert plain(outcome(book, verb, *arguments)) == expected, (step, verb, arguments)
        assert on_disk(place) == {lease.address.ip: lease.owner for lease in memory.leases()}
        if chance.random() < 0.1:
            books[chance.randrange(3)] = Leases(place, **declared)
    assert strays(place) == []


def test_a_take_reads_its_own_files_only(place, monkeypatch):
    """However many leases there are; and who comes again to a directory that nobody changed does not even list it."""
    book, other = Leases(place, SUBNETS), Leases(place, SUBNETS)
    for number in range(100):
        book.take(f"o{number}")
    read, listed = [], []
    monkeypatch.setattr(state, "read", lambda path, function=state.read: read.append(path) or function(path))
    monkeypatch.setattr(os, "listdir", lambda path, function=os.listdir: listed.append(path) or function(path))
    book.take("new"), book.take("o5")
    assert [os.path.basename(path) for path in read] == ["boot", "boot", "10.0.0.7"] and listed == []
    other.take("newer")
    assert len(listed) == 1
    book.take("newest")
    assert len(listed) == 2


def test_large_subnets_are_not_enumerated(place):
    book = Leases(place, ["10.0.0.1/8", "fd00::1/64"])
    assert [address.ip for address in book.take_all("a")] == ["10.0.0.2", "fd00::2"]
    assert book.claim("b", "10.255.255.254").ip == "10.255.255.254"
    assert [address.ip for address in book.take_all("c")] == ["10.0.0.3", "fd00::3"]


def test_what_was_declared_otherwise_is_listed_and_released(place):
    Leases(place, ["10.0.0.1/24"]).take("a")
    book = Leases(place, ["10.9.0.1/16"])
    assert shown(book.leases()) == [("10.0.0.2/24", "a")] and str(book.take("a")) == "10.9.0.2/16"
    assert shown(book.release("a")) == [("10.0.0.2/24", "a"), ("10.9.0.2/16", "a")]


# --- reboot ---

def test_after_a_reboot_nothing_is_leased_and_all_is_remembered(place, monkeypatch):
    book = Leases(place, ["10.0.0.1/29"])
    for owner in "abcd":
        book.take(owner)
    monkeypatch.setattr(state, "boot_id", lambda: OTHER_BOOT)
    assert [lease.current for lease in book.leases()] == [False] * 4
    assert book.take("c").ip == "10.0.0.4"
    assert shown(book.leases()) == [("10.0.0.4/29", "c")]
    assert [book.take(owner).ip for owner in "xb"] == ["10.0.0.6", "10.0.0.3"]
    assert shown(book.collect(lambda owner: owner == "c")) == [("10.0.0.3/29", "b"), ("10.0.0.6/29", "x")]


def test_collect_after_a_reboot_tells_what_ended(place, monkeypatch):
    Leases(place, SUBNETS).take_all("a")
    monkeypatch.setattr(state, "boot_id", lambda: OTHER_BOOT)
    found = Leases(place, SUBNETS).collect(lambda owner: True)
    assert shown(found) == [("10.0.0.2/24", "a"), ("fd00::2/64", "a")] and not any(lease.current for lease in found)
    assert Leases(place, SUBNETS).collect(lambda owner: True) == []


# --- damage ---

def damage(path, how):
    if how == "directory":
        os.mkdir(path)
    elif how == "link":
        os.symlink("/nonexistent", path)
    else:
        with open(path, "wb") as file:
            file.write(how)


@pytest.mark.parametrize("how", [b"", b"{", b"null", b"[" * 4000, b"\0" * 5000, b'{"version": 2}', "directory", "link"],
                         ids=lambda how: repr(how[:20]))
def test_a_file_that_makes_no_sense_is_somebodys(place, how, monkeypatch):
    book = Leases(place, ["10.0.0.1/29"])
    damage(os.path.join(place, "10.0.0.2"), how)
    damage(os.path.join(place, "10.0.0.4"), how)
    assert [book.take(owner).ip for owner in "abc"] == ["10.0.0.3", "10.0.0.5", "10.0.0.6"]
    with pytest.raises(NoFreeAddress):
        book.take("d")
    with pytest.raises(LeaseTaken, match="makes no sense") as caught:
        book.claim("d", "10.0.0.2")
    assert caught.value.owner is None
    odd = [("10.0.0.2/29", None), ("10.0.0.4/29", None)]
    assert shown(book.leases())[0] == odd[0] and all(lease.current for lease in book.leases())
    assert shown(book.collect(lambda owner: True)) == odd == shown(book.collect(lambda owner: True))
    monkeypatch.setattr(state, "boot_id", lambda: OTHER_BOOT)
    assert [lease for lease in shown(book.collect(lambda owner: True)) if lease[1] is None] == odd
    assert book.release_address("10.0.0.2").owner is None
    assert book.claim("d", "10.0.0.2").ip == "10.0.0.2" and strays(place) == []


def test_a_lease_of_ours_that_is_damaged_is_not_ours_any_more(place):
    book = Leases(place, SUBNETS)
    book.take("a")
    with open(os.path.join(place, "10.0.0.2"), "wb"):
        pass
    assert book.take("a").ip == "10.0.0.3" and book.take("b").ip == "10.0.0.4"
    assert shown(book.release("a")) == [("10.0.0.3/24", "a")]


def test_what_others_put_there_is_passed_over(place):
    book = Leases(place, SUBNETS)
    for name in ("README", "10.0.0.02", "FD00::2", "10.0.0.2.bak", "owners/README", "owners/x.y.z",
                 "owners/" + "z" * 32 + ".0a000002", "owners/" + "0" * 32 + ".0a00000g", "owners/.5.dead",
                 "owners/" + "0" * 32 + ".0a000003.x", "boot.x"):
        with open(os.path.join(place, name), "wb"):
            pass
    assert [str(address) for address in book.take_all("a")] == ["10.0.0.2/24", "fd00::2/64"]
    assert len(book.release("a")) == 2 and len(book.take_all("a")) == 2 and len(book.leases()) == 2
    assert not os.path.exists(os.path.join(place, "owners/.5.dead"))


def test_a_lease_that_was_removed_by_hand_is_released(place):
    book = Leases(place, ["10.0.0.1/29"])
    for owner in "abcde":
        book.take(owner)
    os.unlink(os.path.join(place, "10.0.0.4"))
    assert book.take("f").ip == "10.0.0.4"
    with pytest.raises(NoFreeAddress):
        book.take("c")


# --- many at once ---

def test_threads(place):
    books = [Leases(place, ["10.0.0.1/24"])] * 2 + [Leases(place, ["10.0.0.1/24"])] * 2
    got = collections.defaultdict(list)

    def work(number):
        for turn in range(10):
            got[number].append(books[number].take(f"{number}.{turn}").ip)
            books[number].release(f"{number}.{turn - 3}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, got.values())) == 40 and len(on_disk(place)) == 12
    assert on_disk(place) == {got[number][turn]: f"{number}.{turn}" for number in got for turn in range(7, 10)}


class Holders:
    """Processes that take and release until they are killed; each logs what it has after it has it, and before it
    releases it. `doubles()`: pairs of owners that held one address at the same time, by their logs."""

    def __init__(self, tmp_path, book):
        self.log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.reader, self.writer = os.pipe()
        self.book = book
        self.running = {}

    def start(self, name):
        self.running[name] = forked(lambda: self._work(name))

    def kill(self, name):
        pid = self.running.pop(name)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.say("dead", f"{name}.", "")

    def say(self, deed, owner, ip):
        os.write(self.log, f"{time.monotonic_ns()} {deed} {owner} {ip}\n".encode())

    def wait_for(self, taken):
        """Until so many more were taken."""
        while taken > 0:
            assert select.select([self.reader], [], [], PATIENCE)[0], "nothing is taken any more"
            taken -= len(os.read(self.reader, taken))

    def _work(self, name):
        chance, has = random.Random(name), {}
        while True:
            owner, other = (f"{name}.{number}" for number in chance.sample(range(5), 2))
            try:
                if owner in has:
                    self.say("release", owner, has.pop(owner))
                    self.book.release(owner)
                elif chance.random() < 0.3:
                    static = f"10.0.0.{chance.randint(2, 14)}"
                    self._got(has, {owner: self.book.claim(owner, static).ip})
                else:
                    owners = [owner] if other in has else [owner, other]
                    self._got(has, {one: found[0].ip for one, found in zip(owners, self.book.take_many(owners))})
            except (NoFreeAddress, LeaseTaken):
                pass
            except KernelError as error:        # where locks are ignored another may clean up what is being written
                self.say("error", owner, error.errno)

    def _got(self, has, found):
        has.update(found)
        for owner, ip in found.items():
            self.say("has", owner, ip)
            os.write(self.writer, b".")

    def lines(self):
        return sorted((int(words[0]), words[1:]) for words in (
            line.split(" ") for line in os.pread(self.log, 1 << 24, 0).decode().splitlines()))

    def doubles(self):
        holder, found = {}, []
        for _, (deed, owner, ip) in self.lines():
            if deed == "has":
                if holder.get(ip, owner) != owner:
                    found.append((ip, holder[ip], owner))
                holder[ip] = owner
            elif deed == "release" and holder.get(ip) == owner:
                del holder[ip]
            elif deed == "dead":
                holder = {ip: other for ip, other in holder.items() if not other.startswith(owner)}
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.running):
            self.kill(name)
        for fd in (self.log, self.reader, self.writer):
            os.close(fd)


def test_eight_processes_killed_at_random(place, tmp_path):
    """No address is held by two at any time; what the dead held is free again, all of it."""
    chance, book = random.Random(1), Leases(place, ["10.0.0.1/28"])
    with Holders(tmp_path, book) as holders:
        for name in range(8):
            holders.start(str(name))
        for name in range(8, 48):
            holders.wait_for(chance.randint(1, 12))
            victim = chance.choice(sorted(holders.running))
            holders.kill(victim)
            gone = book.collect(lambda owner: not owner.startswith(f"{victim}."))
            assert all(lease.owner.startswith(f"{victim}.") for lease in gone)
            holders.start(str(name))
        for victim in sorted(holders.running):
            holders.kill(victim)
        assert holders.doubles() == []
        assert sum(line[0] == "has" for _, line in holders.lines()) > 100
        assert not [line for _, line in holders.lines() if line[0] == "error"]
    book.collect(lambda owner: False)
    assert book.leases() == [] and strays(place) == []
    assert len({book.take(f"after{number}").ip for number in range(13)}) == 13


def test_even_who_ignores_the_lock_is_not_given_what_another_has(place, tmp_path, monkeypatch):
    """Each process locks a file of its own."""
    def own_lock(path, timeout=0, function=state.lock, **how):
        return function(f"{path}.{os.getpid()}", timeout, **how)

    monkeypatch.setattr(state, "lock", own_lock)
    book = Leases(place, ["10.0.0.1/28"])
    with Holders(tmp_path, book) as holders:
        for name in range(8):
            holders.start(str(name))
        holders.wait_for(300)
        for victim in sorted(holders.running):
            holders.kill(victim)
        assert holders.doubles() == []
        assert sum(line[0] == "has" for _, line in holders.lines()) > 100

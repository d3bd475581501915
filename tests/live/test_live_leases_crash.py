"""Address leases on disk when who changes them is killed, or refused, at any of its system calls.

A killed or failing process is a fork of this one, with strace attached: the n-th system call of a kind is where it ends, or
what fails. What is left is read from the files, without nsnet.
"""

import collections
import ctypes
import json
import os
import re
import signal
import socket
import subprocess

import pytest

from lease_helpers import OTHER_BOOT, forked, on_disk, shown, strays
from live_helpers import LIBC, PATIENCE, needs, needs_root, which
from nsnet.errors import KernelError, NsnetError
from nsnet.leases import Leases

CALLS = ["openat", "write", "pwrite64", "fsync", "link", "linkat", "rename", "unlink", "flock", "mkdir", "getdents64",
         "close"]


def is_mine(owner):
    """Of who does the deed, under all of its names."""
    return owner.startswith("me")


def empty(book):
    pass


def crowded(book):
    """All but one of five taken; the free one was another's."""
    for owner in "vwxyz":
        book.take(owner)
    book.release("v")


def held(book):
    book.take_all("me")
    book.claim("me", "10.0.0.6")
    book.take_all("other")
    book.take_all("me 2")


def remembered(book):
    held(book)
    book.release_many(["me", "me 2"])


# name: (how it begins, what is done, whether it begins after a reboot)
DEEDS = {
    "take": (empty, lambda book: str(book.take("me")), False),
    "take again": (remembered, lambda book: str(book.take("me")), False),
    "take another's": (crowded, lambda book: str(book.take("me")), False),
    "take all": (empty, lambda book: str(book.take_all("me")), False),
    "take many": (remembered, lambda book: str(book.take_many(["me 2", "me", "me 3"])), False),
    "release many": (held, lambda book: str(len(book.release_many(["me", "nobody", "me 2"]))), False),
    "claim": (remembered, lambda book: str(book.claim("me", "10.0.0.5")), False),
    "release": (held, lambda book: str(len(book.release("me"))), False),
    "collect": (held, lambda book: str(len(book.collect(lambda owner: owner != "me"))), False),
    "take after a reboot": (held, lambda book: str(book.take("me")), True),
}
LEAKS = ("10.0.0.1/29", "fd00::1/125")


def begin(place, name):
    """The directory as it is before a deed, and what others hold then."""
    prepare, _, rebooted = DEEDS[name]
    prepare(Leases(place, LEAKS))
    others = {ip: owner for ip, owner in on_disk(place).items() if not is_mine(owner)}
    if rebooted:                        # what is now was before
        for ip in on_disk(place):
            path = os.path.join(place, ip)
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            with open(path, "w", encoding="utf-8") as file:
                json.dump({**content, "boot_id": OTHER_BOOT}, file)
        with open(os.path.join(place, "boot"), "w", encoding="utf-8") as file:
            file.write(f"{OTHER_BOOT}\n")
        others = {}
    return others


def traced(place, name, log, *filters):
    """A deed in a fork under strace, to its end: (wait status, what it gave or raised, "" if it was killed)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)

        def work():
            LIBC.prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)         # PR_SET_PTRACER: where only that lets strace in
            book = Leases(place, LEAKS)
            theirs.send(b"ready")
            theirs.recv(1)
            try:
                said = DEEDS[name][1](book)
            except NsnetError as error:
                said = f"error: {error}"
            except BaseException as error:                              # noqa: B902  told to the parent, which compares
                said = f"bug: {error!r}"
            theirs.send(said.encode())

        pid = forked(work)
        tracer = None
        try:
            assert ours.recv(5) == b"ready"
            tracer = subprocess.Popen([which("strace"), "-p", str(pid), "-o", str(log), *filters], text=True, bufsize=1,
                                      stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            assert "attached" in tracer.stderr.readline()
            ours.send(b"!")
            theirs.close()
            said = ours.recv(4096).decode()
        finally:
            if tracer is None:
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if tracer is not None:
                tracer.communicate()
        return status, said


def points(tmp_path, name):
    """[(call, n)] of a deed that nothing happens to."""
    place, log = str(tmp_path / "count"), tmp_path / "count.log"
    begin(place, name)
    status, said = traced(place, name, log, "-e", "trace=" + ",".join(CALLS))
    assert status == 0 and not said.startswith(("error", "bug")), said
    counts, found = collections.Counter(), []
    for call in re.findall(r"^(\w+)\(", log.read_text(errors="replace"), re.MULTILINE):
        counts[call] += 1
        found.append((call, counts[call]))
    return found


def check_whole(place, others):
    """No double, no leak, nothing left lying about, whoever comes next."""
    book = Leases(place, LEAKS)
    mine = [book.take("me", version).ip for version in (4, 6)]
    now = on_disk(place)
    assert others.items() <= now.items() and [now[ip] for ip in mine] == ["me", "me"]
    assert {owner for owner in now.values() if not is_mine(owner)} <= {*others.values()} and strays(place) == []
    assert not os.path.exists(os.path.join(place, ".boot"))
    assert len([ip for ip, owner in now.items() if owner == "me" and ":" not in ip]) <= 2     # taken, and claimed
    book.collect(lambda owner: not is_mine(owner))
    assert on_disk(place) == others
    book.collect(lambda owner: False)
    assert on_disk(place) == {}
    assert [len({book.take(f"{number}", version).ip for number in range(count)})
            for version, count in ((4, 5), (6, 6))] == [5, 6]
    for owner in range(6):
        book.release(f"{owner}")
    assert len(os.listdir(os.path.join(place, "owners"))) == 11         # one memory of each address


@needs("strace")
@pytest.mark.parametrize("name", DEEDS)
def test_killed_at_any_system_call(tmp_path, name):
    killed = 0
    for call, number in points(tmp_path, name):
        if call in ("close", "getdents64") and number % 3:
            continue                    # they change nothing
        place = str(tmp_path / f"{call}{number}")
        others = begin(place, name)
        status, _ = traced(place, name, tmp_path / "log", "-e", f"trace={call}", "-e",
                           f"inject={call}:signal=KILL:when={number}")
        killed += status == signal.SIGKILL
        assert status == signal.SIGKILL, (call, number)
        check_whole(place, others)
    assert killed >= 8


@needs("strace")
@pytest.mark.parametrize("name", DEEDS)
def test_an_error_of_any_system_call_is_an_error_and_no_leak(tmp_path, name):
    failed = 0
    for position, (call, number) in enumerate(points(tmp_path, name)):
        if call == "close":             # what is closed is closed
            continue
        place = str(tmp_path / f"{call}{number}")
        others = begin(place, name)
        before = on_disk(place)
        error = {"openat": "EMFILE", "getdents64": "EIO"}.get(call, ("ENOSPC", "EIO")[position % 2])
        status, said = traced(place, name, tmp_path / "log", "-e", f"trace={call}", "-e",
                              f"inject={call}:error={error}:when={number}")
        assert status == 0 and said and not said.startswith("bug"), (call, number, said)
        if said.startswith("error"):
            failed += 1
            assert error in said
            if name.startswith(("take", "claim")) and not DEEDS[name][2]:
                assert on_disk(place) == before and strays(place) in ([], [".boot"]), (call, number, said)
        check_whole(place, others)
    assert failed >= 5


@needs("strace")
def test_where_undoing_fails_too_the_next_take_finds_the_lease(tmp_path):
    place = str(tmp_path / "leases")
    begin(place, "take")
    status, said = traced(place, "take", tmp_path / "log", "-e", "trace=fsync,unlink", "-e",
                          "inject=fsync:error=EIO:when=4", "-e", "inject=unlink:error=EROFS")
    assert status == 0 and "EIO" in said and on_disk(place) == {"10.0.0.2": "me"}
    assert Leases(place, LEAKS).take("me").ip == "10.0.0.2"
    check_whole(place, {})


@needs_root
def test_a_full_disk_is_an_error_and_no_lease(tmp_path):
    """A tmpfs of a few pages, in a mount namespace of its own."""
    def work():
        try:
            assert LIBC.unshare(0x00020000) == 0 and LIBC.mount(b"none", b"/", None, 0x44000, None) == 0
            assert LIBC.mount(b"tmpfs", os.fsencode(tmp_path), b"tmpfs", 0, b"size=128k,mode=700") == 0
            book, taken = Leases(str(tmp_path / "leases"), ["10.0.0.1/24"]), []
            with pytest.raises(KernelError, match="ENOSPC"):
                while True:
                    taken.append(book.take(str(len(taken))).ip)
            assert sorted(on_disk(book.directory)) == sorted(taken) and len(taken) > 5
            assert shown(book.release("3")) == [(f"{taken[3]}/24", "3")] and taken[3] not in on_disk(book.directory)
            said = b"good"
        except BaseException as error:                                  # noqa: B902  told to the parent
            said = repr(error).encode()
        theirs.send(said)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        pid = forked(work)
        try:
            assert ours.recv(4096) == b"good"
        finally:
            os.waitpid(pid, 0)

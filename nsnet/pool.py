"""Warm slots: containers that are there before their commands are known.

A slot is a child that is parked in its new namespaces, with maps, veth pair, addresses, routes and sysctls, and
without a command (csrc/child.c). Taking one costs the telling of the command and its execve; no lock of the network
is asked for, and nothing is written. To the network a slot is an attachment like any other: claimed on disk before it
is made, and collected by gc if its owner is killed.

One thread makes them, a batch at a time, so that whoever launches never waits for the making of more than it needs.
Knows how many there are to be, and whose each one is; how they are made and undone is the network's, what a command
gets job.py's.
"""

from __future__ import annotations

import atexit
import errno
import os
import threading
import time
from collections import deque
from itertools import starmap

from nsnet import idmap, job, kernel
from nsnet.attachments import Container
from nsnet.declaration import MOST_ATTACHMENTS
from nsnet.errors import KernelError, UsageError
from nsnet.network import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Iterable, List, Mapping, Optional, Sequence, Union

_BATCH = 16                         # slots that are made at once: meanwhile nobody else can change the network
_PAUSE, _PAUSE_MOST = 0.05, 5.0     # seconds between two tries to make some, when they fail; each twice the one before
_TRIES = 3                          # slots that may end on one command before that is an error
_SLOT = ["nsnet-slot"]              # what ps(1) calls it


class Pool:
    """Slots of a network, ready to be taken: `launch()` gives one a command.

    `size`: how many are kept ready; they are made in the background when no more than `low` (half of it by default)
    are left. Their options are those of Network.launch() that belong to namespaces and network; what belongs to the
    command is said to launch(). Nothing is made before fill(), which a `with` block begins with, or the first
    launch().

    Any thread may take; each slot goes to one of them. What is inherited, and no option says, a command has from this
    process as it was when the slot was made (umask, limits, root directory); but the directory is the caller's. When
    making fails, it is tried again, after 0.05 to 5 s, and the error is raised by the next launch() or fill() that
    finds too few; `failure` has it until making succeeds. Slots are attachments of the network: network.down() ends
    them, close() only the slots. In a fork of the process that made it a pool refuses to be used, and leaving its
    block does nothing.
    """

    def __init__(self, network: Network, *, size: int, low: Optional[int] = None, ifname: str = "eth0",
                 mtu: Optional[int] = None, queues: int = 1, routes: Sequence[Mapping[str, Any]] = (),
                 sysctls: Mapping[str, Any] = {}, default_route: bool = True, new: Iterable[str] = ("user", "net"),
                 join: Optional[Mapping[str, job.Joinable]] = None, uid_map: Optional[idmap.Maps] = None,
                 gid_map: Optional[idmap.Maps] = None, setgroups: Optional[bool] = None, hostname: Optional[str] = None,
                 proc: bool = False, cgroup: Union[None, int, str, os.PathLike] = None):
        if not isinstance(network, Network):
            raise UsageError(f"network {network!r}: expected a Network")
        self.network = network
        self._size = _check(size, 1, MOST_ATTACHMENTS, "size")
        self._given_low = None if low is None else _check(low, 0, size - 1, "low")
        new = tuple(new) if not isinstance(new, str) else new
        place = {"new": new, "join": join, "uid_map": uid_map, "gid_map": gid_map, "setgroups": setgroups,
                 "hostname": hostname, "proc": proc}
        links = {"ifname": ifname, "mtu": mtu, "queues": queues, "routes": routes, "sysctls": sysctls,
                 "default_route": default_route}
        network.check(**links)
        self._slot = {**place, **links, "cgroup": cgroup, "argv": _SLOT, "env": {}, "slot": True}
        outer = network.netns.userns_fd             # as the network has it joined
        self._place = job.Place(**{**place, "join": join if outer is None else {"user": outer, **(join or {})}})
        if not self._place.wants_netns:
            raise UsageError(f"new {sorted(new)!r}: expected 'net' among them")
        self.failure: Optional[BaseException] = None
        self._home = os.getpid()
        self._turn = threading.RLock()
        self._work = threading.Condition(self._turn)        # for the thread that makes slots
        self._news = threading.Condition(self._turn)        # for those that wait for it
        self._ready: Deque[Container] = deque()
        self._leaving: List[Container] = []         # given back, and perhaps not gone yet
        self._target = self._size                   # how many are to be ready; 0 when drained
        self._waiting = {"launch": 0, "fill": 0}    # calls: each of launch() for one, those of fill() for all
        self._making = 0
        self._refilling = False
        self._failures, self._is_told = 0, True
        self._next_try, self._pause, self._batch = 0.0, _PAUSE, _BATCH
        self._thread: Optional[threading.Thread] = None
        self._closing = self._stopped = False
        self._lasts = False                         # whether the kernel watches the thread for somebody (pdeathsig)

    def __repr__(self) -> str:
        return f"<Pool {self.network.bridge} {self.ready} of {self._size} ready>"

    @property
    def size(self) -> int:
        """How many are kept ready."""
        return self._size

    @property
    def low(self) -> int:
        """How few of them are left when more are made."""
        return self._size // 2 if self._given_low is None else min(self._given_low, self._size - 1)

    @property
    def ready(self) -> int:
        """How many are ready now."""
        return len(self._ready)

    # --- taking ---

    def launch(self, argv: Sequence[str], *, timeout: Optional[float] = None, hold: bool = False,
               env: Optional[Mapping] = None, **options: Any) -> Container:
        """Run a command in a slot; returns when execve has succeeded. As Network.launch(), less what a slot has.

        `options`: user, group, groups, capabilities, no_new_privs, cwd, stdin, stdout, stderr, pass_fds, pdeathsig,
        rlimits, umask, oom_score_adj, new_session, new_keyring: those of nsnet.spawn. `env`: as for Network.launch().
        `pdeathsig` is sent when this process ends, whichever thread calls. `hold`: the command is parked again,
        before execve.

        If none is ready, it waits until one has been made, at most `timeout` seconds, then TimeoutError; the network
        is brought up if it is not. A slot that somebody has killed is replaced. Raises UsageError; what went wrong
        with making slots; KernelError with the step that failed in the child, and then the slot is gone and nothing
        is left.
        """
        self._check_home()
        deadline = None if timeout is None else time.monotonic() + kernel.seconds(timeout)
        hand: List[Container] = []
        command = job.Command(self._place, argv, env=job.small_environment() if env is None else env, **options)
        self._lasts = self._lasts or bool(command.spec["pdeathsig"])
        tries = _TRIES
        try:
            while True:
                self._take(hand, deadline)
                try:
                    if hand[0].take(command, hold):
                        break
                except KernelError as error:        # it died, or was stopped, when it had been told
                    tries -= 1
                    if not tries or error.errno not in (errno.ECHILD, errno.ECANCELED):
                        raise
                self._lose(hand)
            command.close()
            return hand[0]
        except BaseException:
            self._put_back(hand)
            command.close()
            command.close_files()
            raise

    def _take(self, hand: List[Container], deadline: Optional[float]) -> None:
        """Move a slot to `hand`, in one step: a signal handler that raises comes before or after it, and loses none."""
        with self._turn:
            self._check_open()
            if not self._ready:
                self._wait(lambda: bool(self._ready), "launch", deadline)
            hand.extend(starmap(self._ready.popleft, ((),)))
            if len(self._ready) <= self.low:
                self._start()
                self._work.notify()

    def _wait(self, arrived: Callable[[], bool], who: str, deadline: Optional[float]) -> None:
        """Until the thread has made what is wanted, or failed."""
        seen = self._failures
        self._waiting[who] += 1
        try:
            self._start()
            self._work.notify()
            while not arrived():
                self._check_open()
                if self.failure is not None and not (self._is_told and self._failures == seen):
                    self._is_told = True
                    raise self.failure
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"{self!r}: they are still being made")
                self._news.wait(left)
        finally:
            self._waiting[who] -= 1

    def _put_back(self, hand: List[Container]) -> None:
        """Whoever was not told anything can still be told, if one is wanted; the others go."""
        while hand:
            with self._turn:
                if hand[0].is_slot and self._missing > self._making and not self._closing:
                    self._ready.extend(starmap(hand.pop, ((),)))
                    self._news.notify()
                    continue
            self._lose(hand)

    def _lose(self, hand: List[Container]) -> None:
        """It is gone, or goes; nobody waits for its veth pair."""
        hand[0]._abandon()
        self.network.detach_many([hand[0]], wait=False)
        hand.pop()

    # --- how many ---

    def fill(self, timeout: Optional[float] = None) -> None:
        """Make as many as there are to be, and wait for it, at most `timeout` seconds: TimeoutError then."""
        self._check_home()
        deadline = None if timeout is None else time.monotonic() + kernel.seconds(timeout)
        with self._turn:
            self._check_open()
            self._target = self._size
            self._wait(lambda: len(self._ready) >= self._target, "fill", deadline)

    def resize(self, size: int) -> None:
        """Have another number ready: what is too many goes now, what is missing is made in the background."""
        self._check_home()
        _check(size, 1, MOST_ATTACHMENTS, "size")
        with self._turn:
            self._check_open()
            self._size = self._target = size
            self._start()
            self._work.notify()
            self._news.notify_all()                 # whoever waits for more than there are to be now
        self._give_back(size)

    def drain(self) -> None:
        """Give the slots back; what was taken runs on. No more are made until fill() or resize(), but for launch()."""
        self._check_home()
        with self._turn:
            self._check_open()
            self._target = 0
            self._news.notify_all()                 # likewise
        self._give_back(0)

    def _give_back(self, keep: int) -> None:
        with self._turn:
            while self._making:
                self._news.wait()
            while len(self._ready) > keep:
                self._leaving.extend(starmap(self._ready.pop, ((),)))
            leaving = list(self._leaving)
        for slot in leaving:
            slot.kill()                             # all of them, before the first is waited for
        if leaving:
            self.network.detach_many(leaving)
        with self._turn:
            self._leaving = [slot for slot in self._leaving if slot not in leaving]

    def close(self) -> None:
        """Give the slots back, and make no more; those that were taken run on. May be called twice."""
        if os.getpid() == self._home:
            self._stop()
            self._give_back(0)

    def __enter__(self) -> "Pool":
        try:
            self.fill()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _check_home(self) -> None:
        if os.getpid() != self._home:
            raise UsageError(f"pool of {self.network.bridge}: expected process {self._home}, which made it;"
                             " this is a fork")

    def _check_open(self) -> None:
        if self._closing:
            raise UsageError(f"pool of {self.network.bridge}: it is closed")

    # --- making ---

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="nsnet-pool", daemon=True)
            thread.start()                          # it waits for us
            self._thread = thread
            atexit.register(self._stop)             # a daemon, for it waits; but it is not to be cut off in its work

    def _stop(self) -> None:
        """Let the thread come to its end. What the kernel watches for pdeathsig lasts as long as the process."""
        if os.getpid() != self._home:
            return
        with self._turn:
            self._closing = True
            self._target = 0
            self._work.notify()
            self._news.notify_all()
            while self._thread is not None and not self._stopped:
                self._news.wait()
        if self._thread is not None and not self._lasts:
            self._thread.join()
        atexit.unregister(self._stop)

    def _run(self) -> None:
        while True:
            with self._turn:
                if self._thread is not threading.current_thread():      # its starter was interrupted: it never was
                    return
                while not self._closing and not self._is_due():
                    left = self._next_try - time.monotonic()
                    self._work.wait(left if left > 0 else None)
                if self._closing:
                    self._stopped = True
                    self._news.notify_all()
                    break
                missing, waiting = self._missing, self._waiting["launch"]
                self._making = min(missing, self._batch, 2 * waiting or _BATCH)     # who waits, waits for all of them
                is_asked = any(self._waiting.values())
            self._make(is_asked)
        if self._lasts:
            threading.Event().wait()

    @property
    def _missing(self) -> int:
        return self._target + self._waiting["launch"] - len(self._ready)

    def _is_due(self) -> bool:
        """Whether to make some now. Once it has begun, it goes on until all are there."""
        self._refilling = self._missing > 0 and (self._refilling or any(self._waiting.values())
                                                 or len(self._ready) <= self.low)
        return self._refilling and time.monotonic() >= self._next_try

    def _make(self, is_asked: bool) -> None:
        made: List[Container] = []
        failure: Optional[BaseException] = None
        is_down = False
        try:
            with self.network._session():
                is_down = not self.network.is_up
                # It is not brought up behind the back of whoever took it down.
                if is_asked or not is_down or self.network.lifetime == "attachments":
                    made = self.network.launch_many([self._slot] * self._making, hold=True)
        except BaseException as error:              # noqa: B902  told to whoever wants a slot
            failure = error.with_traceback(None)
        with self._turn:
            self._ready.extend(made)
            self._making = 0
            if failure is not None:
                self._failures, self._is_told = self._failures + 1, False
                self._next_try, self._pause = time.monotonic() + self._pause, min(2 * self._pause, _PAUSE_MOST)
                self._batch = 1                     # there may be addresses for a few
            elif made:
                self._is_told, self._pause, self._batch = True, _PAUSE, min(2 * self._batch, _BATCH)
            elif is_down:
                self._target = 0
            self.failure = failure
            self._news.notify_all()


def _check(value: int, least: int, most: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{what} {value!r}: expected a number from {least} to {most}")
    return value

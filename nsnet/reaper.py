"""Removals that nobody waits for: a queue, and a thread that takes all that is in it at once.

The kernel waits for a grace period for each delete, however many links it takes with it; so what is queued while one is
on its way goes together with the next. And the next waits for company: as long as the last one took, for whoever makes
and removes one thing after the other has the locks for half of the time then, and a grace period is shared by many.
The thread lives as long as there is something to do; a process that ends waits for it, one that is killed leaves the
rest to gc. Knows no links.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Hashable, Iterator, List, Optional


COMPANY = 0.1                       # seconds that what is queued waits for more at most


class Reaper:
    """`sweep()` is called, by one thread at a time, as long as something is queued. It asks `taken()` for that; it
    raises if some of it is not gone.
    """

    def __init__(self, sweep: Callable[[], Any]):
        self._sweep = sweep
        self._changed = threading.Condition()
        self._queue: List[Hashable] = []
        self._under_way: List[Hashable] = []
        self._thread: Optional[threading.Thread] = None
        self._ended: Optional[threading.Thread] = None      # it has nothing more to do, but may not be gone yet
        self._failed: Optional[Exception] = None
        self._settling = 0                      # how many wait for the end of all of it: then nothing waits for company

    def add(self, item: Hashable) -> None:
        """Have something removed; returns at once. Again it does nothing."""
        with self._changed:
            if item not in self._queue:
                self._queue.append(item)
            if self._thread is None:
                self._failed = None
                thread = threading.Thread(target=self._run, name="nsnet-reaper")
                thread.start()          # it waits for us; it may be refused
                self._thread = thread

    def drop(self) -> None:
        """Forget what is queued: all of it goes in another way."""
        with self._changed:
            self._queue = []
            self._changed.notify_all()

    @contextmanager
    def taken(self) -> Iterator[List]:
        """What is queued: the caller does it now. What is not gone, because the caller fails, is queued again."""
        with self._changed:
            items, self._queue = self._queue, []
            self._under_way += items
            self._changed.notify_all()
        try:
            yield items
        except BaseException:
            with self._changed:
                self._queue = [*items, *self._queue]
            raise
        finally:
            with self._changed:
                for item in items:
                    self._under_way.remove(item)
                self._changed.notify_all()

    @property
    def pending(self) -> List:
        """What is not gone yet."""
        with self._changed:
            return [*self._under_way, *self._queue]

    def settle(self, timeout: Optional[float]) -> List:
        """Wait, at most `timeout` seconds, until all is gone; what is not. Raises what the last sweep raised."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._settling += 1
            self._changed.notify_all()
            try:
                while self._thread is not None or self._under_way:      # others may have taken it
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return [*self._under_way, *self._queue]
                    self._changed.wait(left)
            finally:
                self._settling -= 1
            failed, self._failed = self._failed, None
            thread, self._ended = self._ended, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        if failed is not None:
            raise failed
        return self.pending

    def _run(self) -> None:
        last = 0.0
        while True:
            with self._changed:
                self._wait_for_company(min(last, COMPANY))
                if not self._queue:
                    self._end()
                    return
            started = time.monotonic()
            try:
                self._sweep()
            except BaseException as error:      # told to whoever settles; what is left is still claimed
                with self._changed:
                    self._failed = error if isinstance(error, Exception) else None
                    self._end()
                if not isinstance(error, Exception):
                    raise
                return
            last = time.monotonic() - started

    def _wait_for_company(self, seconds: float) -> None:
        """Unless somebody waits for us, or nothing is queued (any more), or the process is about to end."""
        deadline = time.monotonic() + seconds
        while self._queue and not self._settling and threading.main_thread().is_alive():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _end(self) -> None:
        self._ended, self._thread = self._thread, None
        self._changed.notify_all()

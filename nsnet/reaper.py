"""Removals that nobody waits for: a queue, and a thread that takes all that is in it at once.

The kernel waits for a grace period for each delete, however many links it takes with it; so what is queued while one is
on its way goes together with the next. The thread lives as long as there is something to do; a process that ends waits
for it, one that is killed leaves the rest to gc. Knows no links.
"""

import threading
import time
from typing import Any, Callable, Hashable, List, Optional


class Reaper:
    """`sweep(items)` is called, by one thread at a time, with what was queued; it raises if some of it is not gone."""

    def __init__(self, sweep: Callable[[List], Any]):
        self._sweep = sweep
        self._changed = threading.Condition()
        self._queue: List[Hashable] = []
        self._under_way: List[Hashable] = []
        self._thread: Optional[threading.Thread] = None
        self._failed: Optional[Exception] = None

    def add(self, item: Hashable) -> None:
        """Have something removed; returns at once. Again it does nothing."""
        with self._changed:
            if item not in self._queue:
                self._queue.append(item)
            if self._thread is None:
                self._failed = None
                self._thread = threading.Thread(target=self._run, name="nsnet-reaper")
                self._thread.start()

    def take(self) -> List:
        """What is queued and not begun: the caller does it now."""
        with self._changed:
            items, self._queue = self._queue, []
            return items

    @property
    def pending(self) -> List:
        """What is not gone yet."""
        with self._changed:
            return [*self._under_way, *self._queue]

    def settle(self, timeout: Optional[float]) -> List:
        """Wait, at most `timeout` seconds, until all is gone; what is not. Raises what the last sweep raised."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            thread = self._thread
            while self._thread is not None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return [*self._under_way, *self._queue]
                self._changed.wait(left)
            failed, self._failed = self._failed, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        if failed is not None:
            raise failed
        return self.pending

    def _run(self) -> None:
        while True:
            with self._changed:
                self._under_way, self._queue = self._queue, []
                if not self._under_way:
                    self._end()
                    return
            try:
                self._sweep(self._under_way)
            except Exception as error:      # told to whoever settles; what is left is still claimed
                with self._changed:
                    self._failed = error
                    self._queue = [*self._under_way, *self._queue]
                    self._under_way = []
                    self._end()
                return
            except BaseException:
                with self._changed:
                    self._end()
                raise

    def _end(self) -> None:
        self._under_way = []
        self._thread = None
        self._changed.notify_all()

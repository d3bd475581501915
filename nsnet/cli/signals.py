"""Signals that mean "stop": turned into one exception, so that everything is undone on the way out.

SIGINT, SIGTERM and SIGHUP raise Interrupted once, where the main thread is; from then on, and inside `shielded`, further
ones wait for their end. For commands only: a library does not touch its embedder's signal handlers.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Optional

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the command to stop. `number`: which."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stop:
    """Installed by `stoppable`. `received`: the first signal's number, None until then."""

    def __init__(self) -> None:
        self.received: Optional[int] = None
        self._shields = 0

    def handle(self, number: int, _frame: object) -> None:
        first = self.received is None
        self.received = self.received or number
        if first and not self._shields:
            raise Interrupted(number)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """No exception in here: what is being undone is undone to the end."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, the stop signals raise Interrupted once; afterwards the earlier handlers are back."""
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in STOP
              if signal.getsignal(number) is not signal.SIG_IGN}        # nohup means it
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

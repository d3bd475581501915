"""Two at work on one thing after another: what a thread sends was made while it sent what came before.

Sending is the kernel's time, in which nobody needs the interpreter. Knows no networks.
"""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Sequence


def relay(parts: Sequence[Any], make: Callable[[Any], None], send: Callable[[Any], None]) -> None:
    """make(part) here and then send(part) by a thread, for each in its turn.

    Raises the first error of either, when nothing is under way any more; what comes behind it was not sent.
    """
    sending: Optional[_Sending] = None
    try:
        for part in parts:
            make(part)
            if sending is not None:
                sending.finish()
            sending = _Sending(send, part)
            sending.start()
        if sending is not None:
            sending.finish()
    except BaseException:
        if sending is not None:
            sending.withdraw()
        raise


class _Sending:
    """One part on its way."""

    def __init__(self, send: Callable[[Any], None], part: Any):
        self._send, self._part = send, part
        self._error: Optional[BaseException] = None
        self._turn = threading.RLock()      # whose it is: that of who sends it, or of who takes it back before
        self._ended = threading.Event()

    def start(self) -> None:
        """In a thread, or here if there can be none."""
        try:
            threading.Thread(target=self._run, name="nsnet-relay").start()
        except RuntimeError:
            self._run()

    def _run(self) -> None:
        if not self._turn.acquire(False):
            return
        try:
            self._send(self._part)
        except BaseException as error:      # told to who waits
            self._error = error
        finally:
            self._ended.set()

    def finish(self) -> None:
        """Wait until it has ended, and raise its error."""
        self._wait()
        if self._error is not None:
            raise self._error

    def withdraw(self) -> None:
        """Have it not sent, if that has not begun: its thread may never have come to be. Else wait until it has ended."""
        self._wait(withdrawn=True)

    def _wait(self, withdrawn: bool = False) -> None:
        """Until it has ended, whatever interrupts: what is undone next must not be under way. The interrupt comes then."""
        interrupted: Optional[BaseException] = None
        while not self._ended.is_set():
            try:
                if withdrawn and self._turn.acquire(False):
                    self._ended.set()
                self._ended.wait()
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

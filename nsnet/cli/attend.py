"""A command in the foreground: started, sent the signals that come for us, waited for; its status as shells give it.

Until the command runs, a signal is an exception, and what was begun is undone. From just before execve on, signals
are blocked and taken one by one with sigwaitinfo(2), which also says who sent them: none is lost, none comes between
two statements, and those of a terminal, which a command in our own process group has got already, are told from the
others.

The kernel keeps from the first process of a pid namespace what it has no handler for, so that it would survive what
ends any other process; here it gets SIGKILL instead then, as the engines of containers do in the end, and SIGSTOP for
SIGTSTP. One that handles, blocks, ignores or waits for the signal is left to that.

For commands only: signal masks and dispositions are the program's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager

from nsnet import kernel, process
from nsnet.cli.options import said_as_options
from nsnet.cli.signals import stoppable
from nsnet.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, Optional, Sequence, Set

FATAL = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
SENT_ON = FATAL | {signal.SIGWINCH, signal.SIGCONT}
_SI_KERNEL = 0x80                       # <asm-generic/siginfo.h>: the terminal's Ctrl-C, hangup and change of size
_SIGTIMEDWAIT = (128 if os.uname().machine == "x86_64" else 137, 177, 421)      # <asm/unistd.h>: native, and of 32 bits


def attend(argv: Sequence[str], *, as_json: bool, new_session: bool, new: Sequence[str] = (), **options: Any) -> int:
    """Run a command with spawn's options to its end. Returns our exit status. Raises what spawn and go() do."""
    if signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL:      # ignored, the kernel would not tell its end
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with stoppable():
        with said_as_options():
            child = process.spawn(argv, new=new, new_session=new_session, hold=True, **options)
        with child:
            with _signals_in_order() as watched:
                child.go()
                _Attendant(child, shares_terminal=not new_session, is_init="pid" in new).attend(watched)
    if as_json:
        _say(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


@contextmanager
def _signals_in_order() -> Iterator[Set[int]]:
    """Inside, the signals that we care for are blocked: which these are. Those that we were told to ignore are not."""
    watched = {number for number in SENT_ON | {signal.SIGTSTP} if signal.getsignal(number) is not signal.SIG_IGN}
    watched.add(signal.SIGCHLD)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        yield watched
        while signal.sigtimedwait(watched, 0) is not None:      # too late for the command: not for us either
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Attendant:
    """What is done with signals while a command runs.

    `shares_terminal`: the terminal's signals reach it without us. `is_init`: it is the first of a pid namespace.
    """

    def __init__(self, child: process.Process, shares_terminal: bool, is_init: bool):
        self._child, self._shares_terminal, self._is_init = child, shares_terminal, is_init
        self._doubts = 0

    def attend(self, watched: Set[int]) -> None:
        """Until it has ended."""
        while self._child.poll() is None:
            info = signal.sigwaitinfo(watched)
            has_got_it = self._shares_terminal and info.si_code == _SI_KERNEL
            if info.si_signo == signal.SIGCHLD:
                if self._shares_terminal and self._was_stopped_by_terminal():
                    self._stop()                        # when it is ready for that, not when the key was pressed
            elif info.si_signo == signal.SIGTSTP:
                self._suspend(has_got_it)
            elif info.si_signo in FATAL and self._is_deaf_to(info.si_signo):
                self._child.kill()
            elif not has_got_it:
                self._child.send_signal(info.si_signo)

    def _suspend(self, has_got_it: bool) -> None:
        """In a session of its own nobody could continue it: there the kernel ignores SIGTSTP (setpgid(2), orphaned)."""
        if not self._shares_terminal or self._is_deaf_to(signal.SIGTSTP):
            self._child.send_signal(signal.SIGSTOP)
            self._stop()
        elif not has_got_it:
            self._child.send_signal(signal.SIGTSTP)

    def _stop(self) -> None:
        """Be stopped, as the shell expects of its job; go on with the command. Without a shell nothing stops us."""
        os.kill(os.getpid(), signal.SIGTSTP)                    # still blocked: one with the terminal's if that pends
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        signal.sigtimedwait({signal.SIGCONT}, 0)                # this is it
        if signal.SIGTSTP not in signal.sigpending():           # else both are to stop again
            self._child.send_signal(signal.SIGCONT)

    def _was_stopped_by_terminal(self) -> bool:
        try:
            stopped = os.waitid(os.P_PIDFD, self._child.pidfd, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return False
        return stopped is not None and stopped.si_status == signal.SIGTSTP

    def _is_deaf_to(self, number: int) -> bool:
        """Whether the kernel drops this signal: init has no handler for it, nor blocked or ignored it (proc(5))."""
        if not self._is_init:
            return False
        place = f"/proc/{kernel.proc_pid(self._child.pidfd)}"
        try:
            status = kernel.read_file(f"{place}/status")
        except KernelError:                     # it ends just now
            return False
        masks = [int(line.split()[1], 16) for line in status.splitlines()
                 if line.startswith(("SigBlk:", "SigIgn:", "SigCgt:"))]
        if len(masks) < 3 or any(mask >> (number - 1) & 1 for mask in masks):
            return False
        try:                                    # what sigwait(3) waits for counts as blocked, and does not show there
            return int(kernel.read_file(f"{place}/syscall").split()[0]) not in _SIGTIMEDWAIT
        except ValueError:                      # "running"
            return True
        except KernelError:                     # not ours to see (ptrace(2)): then whoever means it says it twice
            self._doubts += 1
            return self._doubts > 1


def _say(child: process.Process) -> None:
    """To stderr, if there is one: stdout is the command's, and its status is not ours to change."""
    about = {"pid": child.pid, "returncode": child.returncode, "signal": _signal_name(-child.returncode)}
    try:
        print(json.dumps(about), file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass


def _signal_name(number: int) -> Optional[str]:
    if number <= 0:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:                          # a real-time signal
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"

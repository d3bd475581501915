"""Where it is measured: a throw-away host for nsnet, and the floor beside it.

Knows how to get a network namespace, a state directory and a compiled C program, and how to be rid of them. Refuses to
touch the network that it is started in: both sides work in network namespaces of their own, owned by the caller's user
namespace where it may make one and by a new one where it may not. What is measured is scenarios.py's.
"""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import nsnet
from bench.measure import TOTAL, Round
from nsnet import kernel, values

CHECKOUT = Path(__file__).resolve().parent.parent
FLOORS = CHECKOUT / "bench" / "floor"
PIPES: Dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
MEMORY = "/dev/shm"


class FloorMissing(Exception):
    """There is nothing to compare with, and why."""


class GaveWay(Exception):
    """A program that was asked did not answer, and why."""


class Program:
    """A process that waits: a line in, an answer out. `name`: for errors. `process`: with pipes. Raises GaveWay."""

    def __init__(self, name: str, process: Any):
        self._name, self._process = name, process

    def ask(self, what: str) -> Round:
        """What the steps took, as it says in one line."""
        words = [word.partition("=") for word in self._line(what).split()]
        steps = {step: int(taken) / 1000 for step, _, taken in words}
        return {**steps, TOTAL: sum(steps.values())}

    def show(self, what: str = "") -> List[List[str]]:
        """The words of each line of an answer that ends with an empty one."""
        line, rows = self._line(f"show {what}".rstrip()), []
        while line != "\n":
            rows.append(line.split())
            line = self._next()
        return rows

    def _line(self, what: str) -> str:
        with suppress(BrokenPipeError):             # it has ended: then there is no answer either
            self._process.stdin.write(what.encode() + b"\n")
            self._process.stdin.flush()
        return self._next()

    def _next(self) -> str:
        line = self._process.stdout.readline().decode()
        if not line:
            reason = self._process.stderr.read().decode().strip()
            raise GaveWay(f"{self._name} failed: {reason or 'without a word'}")
        return line

    def close(self) -> None:
        """It ends at the end of its input, its children with it, and their namespaces with them."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with suppress(BrokenPipeError):         # it gave up, and what was asked is still in the buffer
                stream.close()
        self._process.wait()


def compiled(directory: str, source: str) -> str:
    """The path of a C program of bench/floor. Raises FloorMissing."""
    path = os.path.join(directory, Path(source).stem)
    compiler = shutil.which("gcc")
    if compiler is None:
        raise FloorMissing("gcc is not in PATH")
    built = subprocess.run([compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", path,
                            str(FLOORS / source)], stderr=subprocess.PIPE, universal_newlines=True)
    if built.returncode:
        raise FloorMissing("gcc failed: " + (built.stderr.strip().splitlines() or ["silently"])[0])
    return path


class Floor(Program):
    """A C program, compiled and started by `start`, with pipes. Raises FloorMissing, which says why it is not there."""

    SOURCE = ""

    def __init__(self, directory: str, start: Callable[[str], Any]):
        self.path = compiled(directory, self.SOURCE)
        super().__init__(self.SOURCE, start(self.path))
        try:
            self.warm()
        except GaveWay as error:
            self.close()
            raise FloorMissing(str(error)) from None
        except BaseException:
            self.close()
            raise

    def warm(self) -> None:
        """Do everything once, to see that it can."""
        raise NotImplementedError


class ListFloor(Floor):
    """The floor of reading links, in a network namespace that it is started in: `show` gives the fields of each.

    It is asked for "list", "lean" or "one INDEX".
    """

    SOURCE = "list.c"

    def __init__(self, directory: str, netns: nsnet.Netns):
        super().__init__(directory, lambda path: run_inside(netns, [path], **PIPES))

    def warm(self) -> None:
        self.ask("list")


class LaunchFloor(Floor):
    """The floor of launching. `probe`: what it executes when it is to show where its children are."""

    SOURCE = "launch.c"

    def __init__(self, directory: str, probe: Sequence[str]):
        super().__init__(directory, lambda path: subprocess.Popen([path, *probe], **PIPES))

    def warm(self) -> None:
        self.ask("new")


def run_inside(netns: nsnet.Netns, argv: Sequence[str], **options: Any) -> nsnet.Process:
    """A program in a namespace, by way of the user namespace that owns it if that is not ours."""
    way = {} if netns.userns_fd is None else {"user": netns.userns_fd}
    return nsnet.spawn(argv, join={**way, "net": netns}, **options)


def powers(host: nsnet.Netns) -> List[str]:
    """What a peer may have: all that we have here, or those of root in the user namespace that owns the host."""
    mask = kernel.effective_capabilities() if host.userns_fd is None else -1
    return [name for number, name in enumerate(values.CAPABILITIES) if mask >> number & 1]


class Stage:
    """Where everything happens: `host`, a throw-away network namespace, and `state`, nsnet's state directory.

    As a context manager. The state is on /dev/shm if there is one, for nsnet syncs its journal and a disk would be
    measured instead.
    """

    def __enter__(self) -> "Stage":
        self._directory = tempfile.TemporaryDirectory(
            prefix="nsnet-bench-", dir=MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else None)
        try:
            self.state = os.path.join(self._directory.name, "state")
            self._state_before = os.environ.get("NSNET_STATE_DIR")
            os.environ["NSNET_STATE_DIR"] = self.state
            self.host = nsnet.Netns.new()
        except BaseException:
            self._tidy()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.host.close()
        self._tidy()

    def _tidy(self) -> None:
        os.environ.pop("NSNET_STATE_DIR")
        if self._state_before is not None:
            os.environ["NSNET_STATE_DIR"] = self._state_before
        self._directory.cleanup()

    def describe(self) -> List[str]:
        """For the foot of a table. While it is open."""
        owner = "the caller's user namespace" if self.host.userns_fd is None else "a new user namespace"
        kind = "memory" if self.state.startswith(MEMORY + "/") else "perhaps a disk, whose fsync is in the figures"
        return [f"host: a network namespace of its own, owned by {owner}",
                f"nsnet's state: in {os.path.dirname(self._directory.name)} ({kind})"]

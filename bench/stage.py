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
from typing import Any, List

import nsnet
from bench.measure import TOTAL, Round

FLOOR_SOURCE = Path(__file__).resolve().parent / "floor" / "straight.c"
MEMORY = "/dev/shm"


class FloorMissing(Exception):
    """There is nothing to compare with, and why."""


class Floor:
    """The C program, compiled and waiting. Raises FloorMissing, whose text says why the floor's column is empty."""

    def __init__(self, directory: str):
        self.path = os.path.join(directory, "straight")
        compiler = shutil.which("gcc")
        if compiler is None:
            raise FloorMissing("gcc is not in PATH")
        built = subprocess.run([compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", self.path,
                                str(FLOOR_SOURCE)], stderr=subprocess.PIPE, universal_newlines=True)
        if built.returncode:
            raise FloorMissing("gcc failed: " + (built.stderr.strip().splitlines() or ["silently"])[0])
        self._process = subprocess.Popen([self.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE)
        try:
            self.up()
            self.down()
        except FloorMissing:
            self.close()
            raise

    def up(self) -> Round:
        return self._ask(b"up\n")

    def down(self) -> Round:
        return self._ask(b"down\n")

    def _ask(self, what: bytes) -> Round:
        try:
            self._process.stdin.write(what)
            self._process.stdin.flush()
            answer = self._process.stdout.readline().decode()
        except BrokenPipeError:
            answer = ""
        if not answer:
            reason = self._process.stderr.read().decode().strip()
            raise FloorMissing(f"{FLOOR_SOURCE.name} failed: {reason or 'without a word'}")
        steps = {step: int(taken) / 1000 for step, _, taken in (word.partition("=") for word in answer.split())}
        return {**steps, TOTAL: sum(steps.values())}

    def close(self) -> None:
        """It ends at the end of its input, its child with it, and their namespaces with them."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with suppress(BrokenPipeError):         # it gave up, and what was asked is still in the buffer
                stream.close()
        self._process.wait()


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

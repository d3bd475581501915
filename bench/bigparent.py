"""A program of a given size that launches a command when it is asked: nsnet and its peers from the same memory.

Run by the bench, as `python -m bench.bigparent MIB small|huge`; it answers on its standard output as the floors do
(stage.Program). Knows how each contestant launches and waits. Refuses to know who is compared with whom, and who takes
turns: launch.py does.
"""

import gc
import mmap
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

import nsnet
from bench.forked import enter
from nsnet import clone

COMMAND = ("/bin/true",)
# Who it is and where: what must be the same for all. Each of the commands finds itself in /proc.
PROBE = ("/bin/sh", "-c", "PATH=/usr/bin:/bin; id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/net")
SIZES = ("VmRSS:", "VmPTE:", "AnonHugePages:")      # of /proc/self/status and smaps_rollup, in KiB
Wait = Callable[[], int]                            # returns the exit status


# --- the contestants: each returns when its command runs, or as soon after its clone as it is able to --------------

def ours(argv: Sequence[str], new: Iterable[str]) -> Wait:
    process = nsnet.spawn(argv, new=new)

    def wait() -> int:
        status = process.wait()
        process.close()
        return status
    return wait


class NoImage:
    """In the place of clone.image: there is no file to execute, so the child is a copy of this process's memory."""

    def fileno(self) -> int:
        return -1


def ours_copied(argv: Sequence[str], new: Iterable[str]) -> Wait:
    before, clone.image = clone.image, NoImage()
    try:
        return ours(argv, new)
    finally:
        clone.image = before


def forked(argv: Sequence[str]) -> Wait:
    read, write = os.pipe()                         # closed by execve, which is how it is known
    pid = os.fork()
    if pid == 0:
        try:
            enter()
            os.execve(argv[0], argv, os.environ)
        finally:
            os._exit(127)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return lambda: os.waitpid(pid, 0)[1]


def popen(argv: Sequence[str], **options: Any) -> Wait:
    return subprocess.Popen(argv, **options).wait


WAYS: Dict[str, Callable[[Sequence[str]], Wait]] = {
    "nsnet": lambda argv: ours(argv, {"user", "net"}),
    "nsnet-copied": lambda argv: ours_copied(argv, {"user", "net"}),
    "fork": forked,
    "preexec": lambda argv: popen(argv, preexec_fn=enter),
    "unshare": lambda argv: popen(["unshare", "-Urn", *argv]),
    "nsnet-plain": lambda argv: ours(argv, ()),
    "popen-plain": popen,
}


# --- the size ------------------------------------------------------------------------------------------------------

def grow(size: int, huge: bool) -> Optional[mmap.mmap]:
    """Private memory, every page of it written to, that brings this process to `size` bytes; None if it has them.

    Small pages unless `huge`: a fork copies the page tables, and those of huge pages are next to nothing.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        lacking = size - int(file.read().split()[1]) * mmap.PAGESIZE
    if lacking < mmap.PAGESIZE:
        return None
    memory = mmap.mmap(-1, lacking, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):                         # a kernel without huge pages has but one kind
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    for at in range(0, lacking, mmap.PAGESIZE):
        memory[at] = 1
    return memory


def sizes() -> List[str]:
    """What the kernel says of this process's size, a line each."""
    found = []
    for path in ("/proc/self/status", "/proc/self/smaps_rollup"):
        with open(path, encoding="utf-8", errors="replace") as file:
            found += [line.rstrip() for line in file if line.startswith(SIZES)]
    return found


def sacrifice() -> None:
    """If memory gets short after all, let it be this process that ends."""
    with suppress(OSError):
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")


# --- questions and answers -----------------------------------------------------------------------------------------

def check(status: int) -> None:
    if status:
        raise OSError(f"the command ended with status {status}")


def show(what: str) -> None:
    """A way's name: where its command finds itself; "size": how big this process is."""
    if what == "size":
        print("\n".join(sizes()))
    else:
        check(WAYS[what](PROBE)())                  # its output is ours


def measure(way: Callable[[Sequence[str]], Wait]) -> str:
    """Nanoseconds until the command runs, and from then on until it was waited for; garbage is collected before."""
    gc.collect()
    began = time.perf_counter_ns()
    wait = way(COMMAND)
    launched = time.perf_counter_ns()
    status = wait()
    ended = time.perf_counter_ns()
    check(status)
    return f"launched={launched - began} ended={ended - launched}"


def main() -> int:
    """Ends at the end of its input. Exit 1, with a word on standard error, if it cannot go on."""
    try:
        sacrifice()
        memory = grow(int(sys.argv[1]) << 20, sys.argv[2] == "huge")
        gc.freeze()
        for line in sys.stdin:
            *showing, what = line.split()
            if showing:
                show(what)
                print(flush=True)
            else:
                print(measure(WAYS[what]), flush=True)
        del memory
    except (nsnet.NsnetError, OSError, MemoryError, subprocess.SubprocessError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The program that syscalls.py counts: nsnet sets one container up and takes it down, with a mark behind each.

Run by the bench under strace, as `python -m bench.traced`; prints nothing.
"""

from bench.containers import Cycle
from bench.stage import Stage
from bench.syscalls import mark


def main() -> None:
    with Stage() as stage:
        cycle = Cycle(stage.host)
        cycle.up()                      # warm: what is looked up only once in a program's life is not counted
        cycle.down()
        cycle.declare()
        mark("before")
        cycle.launch()
        mark("up")
        cycle.take_down()
        mark("down")


if __name__ == "__main__":
    main()

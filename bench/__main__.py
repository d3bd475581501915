"""`python -m bench setup|teardown|codec|launch|dump|all`: options in, tables or JSON out."""

import argparse
import json
import sys
from typing import List, Optional

try:
    import nsnet
    from bench import contest, measure, peers, scenarios, stage
except ImportError as error:
    sys.exit(f"bench: {error}")

ROUNDS, WARM_UP = 60, 3
QUICK_ROUNDS, QUICK_WARM_UP = 10, 1
LINKS, QUICK_LINKS = 1000, 100
SIZES, QUICK_SIZES = [50, 1024, 4096], [50, 500]


def main(argv: Optional[List[str]] = None) -> int:
    """Exit 0 if it was measured, 1 if this machine does not let it, 2 for bad usage, 130 when interrupted."""
    options = parser().parse_args(argv)
    plan = measure.Plan(options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
                        QUICK_WARM_UP if options.quick else WARM_UP,
                        options.links or (QUICK_LINKS if options.quick else LINKS), options.peers,
                        options.sizes or (QUICK_SIZES if options.quick else SIZES), options.huge_pages)
    wanted = list(scenarios.SCENARIOS) if options.scenario == "all" else [options.scenario]
    try:
        machine = measure.machine()
        results = scenarios.run(wanted, plan)
        if options.json:
            write_json(options.json, {"machine": machine, "nsnet": nsnet.__version__,
                                      "results": {name: result.as_json() for name, result in results.items()}})
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    except stage.GaveWay as error:
        print(f"bench: a program gave way while it was measured: {error}", file=sys.stderr)
        return 1
    except (nsnet.NsnetError, OSError, contest.Disagreement) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.json != "-":
        print(", ".join(f"{name}: {value}" for name, value in machine.items()))
        for result in results.values():
            print("\n" + result.as_text())
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench", description="What network namespaces cost: nsnet beside the"
                                   " same work in straight-line C, and beside others who do it. Touches no network but"
                                   " its own; needs no privilege.")
    made.add_argument("scenario", choices=[*scenarios.SCENARIOS, "all"])
    made.add_argument("--rounds", type=positive, metavar="N", help=f"of each side, in turns ({ROUNDS})")
    made.add_argument("--quick", action="store_true",
                      help=f"{QUICK_ROUNDS} rounds, {QUICK_LINKS} links, small parents: for a first look")
    made.add_argument("--links", type=positive, metavar="N", help=f"veth links in the dump ({LINKS})")
    made.add_argument("--sizes", type=sizes, metavar="MIB", help="resident memory of the parents that launch,"
                      f" separated by commas ({','.join(map(str, SIZES))}; quick: {','.join(map(str, QUICK_SIZES))});"
                      " what does not fit in the memory that is available is left out")
    made.add_argument("--huge-pages", action="store_true", help="for the parents that launch, instead of small ones")
    made.add_argument("--peers", type=names, metavar="NAMES", default=list(peers.PEERS),
                      help="of the codec and the dump, separated by commas, or none"
                           f" ({','.join(peers.PEERS)}); one that is not there is left out")
    made.add_argument("--json", metavar="FILE", help="write every round to FILE, too; - for standard output, alone")
    return made


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def sizes(text: str) -> List[int]:
    return [positive(size) for size in text.split(",")]


def names(text: str) -> List[str]:
    wanted = [] if text == "none" else text.split(",")
    for name in wanted:
        if name not in peers.PEERS:
            raise argparse.ArgumentTypeError(f"{name!r}: expected one or more of {', '.join(peers.PEERS)}, or none")
    return wanted


def write_json(path: str, content: dict) -> None:
    text = json.dumps(content, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench setup|teardown|...|all`: options in; tables, JSON, pictures or a document out."""

import argparse
import json
import os
import sys
import time
from typing import Any, Callable, Dict, List, NoReturn, Optional, Sequence

try:
    import nsnet
    from bench import machine, measure, peers, plots, report, scenarios, stage
    from bench.scale import SHARDS
except ImportError as error:
    sys.exit(f"bench: {error}")

WARM_UP = 3
MOST, MOST_LINKS = 1 << 31, 100_000
QUICK_WARM_UP = 1
LINKS, QUICK_LINKS = 1000, 100
SIZES, QUICK_SIZES = [50, 1024, 4096], [50, 500]
SLOTS, QUICK_SLOTS = 1000, 50
SCALE, QUICK_SCALE = [500, 1000, 2000, 4000], [20, 50]
SECONDS, QUICK_SECONDS = 30.0, 1.0
PICTURES = "results"            # the directory beside a document


def main(argv: Optional[List[str]] = None) -> int:
    """Exit 0 if it was measured, 1 if this machine does not let it, 2 for bad usage, 130 when interrupted."""
    asked = parser()
    options = asked.parse_args(argv)
    for path in (options.json, options.plot, options.report):
        if path not in (None, "-") and not can_write(path, path is options.plot):
            asked.error(f"{path}: cannot be written")
    quick = options.quick
    plan = measure.Plan(options.rounds or 0, QUICK_WARM_UP if quick else WARM_UP,
                        options.links or (QUICK_LINKS if quick else LINKS), options.peers,
                        options.sizes or (QUICK_SIZES if quick else SIZES), options.huge_pages, quick,
                        options.slots or (QUICK_SLOTS if quick else SLOTS),
                        options.scale or (QUICK_SCALE if quick else SCALE),
                        options.seconds or (QUICK_SECONDS if quick else SECONDS))
    wanted = list(scenarios.SCENARIOS) if options.scenario == "all" else [options.scenario]
    try:
        if options.plot or options.report:
            plots.load()                # before minutes have passed
        return run(wanted, plan, options, ["python", "-m", "bench", *(sys.argv[1:] if argv is None else argv)])
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    except (*scenarios.FAILURES, plots.NoPlots) as error:
        print(f"bench: {said(error)}", file=sys.stderr)
        return 1


def said(error: Exception) -> str:
    return f"a program gave way while it was measured: {error}" if isinstance(error, stage.GaveWay) else str(error)


def run(wanted: Sequence[str], plan: measure.Plan, options: Any, command: Sequence[str]) -> int:
    """Each result is printed, and in the JSON, as soon as it is there. 1 if one of several scenarios has none."""
    content: Dict[str, Any] = {"command": " ".join(command), "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                               "nsnet": nsnet.__version__, "machine": machine.describe(), "results": {}, "failed": {},
                               "seconds": {}}
    if options.json != "-":
        print("\n".join(f"{topic}: {text}" for topic, text in content["machine"].items()), flush=True)
    began = time.monotonic()
    for name, result in scenarios.run(wanted, plan):
        ended = time.monotonic()
        content["seconds"][name], began = round(ended - began, 1), ended
        if isinstance(result, Exception):
            content["failed"][name] = said(result)
            print(f"bench: {name}: {said(result)}", file=sys.stderr)
        else:
            content["results"][name] = result.as_json()
            if options.json != "-":
                print("\n" + result.as_text(), flush=True)
        if options.json not in (None, "-"):
            write(options.json, json.dumps(content, indent=1) + "\n")
    if options.json == "-":
        print(json.dumps(content, indent=1))
    if options.plot:
        plots.draw(content["results"], options.plot)
    if options.report:
        beside = os.path.join(os.path.dirname(options.report), PICTURES)
        write(options.report, report.document(content, plots.draw(content["results"], beside), PICTURES))
    return 1 if content["failed"] else 0


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench: {message}\n")


def parser() -> Parser:
    made = Parser(prog="python -m bench", description="What network namespaces cost: nsnet beside the"
                                   " same work in C, and beside others who do it. Touches no network but its own; needs"
                                   " no privilege.")
    made.add_argument("scenario", choices=[*scenarios.SCENARIOS, "all"])
    made.add_argument("--rounds", type=positive, metavar="N",
                      help=f"of each side, in turns (by scenario, {min(scenarios.ROUNDS.values())} to"
                           f" {scenarios.OTHERS}; quick: at most {scenarios.QUICK_ROUNDS})")
    made.add_argument("--quick", action="store_true",
                      help="few rounds, few slots and links, small parents, short times: for a first look")
    made.add_argument("--links", type=links, metavar="N",
                      help=f"veth links in the dump ({LINKS}; quick: {QUICK_LINKS})")
    made.add_argument("--sizes", type=several(positive), metavar="MIB", help="resident memory of the parents that launch,"
                      f" separated by commas ({','.join(map(str, SIZES))}; quick: {','.join(map(str, QUICK_SIZES))});"
                      " what does not fit in the memory that is available is left out")
    made.add_argument("--huge-pages", action="store_true", help="for the parents that launch, instead of small ones")
    made.add_argument("--slots", type=positive, metavar="N",
                      help=f"slots of bulk and of rss ({SLOTS}; quick: {QUICK_SLOTS})")
    made.add_argument("--scale", type=several(slots), metavar="N", help="slots of scale, separated by commas, from"
                      f" {SHARDS} on ({','.join(map(str, SCALE))}; quick: {','.join(map(str, QUICK_SCALE))})")
    made.add_argument("--seconds", type=positive, metavar="N",
                      help=f"of churn, for each contestant ({SECONDS:g}; quick: {QUICK_SECONDS:g})")
    made.add_argument("--peers", type=names, metavar="NAMES", default=list(peers.PEERS),
                      help=f"separated by commas, all (as without it), or none ({','.join(peers.PEERS)}); one that is"
                           " not there is left out")
    made.add_argument("--json", metavar="FILE", help="write every round to FILE, too; - for standard output, alone")
    made.add_argument("--plot", metavar="DIR", help="draw pictures there, too (needs matplotlib: pip install"
                      " '.[bench]')")
    made.add_argument("--report", metavar="FILE", help="write all of it as a Markdown document, with its pictures in"
                      f" {PICTURES}/ beside it (needs matplotlib)")
    return made


def positive(text: str) -> int:
    return whole(text, 1)


def slots(text: str) -> int:
    return whole(text, SHARDS)


def links(text: str) -> int:
    return whole(text, 1, MOST_LINKS)


def whole(text: str, least: int, most: int = MOST) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from {least} to {most}")
    return int(text)


def several(one: Callable[[str], int]) -> Callable[[str], List[int]]:
    return lambda text: [one(part) for part in text.split(",")]


def names(text: str) -> List[str]:
    wanted = list(peers.PEERS) if text == "all" else [] if text == "none" else text.split(",")
    for name in wanted:
        if name not in peers.PEERS:
            raise argparse.ArgumentTypeError(f"{name!r}: expected one or more of {', '.join(peers.PEERS)}, all or none")
    return wanted


def can_write(path: str, directory: bool) -> bool:
    """Whether there is such a file or directory, or may be; asked before minutes have passed."""
    if os.path.exists(path):
        return os.path.isdir(path) == directory and os.access(path, os.W_OK)
    return os.access(os.path.dirname(os.path.abspath(path)), os.W_OK | os.X_OK)


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())

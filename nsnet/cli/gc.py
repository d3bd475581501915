"""`nsnet gc`: remove what networks without a living owner left behind, and nothing else."""

import argparse
import json
import sys

from nsnet.cli.options import printable
from nsnet.collection import collect
from nsnet.netns import Netns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gone", metavar="KEY", action="append", default=[],
                        help="the network namespace of this claim is gone, which nsnet cannot find out where it does not see"
                        " every process: kill what it launched, and forget it; may be repeated")
    parser.add_argument("--json", action="store_true", help="print one object: removed, alive, kept, elsewhere, failed")


def run(options: argparse.Namespace) -> int:
    """Exit 0 if nothing of what it may remove is left, 1 if something could not be removed."""
    with Netns.current() as here:
        found = collect(here, gone=options.gone)
    if options.json:
        print(json.dumps(found._asdict()))
    else:
        for name in found.removed:
            print(f"removed {printable(name)}")
        for name in found.alive:
            print(f"left {printable(name)}: its owner lives")
        for name in found.kept:
            print(f"left {printable(name)}: it is to stay; nsnet down removes it")
        for name in found.elsewhere:
            print(f"left {printable(name)}: it is in another namespace; run gc there (gc --gone KEY, if that is gone)")
        if not any(found):
            print("nothing to remove")
    for problem in found.failed:
        print(f"nsnet: {printable(problem)}", file=sys.stderr)
    return 1 if found.failed else 0

"""`nsnet down FILE|NAME ...`: networks taken down, by the file that declared them or by their bridges' names.

It makes no difference what of a network is still there, or whether it is up at all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from nsnet import declaration, removal
from nsnet.cli.options import number, printable
from nsnet.errors import NsnetError
from nsnet.netns import Netns
from nsnet.network import take_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="FILE|NAME", nargs="+", help="what `nsnet up` was given, or the name of a bridge")
    parser.add_argument("--timeout", default=f"{removal.TIMEOUT:.0f}", metavar="SECONDS",
                        help="for each network; what is not gone then is reported as pending, and gc goes on (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one object: removed, failed")


def run(options: argparse.Namespace) -> int:
    """Exit 0 if nothing of it is left, 1 if something is pending or could not be removed."""
    timeout = number(options.timeout, "--timeout", "[0-9]{1,6}", 0, 999999, "seconds")
    removed: Dict[str, List[str]] = {}
    failed: Dict[str, str] = {}
    with Netns.current() as here:
        for bridge in _bridges(options.what):
            removed[bridge] = []
            try:
                take_down(bridge, netns=here, timeout=timeout, removed=removed[bridge])
            except NsnetError as error:
                failed[bridge] = str(error)
    if options.json:
        print(json.dumps({"removed": removed, "failed": failed}))
    else:
        for bridge, names in removed.items():
            if bridge not in failed or names:
                print(f"{bridge}: " + (f"removed {printable(', '.join(names))}" if names else "nothing to take down"))
    for bridge, problem in failed.items():
        print(f"nsnet: {bridge}: {printable(problem)}", file=sys.stderr)
    return 1 if failed else 0


def _bridges(words: List[str]) -> List[str]:
    """A name of a bridge has no slash, and no file's suffix."""
    found: List[str] = []
    for word in words:
        if "/" in word or word == "-" or word.endswith((".json", ".toml")) or os.path.isfile(word):
            found += [spec.bridge for spec in reversed(declaration.load(word))]
        else:
            found.append(word)
    return list(dict.fromkeys(found))

"""`nsnet explain [HEX]`: netlink messages in words, from the argument or standard input."""

import argparse
import sys

from nsnet.errors import UsageError
from nsnet.explain import explain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hex", nargs="?", help="the bytes in hex, white space allowed; by default standard input")


def run(options: argparse.Namespace) -> int:
    """Exit 2 if the text is not hex."""
    text = sys.stdin.read() if options.hex is None else options.hex
    try:
        data = bytes.fromhex("".join(text.split()))
    except ValueError:
        raise UsageError(f"{' '.join(text.split())[:60]!r}: expected bytes in hex") from None
    print(explain(data))
    return 0

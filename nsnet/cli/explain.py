"""`nsnet explain [--json] [--file FILE] [FILE | HEX ...]`: netlink messages in words, of hex or of an nlmon capture.

Knows where the bytes come from and how a packet of a capture is introduced; nsnet/explainer.py finds the words,
nsnet/pcap.py the packets.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import string
import sys

from nsnet.errors import ProtocolError, UsageError
from nsnet.explainer import Explainer
from nsnet.pcap import FAMILIES, NETLINK_ROUTE, Packet, is_capture, packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional

# A file is read whole, and no trace that a person reads is longer: this much is hundreds of thousands of messages.
MAX_BYTES = 64 << 20

HEX_BYTES = 32                          # in a line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one list with an object for each message")
    parser.add_argument("input", nargs="*", metavar="FILE|HEX",
                        help="a pcap or pcapng file captured on an nlmon device, a file of hex, or the bytes in hex, "
                             "white space allowed; what can be hex is hex, whatever files there are; by default "
                             f"standard input; at most {MAX_BYTES >> 20} MiB")
    parser.add_argument("--file", action="append", default=[], metavar="FILE",
                        help="a file, also if its name can be hex, such as beef; several times if need be")


def run(options: argparse.Namespace) -> int:
    """Exit 2 for words that are neither hex nor a file, 1 for a file or an input that is neither hex nor a capture."""
    sources = _sources(options.input, options.file)
    try:
        if options.json:
            _print_json(sources)
        else:
            for text in _texts(sources):
                _print(text)
        sys.stdout.flush()
    except BrokenPipeError:             # explain | head: nobody reads any more, and Python flushes once more at its end
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 1
    return 0


# --- where the bytes come from ---

def _sources(words: List[str], files: List[str]) -> Iterator[bytes]:
    """The content of what is to be explained.

    What a word means does not depend on which files there are: in another directory it would mean something else.
    """
    digits = "".join("".join(words).split())
    if not words and not files:
        yield _read("standard input", sys.stdin.buffer)
    elif words and all(digit in string.hexdigits for digit in digits):
        yield _from_hex(digits, UsageError, "; of a file with that name: --file")
    else:
        yield from (_read_file(word, "no such file, and no bytes in hex") for word in words)
    yield from (_read_file(file, "no such file") for file in files)


def _read_file(word: str, missing: str) -> bytes:
    try:
        file = open(word, "rb")
    except (OSError, ValueError) as error:              # ValueError: a NUL in it
        if getattr(error, "errno", errno.ENOENT) not in (errno.ENOENT, errno.ENAMETOOLONG):
            raise
        raise UsageError(f"{word[:120]!r}: {missing}") from None
    with file:
        return _read(word, file)


def _read(name: str, file: Any) -> bytes:
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name}: expected at most {MAX_BYTES >> 20} MiB")
    if is_capture(data):
        return data
    try:
        return _from_hex("".join(data.decode("ascii").split()), ProtocolError)
    except (UnicodeDecodeError, ProtocolError):
        raise ProtocolError(f"{name}: neither a pcap or pcapng file nor bytes in hex") from None


def _from_hex(digits: str, refusal: type, otherwise: str = "") -> bytes:
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        data = b""
    if not data:
        raise refusal(f"{digits[:60]!r}: expected bytes in hex, two digits each{otherwise}")
    return data


def _packets(data: bytes) -> Iterator[Packet]:
    """Of bytes that came as hex, one packet, without time and direction."""
    return packets(data) if is_capture(data) else iter([Packet(None, "", NETLINK_ROUTE, data)])


# --- what is said of them ---

class _Clock:
    """Seconds since the first packet that has a time."""

    def __init__(self) -> None:
        self._first: Optional[int] = None

    def since(self, time_ns: int) -> str:
        if self._first is None:
            self._first = time_ns
        return f"{(time_ns - self._first) / 1e9:.6f} "


def _texts(sources: Iterator[bytes]) -> Iterator[str]:
    for data in sources:
        explainer, clock = Explainer(), _Clock()
        for time_ns, direction, family, message in _packets(data):
            arrow = ("" if time_ns is None else clock.since(time_ns)) + (f"{direction} " if direction else "")
            yield explainer.text(message, arrow) if family == NETLINK_ROUTE else _other(arrow, family, message)


def _other(arrow: str, family: int, data: bytes) -> str:
    """A packet of another netlink protocol: its name and its bytes."""
    lines = [data[at:at + HEX_BYTES].hex() for at in range(0, len(data), HEX_BYTES)]
    return "\n   ".join([f"{arrow}{FAMILIES.get(family, f'netlink {family}')}, {len(data)} bytes", *lines])


def _objects(sources: Iterator[bytes]) -> Iterator[Dict[str, Any]]:
    for data in sources:
        explainer = Explainer()
        for time_ns, direction, family, message in _packets(data):
            about: Dict[str, Any] = {"time_ns": time_ns, "direction": direction} if direction else {}
            about["family"] = FAMILIES.get(family, family)
            found = explainer.objects(message) if family == NETLINK_ROUTE else [{"payload": message.hex()}]
            yield from ({**about, **one} for one in found)


def _print(text: str) -> None:
    """Whatever the terminal's character set: names of links are the kernel's bytes."""
    charset = sys.stdout.encoding or "ascii"
    print(text.encode(charset, "backslashreplace").decode(charset))


def _print_json(sources: Iterator[bytes]) -> None:
    """One by one, for a capture is long. The list ends as it should even where the capture does not."""
    before = "["
    try:
        for one in _objects(sources):
            sys.stdout.write(before + json.dumps(one))
            before = ",\n "
    except ProtocolError:
        if before != "[":
            print("]")
        raise
    print("[]" if before == "[" else "]")

"""The text of a file of JSON or TOML as a table of plain values, however hostile the file is.

Knows the two languages, their parsers' weak spots, and how a place in a file is called. Reads the file. Does not know
what the keys mean.

Before anything else looks at it, what is too long or too deep is refused, and what no key wants: NUL in text, numbers
that are not finite or that no 64 bits hold, a key that stands twice. A refusal is one line that begins with the file's
name.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re

from nsnet import kernel
from nsnet.errors import UsageError
from nsnet.kinds import at, inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple, Union

MOST_BYTES = 1 << 20                # of a file
MOST_DEPTH = 16                     # of tables and lists in each other


def read(path: Union[str, os.PathLike]) -> Tuple[bytes, str, Optional[str]]:
    """The bytes of a file, what to call it, and its kind, if its suffix says that; "-" is standard input.

    No more than one byte beyond MOST_BYTES. Raises KernelError if it cannot be read, UsageError for what is no path.
    """
    try:
        name = os.fsdecode(path)
        with kernel.refused(f"read {shown(name)}"):
            with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
                content = file.read(MOST_BYTES + 1)
    except (TypeError, ValueError):     # a NUL in it, or what stands for no bytes
        raise UsageError(f"file {path!r}: expected a path") from None
    kind = {".json": "json", ".toml": "toml"}.get(os.path.splitext(name)[1].lower())
    return content, "standard input" if name == "-" else name, kind


def shown(name: str) -> str:
    """A file's name in a line that is to stay one."""
    return name if name.isprintable() and name else repr(name)


def parse(text: Union[str, bytes], name: str, kind: Optional[str]) -> Dict[str, Any]:
    """The table that a text is: of text, numbers, true and false, dates (TOML), null (JSON), lists and tables of them.

    `name`: what refusals begin with. `kind`: "json" or "toml"; by default JSON if it begins with a brace. Raises
    UsageError for what is too long, no UTF-8, a mistake (with its line and column), a key that stands twice, NUL, a
    number that is not finite or not of 64 bits, more than 16 tables and lists in each other.
    """
    if len(text) > MOST_BYTES:
        raise UsageError(f"{name}: expected at most {MOST_BYTES} bytes")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: expected UTF-8, which byte {error.start} is not") from None
    text = text[1:] if text.startswith("\ufeff") else text      # a byte order mark, of some editors
    if kind is None:
        kind = "json" if text.lstrip()[:1] == "{" else "toml"
    try:
        document = _json(text, name) if kind == "json" else _toml(text, name)
    except RecursionError:
        raise UsageError(f"{name}: expected no more than {MOST_DEPTH} tables and lists in each other") from None
    if not isinstance(document, dict):
        raise UsageError(f"{name}: expected a table, not {_kind_of(document)}")
    _check(document, name)
    return document


def _kind_of(value: Any) -> str:
    return "a list" if isinstance(value, list) else repr(value)[:40]


def _check(document: Dict, name: str) -> None:
    """Refuse what no key wants, before anything shows it or goes down into it."""
    left: List[Tuple[Any, Tuple[Union[str, int], ...]]] = [(document, ())]
    while left:
        value, path = left.pop()        # the keys and places on the way to it; text is made of them for a refusal only
        if len(path) > MOST_DEPTH:
            raise UsageError(f"{name}: expected no more than {MOST_DEPTH} tables and lists in each other")
        if isinstance(value, dict):
            for key, item in value.items():
                if "\0" in key:
                    raise UsageError(f"{inside(_where(name, path))}key {key!r}: expected no NUL")
                left.append((item, (*path, key)))
        elif isinstance(value, list):
            left.extend((item, (*path, index)) for index, item in enumerate(value))
        elif isinstance(value, str):
            if "\0" in value:
                raise UsageError(f"{_where(name, path)} {value!r}: expected no NUL")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{_where(name, path)} {value!r}: expected a finite number")
        elif isinstance(value, int) and not -2**63 <= value < 2**64:
            raise UsageError(f"{_where(name, path)}: expected a number of 64 bits, not of {value.bit_length()}")


def _where(name: str, path: Tuple[Union[str, int], ...]) -> str:
    where = f"{name}:"
    for step in path:
        if isinstance(step, int):
            where += f"[{step}]"
        else:
            where = at(where, step if re.fullmatch("[A-Za-z0-9_-]{1,64}", step) else repr(step))
    return where


def _json(text: str, name: str) -> Any:
    def pairs(items: List[Tuple[str, Any]]) -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise UsageError(f"{name}: key {key!r}: it stands twice in one object")
            found[key] = value
        return found

    def whole(digits: str) -> int:      # Python bounds the digits it takes only since some version
        return int(digits) if len(digits) <= 20 else constant(digits[:20] + "...")

    def constant(word: str) -> Any:
        raise UsageError(f"{name}: {word}: expected a finite number of 64 bits")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_int=whole, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise UsageError(f"{name} line {error.lineno} column {error.colno}: {error.msg}") from None


# tomllib's time for a key goes with the square of its parts: a key of more is refused before it looks.
_LONG_KEY = re.compile(r"""(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){64}""")


def _toml(text: str, name: str) -> Any:
    parser = toml_parser()
    if parser is None:
        raise UsageError(f"{name}: expected JSON; for TOML, Python 3.11 or newer, or pip install 'nsnet[toml]'")
    if _LONG_KEY.search(text):
        raise UsageError(f"{name}: expected keys of less than 64 parts")
    try:
        return parser.loads(text)
    except ValueError as error:
        place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
        if not isinstance(error, parser.TOMLDecodeError) or place is None:
            raise UsageError(f"{name}: expected TOML; " + " ".join(str(error).split())) from None
        said = " ".join(str(error)[:place.start()].split())
        line = f"line {place[1]} column {place[2]}" if place[1] else f"line {text.count(chr(10)) + 1}"
        raise UsageError(f"{name} {line}: {said}") from None


def toml_parser() -> Any:
    """Python's own since 3.11; else the package that became it, if it is installed."""
    for module in ("tomllib", "tomli"):
        try:
            return importlib.import_module(module)
        except ImportError:
            pass
    return None

"""What the values of a declaration may be, one by one: each kind with its check, its JSON Schema and its form in JSON.

Knows types, bounds and spelling, and refuses in one line that names the place and the value. Does not know which key
has which kind, nor how values fit together: declaration.py does. Asks the kernel nothing.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping

from nsnet import idmap, kernel, values
from nsnet.errors import UsageError
from nsnet.named import NamedTuple
from nsnet.values import Address
from nsnet.wire import decode_ip, encode_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

MOST_ADDRESSES = 64                 # of one bridge or attachment
MOST_RANGES = 1024
UNLIMITED = 2**64 - 1               # RLIM64_INFINITY, <linux/resource.h>
LIMITS = {name[len("RLIMIT_"):].lower(): getattr(resource, name) for name in sorted(dir(resource))
          if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"}      # BSD's name of nofile
_MOST_AGEING = (2**32 - 1) / 100    # seconds: IFLA_BR_AGEING_TIME is a u32 of 1/100 s
_AUTO = "auto"


def at(where: str, name: str) -> str:
    """What is called `name` in a refusal: "FILE: bridge", "FILE: network[0].bridge"."""
    if not where:
        return name
    return f"{where} {name}" if where.endswith(":") else f"{where}.{name}"


def inside(where: str) -> str:
    """What a refusal of a table as a whole begins with: "FILE: ", "FILE: network[0]: ", or nothing."""
    return where and f"{where.rstrip(':')}: "


def refuse(what: str, value: Any, expected: str) -> Any:
    """One line that names a value, or what it is where that would be long."""
    if isinstance(value, int) and value.bit_length() > 64:
        raise UsageError(f"{what.rstrip(':')}: expected {expected}, not a number of {value.bit_length()} bits")
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        kind = "table" if isinstance(value, Mapping) else "list"
        raise UsageError(f"{what.rstrip(':')}: expected {expected}, not a {kind}")
    raise UsageError(f"{what} {value!r}: expected {expected}")


def one(value: Any, what: str, expected: str) -> Any:
    """A value that is no table and no list, nor a number that Python would not print."""
    several = isinstance(value, (Mapping, list, tuple, set, frozenset)) and not isinstance(value, Address)
    huge = isinstance(value, int) and value.bit_length() > 64
    return refuse(what, value, expected) if several or huge else value


def items(value: Any, what: str, of: str) -> Tuple[Any, ...]:
    """What is in a list. A keyword argument may be any iterable but text and tables."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        refuse(what, value, f"a list of {of}")
    return tuple(value)


def _not_too_many(given: Tuple, most: int, what: str) -> Tuple:
    """Of what is held against each other, so that the time for it has a bound."""
    if len(given) > most:
        raise UsageError(f"{what}: expected at most {most}, not {len(given)}")
    return given


def table(value: Any, what: str) -> Mapping:
    """A table as it is."""
    return value if isinstance(value, Mapping) else refuse(what, value, "a table")


def _known(check: Callable, expected: str) -> Callable[[Any, str], Any]:
    """A check of values.py, whose words are for one value."""
    return lambda value, what: check(one(value, what, expected), what)


def text(value: Any, what: str, expected: str = "text") -> str:
    """Text that a program can be given: some bytes, none of them NUL."""
    if not isinstance(value, str):
        refuse(what, value, expected)
    try:
        if b"\0" not in value.encode("utf-8", "surrogateescape"):
            return value
    except UnicodeEncodeError:
        refuse(what, value, "text that stands for bytes")
    return refuse(what, value, "no NUL")


def _path(value: Any, what: str) -> str:
    return text(value, what, "a path") or refuse(what, value, "a path")


def _stream(value: Any, what: str) -> Optional[str]:
    found = text(value, what, '"null" or a path') or refuse(what, value, '"null" or a path')
    return None if found == "null" else found


def _bool(value: Any, what: str) -> bool:
    return value if isinstance(value, bool) else refuse(what, value, "true or false")


def _number(low: int, high: int) -> Callable[[Any, str], int]:
    def check(value: Any, what: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            refuse(what, value, f"a number from {low} to {high}")
        return value
    return check


def _seconds(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_AGEING:    # nor NaN
        refuse(what, value, f"seconds from 0 to {_MOST_AGEING:.0f}")
    return value


def _choice(*names: str) -> Callable[[Any, str], str]:
    def check(value: Any, what: str) -> str:
        known = isinstance(value, str) and value in names
        return value if known else refuse(what, value, "one of " + ", ".join(names))
    return check


def _name(value: Any, what: str) -> str:
    if not values.is_name(value, 64):
        refuse(what, value, "1 to 64 of A-Z a-z 0-9 _ . - beginning with a letter or digit")
    return value


def _addresses(value: Any, what: str) -> Tuple[Address, ...]:
    if isinstance(value, Mapping):
        refuse(what, value, "an address or a list of them")
    if isinstance(value, (str, Address)) or not hasattr(value, "__iter__"):
        value = (value,)
    value = _not_too_many(tuple(value), MOST_ADDRESSES, what)
    return values.addresses([one(item, what, "an address with a prefix, such as 10.0.0.2/24") for item in value], what)


def _auto_or_addresses(value: Any, what: str) -> Tuple[Address, ...]:
    """None of them for "auto"."""
    given = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    if _AUTO not in given:
        return _addresses(value, what)
    if len(given) > 1:
        raise UsageError(f"{what} 'auto': expected it alone, or addresses without it")
    return ()


def _range_texts(value: Any, what: str) -> Tuple[str, ...]:
    return distinct(text, "addresses")(_not_too_many(items(value, what, "addresses"), MOST_RANGES, what), what)


def _ip(value: Any, what: str) -> str:
    if not isinstance(value, str) or not is_ip(value):
        refuse(what, value, "an IP without prefix")
    packed = encode_ip(value)
    values.host_address(f"{value}/{8 * len(packed)}", what)
    return decode_ip(packed)


def is_ip(value: str) -> bool:
    """Whether a text is an IPv4 or IPv6 address, without a prefix."""
    try:
        return bool(encode_ip(value))
    except UsageError:
        return False


def _destination(value: Any, what: str) -> str:
    if value == "default":
        return value
    return str(values.network(one(value, what, '"default" or a network such as 10.1.0.0/16'), what))


def _command(value: Any, what: str) -> Tuple[str, ...]:
    words = tuple(text(word, what, "words of text") for word in items(value, what, "words"))
    return values.command(words, what)


def _namespaces(value: Any, what: str) -> Tuple[str, ...]:
    return tuple(sorted({_choice(*sorted(kernel.CLONE_FLAGS))(kind, what)
                         for kind in items(value, what, "kinds of namespaces")}))


def _capabilities(value: Any, what: str) -> Tuple[str, ...]:
    names = [one(item, what, "a name from capabilities(7)") for item in items(value, what, "names")]
    mask = values.capabilities(names, what)
    return tuple(name for number, name in enumerate(values.CAPABILITIES) if mask >> number & 1)


def distinct(check: Callable[[Any, str], Any], of: str) -> Callable[[Any, str], Tuple]:
    """A list of what `check` takes; none twice."""
    def several(value: Any, what: str) -> Tuple:
        found: Dict[Any, None] = {}
        for item in items(value, what, of):
            item = check(item, what)
            if item in found:
                raise UsageError(f"{what} {item!r}: it stands twice")
            found[item] = None
        return tuple(found)
    return several


def _id(value: Any, what: str) -> Union[int, str]:
    if isinstance(value, str):
        return text(value, what) or refuse(what, value, "a number, or a name")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= idmap.MAX_ID:
        refuse(what, value, f"a number from 0 to {idmap.MAX_ID}, or a name")
    return value


def _map(value: Any, what: str) -> Tuple[idmap.Range, ...]:
    if isinstance(value, str):
        return idmap.parse_option(value, what)
    value = value if isinstance(value, Mapping) else items(value, what, "[inside, outside, count]")
    for row in value.items() if isinstance(value, Mapping) else value:
        for number in row if isinstance(row, (list, tuple)) else ():
            one(number, what, f"whole numbers from 0 to {idmap.MAX_ID}")
    return idmap.check(value, what)


def _umask(value: Any, what: str) -> int:
    """A number, which in TOML may be octal; or octal digits in quotes, for JSON."""
    if isinstance(value, str) and 1 <= len(value) <= 4 and not value.strip("01234567") and int(value, 8) <= 0o777:
        return int(value, 8)
    if isinstance(value, (bool, str)) or not isinstance(value, int) or not 0 <= value <= 0o777:
        refuse(what, value, 'a number from 0 to 511, or octal digits such as "022"')
    return value


def _hostname(value: Any, what: str) -> str:
    found = text(value, what, "1 to 64 bytes")
    return found if 1 <= len(found.encode("utf-8", "surrogateescape")) <= 64 else refuse(what, value, "1 to 64 bytes")


def _environment(value: Any, what: str) -> Tuple[Tuple[str, str], ...]:
    for name in table(value, what):
        if not isinstance(name, str) or not name or "=" in text(name, what):
            refuse(what, name, "a name without =")
    return tuple((name, text(found, f"{what} {name!r}:")) for name, found in value.items())


def _rlimits(value: Any, what: str) -> Tuple[Tuple[str, int, int], ...]:
    found = []
    for name, limits in table(value, what).items():
        if name not in LIMITS:
            refuse(what, name, "one of " + ", ".join(LIMITS))
        pair = tuple(limits) if isinstance(limits, (list, tuple)) else (limits, limits)
        soft, hard = (_limit(number, f"{what} {name!r}:") for number in (pair if len(pair) == 2 else ([], [])))
        if soft > hard:
            raise UsageError(f"{what} {name!r}: expected SOFT, {soft}, to be no more than HARD, {hard}")
        found.append((name, soft, hard))
    return tuple(found)


def _limit(value: Any, what: str) -> int:
    if value == "unlimited":
        return UNLIMITED
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63 and value != UNLIMITED:
        refuse(what, value, 'a number or "unlimited", or [soft, hard] of them')
    return value


# --- the same for JSON, in both directions ---

class Kind(NamedTuple):
    """What a value may be. `check(value, what)`: the value checked, or UsageError, which begins with `what`.

    `schema`: the same in JSON Schema, as far as that goes. `plain(checked)`: as JSON has it.
    """

    check: Callable[[Any, str], Any]
    schema: Mapping[str, Any]
    plain: Callable[[Any], Any] = lambda checked: checked


def list_of(schema: Mapping, **more: Any) -> Dict[str, Any]:
    """The schema of a list."""
    return {"type": "array", "items": schema, **more}


def table_of(schema: Mapping, **more: Any) -> Dict[str, Any]:
    """The schema of a table with names that are the user's."""
    return {"type": "object", "additionalProperties": schema, **more}


def _whole(low: int, high: int) -> Dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _one_or_several(addresses: Sequence[Address]) -> Union[str, List[str]]:
    return str(addresses[0]) if len(addresses) == 1 else [str(item) for item in addresses]


def _plain_limits(limits: Iterable[Tuple[str, int, int]]) -> Dict[str, Any]:
    def plain(number: int) -> Union[int, str]:
        return "unlimited" if number == UNLIMITED else number
    return {name: plain(soft) if soft == hard else [plain(soft), plain(hard)] for name, soft, hard in limits}


_SOME = {"type": "string", "minLength": 1}
_WITH_PREFIX = {"type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$"}
_LINK = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$", "not": {"enum": ["all", "default", "lo"]}}
_USER = {"type": ["integer", "string"], "minimum": 0, "maximum": idmap.MAX_ID, "minLength": 1}
_LIMIT = {"type": ["integer", "string"], "minimum": 0, "pattern": "^unlimited$"}
_TRIPLE = "[0-9]{1,10}(:[0-9]{1,10}){2}"

_LINK_NAME = _known(values.ifname, "the name of a link")
IFNAME = Kind(_LINK_NAME, _LINK)
LLADDR = Kind(_known(values.lladdr, "six bytes such as 02:00:00:00:00:01"),
              {"type": "string", "pattern": "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$"})
MTU = Kind(_known(values.mtu, "68 to 65535 bytes"), _whole(68, 65535))
BOOL = Kind(_bool, {"type": "boolean"})
NAME = Kind(_name, {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"})
ADDRESSES = Kind(_addresses, {"anyOf": [_WITH_PREFIX, list_of(_WITH_PREFIX, minItems=1, maxItems=MOST_ADDRESSES)]},
                 _one_or_several)
AUTO_OR_ADDRESSES = Kind(_auto_or_addresses, {"anyOf": [{"const": _AUTO}, *ADDRESSES.schema["anyOf"]]},
                         lambda checked: _one_or_several(checked) if checked else _AUTO)
PATH = Kind(_path, _SOME)
STREAM = Kind(_stream, _SOME)
USER = Kind(_id, _USER)
RANGES = Kind(_range_texts, list_of({"type": "string", "pattern": "^[0-9A-Fa-f:./-]+$"}, maxItems=MOST_RANGES,
                                    uniqueItems=True), list)
IDMAP = Kind(_map, {"anyOf": [{"type": "string", "pattern": f"^{_TRIPLE}(,{_TRIPLE})*$"},
                              list_of(list_of(_whole(0, idmap.MAX_ID), minItems=3, maxItems=3), minItems=1,
                                      maxItems=idmap.MAX_LINES)]},
             lambda checked: [list(row) for row in checked])
COMMAND = Kind(_command, list_of({"type": "string"}, minItems=1), list)
PID = Kind(_number(1, 2**31 - 1), _whole(1, 2**31 - 1))
PIN = Kind(_known(values.pin_name, "a name"), {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$"})
DESTINATION = Kind(_destination, {"type": "string"})
IP = Kind(_ip, {"type": "string"})
QUEUES = Kind(_number(1, 4096), _whole(1, 4096))         # the kernel's own limit, rtnl_create_link()
METRIC = Kind(_number(0, 2**32 - 1), _whole(0, 2**32 - 1))
CAPABILITIES = Kind(_capabilities, list_of({"type": "string"}), list)
ENVIRONMENT = Kind(_environment, table_of({"type": "string"}, propertyNames={"pattern": "^[^=]+$"}), dict)
USERS = Kind(distinct(_id, "numbers or names"), list_of(_USER, uniqueItems=True), list)
HOSTNAME = Kind(_hostname, {**_SOME, "maxLength": 64})
NAMESPACES = Kind(_namespaces, list_of({"enum": sorted(kernel.CLONE_FLAGS)}, contains={"const": "net"}), list)
UMASK = Kind(_umask, {"anyOf": [_whole(0, 0o777), {"type": "string", "pattern": "^0?[0-7]{1,3}$"}]},
             lambda checked: f"{checked:03o}")
SCORE = Kind(_number(-1000, 1000), _whole(-1000, 1000))
RLIMITS = Kind(_rlimits, {"type": "object", "additionalProperties": False, "properties": {
    name: {"anyOf": [_LIMIT, list_of(_LIMIT, minItems=2, maxItems=2)]} for name in LIMITS}}, _plain_limits)
SECONDS = Kind(_seconds, {"type": "number", "minimum": 0, "maximum": _MOST_AGEING})
LINKS = Kind(distinct(_LINK_NAME, "links"), list_of(_LINK, uniqueItems=True), list)


def one_of(*names: str) -> Kind:
    """One of these words."""
    return Kind(_choice(*names), {"enum": list(names)})

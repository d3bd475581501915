"""What the requests share: flags, checks of numbers and names, and options by name.

Pure. Knows no message type.
"""

from __future__ import annotations

import errno
import operator
from collections.abc import Mapping
from functools import lru_cache, wraps

from nsnet import rtnl
from nsnet.errors import UsageError
from nsnet.values import is_name
from nsnet.wire import encode_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, FrozenSet, Optional, Tuple
    from nsnet.exchange import Request

CREATE = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL        # CREATE alone would adopt a stranger's link of that name
ENSURE = rtnl.NLM_F_CREATE | rtnl.NLM_F_REPLACE     # whatever is there, this is there afterwards
GONE = frozenset({errno.ENODEV})                    # for deletions that anybody may have been quicker with
# What was to be deleted is not there; ENXIO: a link without IPv6 has no IPv6 address.
ABSENT = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
U32 = 0xFFFFFFFF
SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}       # RT_SCOPE_*
FAMILIES = {"inet": rtnl.AF_INET, "inet6": rtnl.AF_INET6}


def tolerated(missing_ok: bool) -> FrozenSet[int]:
    """What a deletion takes for success."""
    return ABSENT if missing_ok else frozenset()


def without_none(attrs: Dict) -> Dict:
    return {name: value for name, value in attrs.items() if value is not None}


def number(value: Any, low: int, high: int, what: str) -> int:
    """A whole number from `low` to `high`: an int, or what stands for one (`__index__`); True and False are none."""
    if type(value) is int and low <= value <= high:
        return value
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or not low <= found <= high:
        raise UsageError(f"{what} {value!r}: expected {low} to {high}")
    return found


def number_or_none(value: Any, low: int, high: int, what: str) -> Optional[int]:
    return None if value is None else number(value, low, high, what)


def positive(index: int) -> int:
    """An ifindex."""
    return number(index, 1, 0x7FFFFFFF, "ifindex")


def bits(*wanted: Tuple[Any, int, str]) -> int:
    """The bits whose value is true: (value, bit, what it is called) of each. Text is neither true nor false."""
    found = 0
    for value, bit, what in wanted:
        if value not in (True, False) or not isinstance(value, int):
            raise UsageError(f"{what} {value!r}: expected True or False")
        found |= bit if value else 0
    return found


def choice(value: Any, known: Mapping[str, int], what: str) -> int:
    """The number of a name; a number of those is taken as it is."""
    if isinstance(value, str) and value in known:
        return known[value]
    if isinstance(value, int) and not isinstance(value, bool) and value in known.values():
        return value
    raise UsageError(f"{what} {value!r}: expected one of {', '.join(known)}")


def kind_name(value: Any, longest: int, what: str) -> str:
    """The name of a kind: of links, of queueing disciplines."""
    if not is_name(value, longest):
        raise UsageError(f"{what} {value!r}: expected a name such as 'bridge', of at most {longest} bytes")
    return value


def ip_bytes(text: Any, what: str) -> bytes:
    """4 or 16 bytes of an IP address without prefix."""
    try:
        return encode_ip(text)
    except (UsageError, TypeError):
        raise UsageError(f"{what} {text!r}: expected an IPv4 or IPv6 address") from None


def family_of(packed: bytes) -> int:
    return rtnl.AF_INET if len(packed) == 4 else rtnl.AF_INET6


def any_family(family: Any) -> int:
    """AF_UNSPEC for None: all families."""
    return rtnl.AF_UNSPEC if family is None else choice(family, FAMILIES, "family")


def remembered(make: Callable[..., Request]) -> Callable[..., Request]:
    """A verb whose last requests are kept: what is the same for each container of a network, lo up, the default route, is
    made and checked once. Arguments are the same if they are of the same types, for 1 is not True here.
    """
    kept = lru_cache(maxsize=32, typed=True)(make)         # one of each container is new: few are enough

    @wraps(make)
    def remembering(*args: Any, **options: Any) -> Request:
        try:
            return kept(*args, **options)
        except TypeError:                       # a list, a mapping: what has no hash
            return make(*args, **options)
    return remembering


def call(function: Callable, what: str, options: Any, *args: Any, **fixed: Any) -> Any:
    """`function(*args, **fixed, **options)`, where an option that is none of its keywords is refused by name.

    So is one that is `fixed` by the caller, and one that is missing.
    """
    function_itself = getattr(function, "__wrapped__", function)        # of one that is remembered()
    code = function_itself.__code__
    keywords = code.co_varnames[code.co_argcount:code.co_argcount + code.co_kwonlyargcount]
    known = [name for name in keywords if name not in fixed]
    if not isinstance(options, Mapping):
        raise UsageError(f"{what} {options!r}: expected a mapping with {', '.join(known)}")
    for name in options:
        if name not in known:
            raise UsageError(f"{what} option {name!r}: expected one of {', '.join(known)}")
    for name in known:
        if name not in options and name not in (function_itself.__kwdefaults__ or ()):
            raise UsageError(f"{what}: expected {name}")
    return function(*args, **fixed, **options)

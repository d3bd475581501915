"""Routing rules.

Sources: <linux/fib_rules.h>; rtnetlink(7), ip-rule(8); net/core/fib_rules.c in the kernel.
"""

from __future__ import annotations

import errno

from nsnet import rtnl, values
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.requests.common import (CREATE, FAMILIES, U32, any_family, bits, call, choice, family_of, number,
                                   number_or_none, tolerated, without_none)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, TypeAlias, Union

RULE_ACTIONS = {"table": 1, "goto": 2, "nop": 3, "blackhole": 6, "unreachable": 7, "prohibit": 8}      # FR_ACT_*

Port: TypeAlias = "Union[None, int, Tuple[int, int]]"


def _rule(type: int, flags: int, verb: str, tolerate: frozenset, *, family: Union[None, int, str] = None,
          priority: Optional[int] = None, src: Optional[str] = None, dst: Optional[str] = None,
          iif: Optional[str] = None, oif: Optional[str] = None, fwmark: Optional[int] = None,
          fwmask: Optional[int] = None, table: Optional[int] = None, action: Union[None, str, int] = None,
          goto: Optional[int] = None, ip_proto: Optional[int] = None, sport: Port = None, dport: Port = None,
          uids: Optional[Tuple[int, int]] = None, tos: int = 0, inverted: bool = False, protocol: Optional[int] = None,
          l3mdev: bool = False, suppress_prefixlen: Optional[int] = None) -> Request:
    adding = type == rtnl.RTM_NEWRULE
    words = f"{verb} rule" + ("" if priority is None else f" {number(priority, 0, U32, 'priority')}")
    source, target = _selected(src, "src"), _selected(dst, "dst")
    found = _family_of_rule(family, [one for one in (source, target) if one is not None], words)
    acts = choice(action, RULE_ACTIONS, "action") if action is not None else rtnl.FR_ACT_TO_TBL if adding else 0
    if adding and (acts == rtnl.FR_ACT_GOTO) != (goto is not None):
        raise UsageError(f"{words}: expected goto, a priority, with action goto and only there")
    table = number_or_none(table, 1, U32, "table")
    if bits((l3mdev, 1, "l3mdev")) and table is not None:
        raise UsageError(f"{words}: expected table or l3mdev, not both")
    if acts not in (0, rtnl.FR_ACT_TO_TBL):
        for name, value in (("table", table), ("suppress_prefixlen", suppress_prefixlen)):
            if value is not None:
                raise UsageError(f"{words}: expected no {name} with action {action}")
    if adding and acts == rtnl.FR_ACT_TO_TBL and table is None and not l3mdev:
        table = rtnl.RT_TABLE_MAIN
    if fwmask is not None and fwmark is None:
        raise UsageError(f"{words}: expected fwmark with fwmask")
    if fwmark is not None and number(fwmark, 0, U32, "fwmark") == 0 and fwmask is None:
        raise UsageError("fwmark 0: expected fwmask with it; without one the kernel compares no bit of a mark of 0")
    header = {"family": found, "dst_len": target.prefixlen if target else 0,
              "src_len": source.prefixlen if source else 0, "tos": number(tos, 0, 255, "tos"), "action": acts,
              "table": table if table is not None and table < 256 else 0,
              "flags": bits((inverted, rtnl.FIB_RULE_INVERT, "inverted"))}
    attrs = without_none({
        "dst": target and target.ip, "src": source and source.ip, "iifname": _name(iif, "iif"),
        "oifname": _name(oif, "oif"), "goto": number_or_none(goto, 1, U32, "goto"), "priority": priority,
        "fwmark": fwmark, "fwmask": number_or_none(fwmask, 1, U32, "fwmask"), "table": table,
        "suppress_prefixlen": number_or_none(suppress_prefixlen, 0, 32 if found == rtnl.AF_INET else 128,
                                             "suppress_prefixlen"),
        "l3mdev": 1 if l3mdev else None, "uid_range": _range(uids, 0, U32 - 1, "uids"),
        "protocol": number_or_none(protocol, 1, 255, "protocol"),
        "ip_proto": number_or_none(ip_proto, 1, 255, "ip_proto"),
        "sport_range": _range(sport, 1, 65534, "sport"), "dport_range": _range(dport, 1, 65534, "dport")})
    if adding:
        attrs.setdefault("protocol", rtnl.RTPROT_BOOT)
    else:
        _check_deletion(inverted, goto, acts, tos, attrs, words)
    return Request(type, flags, rtnl.RULE_BODY.encode((header, attrs)), words, tolerate)


def _check_deletion(inverted: bool, goto: Optional[int], acts: int, tos: int, attrs: Mapping, words: str) -> None:
    """What rule_find() in net/core/fib_rules.c does not compare would delete another rule; the local one is first."""
    for name, given in (("inverted", inverted), ("goto", goto is not None), ("action goto", acts == rtnl.FR_ACT_GOTO)):
        if given:
            raise UsageError(f"{words}: expected no {name}, the kernel does not compare it; priority tells the rule")
    if not attrs and not tos and acts in (0, rtnl.FR_ACT_TO_TBL):
        raise UsageError(f"{words}: expected something to know it by, such as priority; none is any rule")


def _selected(network: Optional[str], what: str) -> Optional[values.Address]:
    if network is None:
        return None
    found = values.network(network, what)
    if not found.prefixlen:             # the kernel looks at the length: no rule would be known by it
        raise UsageError(f"{what} {network!r}: expected a prefix of /1 or longer; a rule without {what} is for any")
    return found


def _family_of_rule(family: Union[None, int, str], networks: Sequence[values.Address], words: str) -> int:
    found = {family_of(one.packed) for one in networks}
    if family is not None:
        found.add(choice(family, FAMILIES, "family"))
    if len(found) > 1:
        raise UsageError(f"{words}: expected src, dst and family of one kind")
    return found.pop() if found else rtnl.AF_INET


def _name(ifname: Any, what: str) -> Optional[str]:
    """A link that need not be there: rules go by names."""
    if ifname is None:
        return None
    if not isinstance(ifname, str) or not 1 <= len(ifname.encode("utf-8", "surrogatepass")) <= 15:
        raise UsageError(f"{what} {ifname!r}: expected the name of a link, 1 to 15 bytes")
    return ifname


def _range(value: Union[None, int, Tuple[int, int]], lowest: int, highest: int, what: str) -> Optional[Dict]:
    if value is None:
        return None
    first, last = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    first = number(first, lowest, highest, what)
    return {"start": first, "end": number(last, first, highest, what)}


def add_rule(*, ensure: bool = False, **fields: Any) -> Request:
    """RTM_NEWRULE. The fields are those of Verbs.add_rule()."""
    # EXCL, or the kernel takes the same rule twice.
    return call(_rule, "rule", fields, rtnl.RTM_NEWRULE, CREATE, "ensure" if ensure else "add",
                frozenset({errno.EEXIST}) if ensure else frozenset())


def del_rule(*, missing_ok: bool = False, **fields: Any) -> Request:
    """RTM_DELRULE: the first rule that has all the fields."""
    return call(_rule, "rule", fields, rtnl.RTM_DELRULE, 0, "delete", tolerated(missing_ok))


def list_rules(*, family: Union[None, int, str] = None) -> Request:
    """RTM_GETRULE."""
    header = {"family": any_family(family)}
    return Request(rtnl.RTM_GETRULE, rtnl.NLM_F_DUMP, rtnl.RULE_BODY.encode((header, {})), "list rules")

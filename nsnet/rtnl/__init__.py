"""The rtnetlink protocol as data: numbers, fixed headers, attribute tables, and which payload belongs to which message.

Data only: no I/O. A row's uapi constant is its table's prefix and the row's name in capitals; a unit test compares every
one with the headers.
"""

from nsnet.rtnl.af_spec import *        # noqa: F401,F403
from nsnet.rtnl.inet import *           # noqa: F401,F403
from nsnet.rtnl.inet import ADDR_BODY, NEIGH_BODY, NEXTHOP_BODY, NSID_BODY, ROUTE_BODY, RULE_BODY
from nsnet.rtnl.kinds import *          # noqa: F401,F403
from nsnet.rtnl.links import *          # noqa: F401,F403
from nsnet.rtnl.links import LINK_BODY
from nsnet.rtnl.numbers import *        # noqa: F401,F403
from nsnet.rtnl.numbers import (MESSAGE_NAMES, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWLINKPROP, RTM_NEWNEIGH, RTM_NEWNEXTHOP,
                                RTM_NEWNSID, RTM_NEWQDISC, RTM_NEWROUTE, RTM_NEWRULE, RTM_NEWTCLASS, RTM_NEWTFILTER)
from nsnet.rtnl.tc import *             # noqa: F401,F403
from nsnet.rtnl.tc import TC_BODY
from nsnet.tables import Attr, Table, nested
from nsnet.wire import Fixed, raw, s64, strz, u32, u64

NLMSGERR = Fixed("nlmsgerr", "iIHHII", "error", "len", "type", "flags", "seq", "pid")           # <linux/netlink.h>

# <linux/netlink.h>, enum netlink_policy_type_attr: what the kernel would have accepted
POLICY = Table(
    "NL_POLICY_TYPE_ATTR",
    type=Attr(1, u32),
    min_value_s=Attr(2, s64),
    max_value_s=Attr(3, s64),
    min_value_u=Attr(4, u64),
    max_value_u=Attr(5, u64),
    min_length=Attr(6, u32),
    max_length=Attr(7, u32),
    policy_idx=Attr(8, u32),
    policy_maxtype=Attr(9, u32),
    bitfield32_mask=Attr(10, u32),
    mask=Attr(12, u64),
)

# <linux/netlink.h>, enum nlmsgerr_attrs
EXTACK = Table(
    "NLMSGERR_ATTR",
    msg=Attr(1, strz),
    offs=Attr(2, u32),              # from the beginning of the request's nlmsghdr
    cookie=Attr(3, raw),
    policy=Attr(4, nested(POLICY)),
    miss_type=Attr(5, u32),
    miss_nest=Attr(6, u32),
)

# By message type; rtnetlink counts NEW, DEL, GET, SET in fours.
LAYOUTS = {new + verb: layout for new, layout in (
    (RTM_NEWLINK, LINK_BODY), (RTM_NEWADDR, ADDR_BODY), (RTM_NEWROUTE, ROUTE_BODY), (RTM_NEWNEIGH, NEIGH_BODY),
    (RTM_NEWRULE, RULE_BODY), (RTM_NEWQDISC, TC_BODY), (RTM_NEWTCLASS, TC_BODY), (RTM_NEWTFILTER, TC_BODY),
    (RTM_NEWNSID, NSID_BODY), (RTM_NEWNEXTHOP, NEXTHOP_BODY), (RTM_NEWLINKPROP, LINK_BODY))
    for verb in range(4) if new + verb in MESSAGE_NAMES}

"""From a verb to the bytes of its request.

Pure: each function checks its values and returns a Request, or raises UsageError for what cannot be meant, among it
what the kernel would silently ignore. Links are given by ifindex here; names are looked up a floor above. `words` names
the thing in error messages. Knows which flags and attributes a verb takes; knows nothing of sockets or of what exists.

links.py: interfaces, bridge ports and VLANs; options.py: what each kind of them has of its own; inet.py: addresses,
neighbours, forwarding entries, netns ids; routes.py: routes and nexthop objects; rules.py: routing rules; tc.py:
queueing disciplines and classes; filters.py: filters; common.py: what they share.
"""

from nsnet.lazy import importer, where

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsnet.requests.common import GONE
    from nsnet.requests.filters import add_bpf_filter, add_u32_filter, del_filter, list_filters
    from nsnet.requests.inet import (add_address, add_fdb, add_neighbour, del_address, del_fdb, del_neighbour, get_fdb,
                                     get_neighbour, get_nsid, list_addresses, list_fdb, list_neighbours, list_nsids,
                                     set_nsid)
    from nsnet.requests.links import (add_altname, add_bridge, add_bridge_vlan, add_link, add_veth, del_altname,
                                      del_bridge_vlan, del_group, del_link, get_link, list_bridge_vlans, list_links,
                                      set_addr_gen_mode, set_conf, set_link, set_options, set_port, set_xdp,
                                      try_vlan_filtering)
    from nsnet.requests.routes import (add_nexthop, add_route, del_nexthop, del_route, get_nexthop, get_route,
                                       list_nexthops, list_routes)
    from nsnet.requests.rules import add_rule, del_rule, list_rules
    from nsnet.requests.tc import add_class, add_qdisc, del_class, del_qdisc, list_classes, list_qdiscs

# Each family is imported when one of its verbs is asked for: few who build a network shape its traffic.
_HOME = {
    "common": "GONE",
    "filters": "add_bpf_filter add_u32_filter del_filter list_filters",
    "inet": ("add_address add_fdb add_neighbour del_address del_fdb del_neighbour get_fdb get_neighbour "
             "get_nsid list_addresses list_fdb list_neighbours list_nsids set_nsid"),
    "links": ("add_altname add_bridge add_bridge_vlan add_link add_veth del_altname del_bridge_vlan "
             "del_group del_link get_link list_bridge_vlans list_links set_addr_gen_mode set_conf "
             "set_link set_options set_port set_xdp try_vlan_filtering"),
    "routes": "add_nexthop add_route del_nexthop del_route get_nexthop get_route list_nexthops list_routes",
    "rules": "add_rule del_rule list_rules",
    "tc": "add_class add_qdisc del_class del_qdisc list_classes list_qdiscs",
}
__getattr__ = importer(__name__, where(_HOME))

__all__ = [
    "GONE", "add_address", "add_altname", "add_bpf_filter", "add_bridge", "add_bridge_vlan", "add_class", "add_fdb",
    "add_link", "add_neighbour", "add_nexthop", "add_qdisc", "add_route", "add_rule", "add_u32_filter", "add_veth",
    "del_address", "del_altname", "del_bridge_vlan", "del_class", "del_fdb", "del_filter", "del_group", "del_link",
    "del_neighbour", "del_nexthop", "del_qdisc", "del_route", "del_rule", "get_fdb", "get_link", "get_neighbour",
    "get_nexthop", "get_nsid", "get_route", "list_addresses", "list_bridge_vlans", "list_classes", "list_fdb",
    "list_filters", "list_links", "list_neighbours", "list_nexthops", "list_nsids", "list_qdiscs", "list_routes",
    "list_rules", "set_addr_gen_mode", "set_conf", "set_link", "set_nsid", "set_options", "set_port", "set_xdp",
    "try_vlan_filtering",
]

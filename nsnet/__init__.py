"""nsnet: user and network namespaces, joined to a bridge on the host, over raw system calls and raw rtnetlink.

    import nsnet

    with nsnet.Network("nsnet-ex-bridge", address="10.0.0.1/24") as network:
        with network.launch(["nc", "-l", "-p", "80"], address="10.0.0.2/24",
                            capabilities={"net_bind_service"}) as container:
            status = container.wait()

`Network` declares a bridge and what is attached to it; `Netns` and `Batch` are the verbs beneath; `spawn` runs a
process in namespaces; `explain` turns netlink bytes into text. All errors are `NsnetError`s.
"""

__version__ = "0.1.0"

from nsnet.lazy import importer, where

TYPE_CHECKING = False
if TYPE_CHECKING:                       # for those who read this without running it
    from nsnet.attachments import Attachment, Container
    from nsnet.collection import collect
    from nsnet.drift import Fault
    from nsnet.errors import (AlreadyExists, KernelError, LeaseTaken, ListChanged, NetlinkError, NoFreeAddress, NoSuchObject,
                              NotPermitted, NotSupported, NsnetError, OutcomeUnknown, ProtocolError, RollbackError,
                              StillPending, UsageError)
    from nsnet.exchange import Outcome, Request
    from nsnet.explainer import explain
    from nsnet.monitor import Event, Monitor
    from nsnet.netns import Batch, Netns
    from nsnet.network import Network, Step
    from nsnet.network.sharded import ShardedNetwork
    from nsnet.objects import (Address, Filter, Hop, Link, Neighbour, Nexthop, NsId, Port, Qdisc, Route, Rule,
                               TrafficClass, Vlan)
    from nsnet.pool import Pool
    from nsnet.process import DEVNULL, PIPE, STDOUT, Process, namespaces, own_maps, spawn
    from nsnet.subids import rootless_maps
    from nsnet.verbs import LinkRef

# Each name is imported when it is asked for: who wants one family, a hook that runs once a container, waits for no other.
_HOME = {
    "attachments": "Attachment Container",
    "collection": "collect",
    "drift": "Fault",
    "errors": ("AlreadyExists KernelError LeaseTaken ListChanged NetlinkError NoFreeAddress NoSuchObject "
               "NotPermitted NotSupported NsnetError OutcomeUnknown ProtocolError RollbackError StillPending "
               "UsageError"),
    "exchange": "Outcome Request",
    "explainer": "explain",
    "monitor": "Event Monitor",
    "netns": "Batch Netns",
    "network": "Network Step",
    "network.sharded": "ShardedNetwork",
    "objects": "Address Filter Hop Link Neighbour Nexthop NsId Port Qdisc Route Rule TrafficClass Vlan",
    "pool": "Pool",
    "process": "DEVNULL PIPE Process STDOUT namespaces own_maps spawn",
    "subids": "rootless_maps",
    "verbs": "LinkRef",
}
_WHERE = where(_HOME)
__getattr__ = importer(__name__, _WHERE)

__all__ = [
    "Address", "AlreadyExists", "Attachment", "Batch", "Container", "DEVNULL", "Event", "Fault", "Filter", "Hop",
    "KernelError", "LeaseTaken", "Link", "LinkRef", "ListChanged", "Monitor", "Neighbour", "NetlinkError", "Netns",
    "Network", "Nexthop", "NoFreeAddress", "NoSuchObject", "NotPermitted", "NotSupported", "NsId", "NsnetError",
    "Outcome", "OutcomeUnknown", "PIPE", "Pool", "Port", "Process", "ProtocolError", "Qdisc", "Request", "RollbackError",
    "Route", "Rule", "STDOUT", "ShardedNetwork", "Step", "StillPending", "TrafficClass", "UsageError", "Vlan", "collect",
    "explain",
    "namespaces", "own_maps", "rootless_maps", "spawn",
]


def __dir__() -> list:
    return sorted({*globals(), *__all__})

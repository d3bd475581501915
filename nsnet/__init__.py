"""nsnet: user and network namespaces, joined to a bridge on the host, over raw system calls and raw rtnetlink.

    import nsnet

    with nsnet.Network("nsnet-ex-bridge", address="10.0.0.1/24") as network:
        with network.launch(["nc", "-l", "-p", "80"], address="10.0.0.2/24", capabilities={"net_bind_service"}) as container:
            status = container.wait()

`Network` declares a bridge and what is attached to it; `Netns` and `Batch` are the verbs beneath; `spawn` runs a process
in namespaces; `explain` turns netlink bytes into text. All errors are `NsnetError`s.
"""

__version__ = "0.1.0"

from nsnet.errors import (AlreadyExists, KernelError, NetlinkError, NoSuchObject, NotPermitted, NsnetError, ProtocolError,
                          RollbackError, UsageError)
from nsnet.explain import explain
from nsnet.netns import Batch, LinkRef, Netns
from nsnet.network import Attachment, Container, Network, Step
from nsnet.objects import Address, Link, Neighbour, Route
from nsnet.ownership import collect
from nsnet.process import DEVNULL, PIPE, STDOUT, Process, own_maps, spawn

__all__ = [
    "Address", "AlreadyExists", "Attachment", "Batch", "Container", "DEVNULL", "KernelError", "Link", "LinkRef", "Neighbour",
    "NetlinkError", "Netns", "Network", "NoSuchObject", "NotPermitted", "NsnetError", "PIPE", "Process", "ProtocolError",
    "RollbackError", "Route", "STDOUT", "Step", "UsageError", "collect", "explain", "own_maps", "spawn",
]

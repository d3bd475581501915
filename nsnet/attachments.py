"""What is attached to a network, as its user holds it: `Attachment`, and `Container`, a process that is attached.

Both only know their network, which does everything.
"""

from __future__ import annotations

import _weakref as weakref              # all that we want of it

from nsnet.declaration import AttachmentSpec
from nsnet.netns import Netns
from nsnet.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Tuple
    from nsnet.network import Network


class Attachment:
    """A network namespace attached to a network.

    `name`: what it is called there. `host_ifname`, `ifname`: the two ends of the veth pair. `addresses`: with prefix.
    """

    def __init__(self, network: "Network", spec: AttachmentSpec, netns: Optional[Netns], id: str):
        self.network, self.id = network, id         # another attachment may have the same names one day
        self.name, self.host_ifname, self.ifname = spec.name, spec.host_ifname, spec.ifname
        self.addresses: Tuple[str, ...] = tuple(str(address) for address in spec.addresses)
        self.spec = spec
        self._netns = None if netns is None else weakref.ref(netns)     # held, it would keep the namespace alive

    @property
    def address(self) -> str:
        """The first address, with its prefix."""
        return self.addresses[0]

    @property
    def netns(self) -> Optional[Netns]:
        """The namespace, as long as the caller holds it."""
        found = None if self._netns is None else self._netns()
        return None if found is None or found.closed else found

    def detach(self, *, wait: bool = True) -> None:
        """Delete the veth pair if it still exists; no complaint if it does not.

        `wait=False`: return at once; network.settle() waits. Raises KernelError if it cannot, StillPending.
        """
        self.network.detach_many([self], wait=wait)

    def __repr__(self) -> str:
        return f"<Attachment {self.name} {self.host_ifname} {', '.join(self.addresses)}>"


class Container(Process):
    """A launched process, attached to its network. `attachment` is its link to it; `remove()` ends both."""

    attachment: Optional[Attachment] = None

    @property
    def address(self) -> str:
        """Its first address, with prefix."""
        return self.attachment.address

    def remove(self, *, wait: bool = True) -> None:
        """Kill the process if it still runs, and delete its veth pair if it still exists. May be called twice.

        `wait=False`: kill it and return at once; network.settle() waits.
        """
        self.attachment.network.detach_many([self], wait=wait)

    def __exit__(self, *_: Any) -> None:
        self.remove()

"""What every family of verbs stands on: how a link is given, and where a request goes."""

from __future__ import annotations

import errno
import os

from nsnet import requests, rtnl
from nsnet.errors import NoSuchObject, UsageError
from nsnet.exchange import Request
from nsnet.named import NamedTuple
from nsnet.objects import Link
from nsnet.requests.common import positive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Sequence, TypeAlias, Union
    from nsnet.netns import Netns

_FIRST_INDEX = 1 << 24              # of what is born where we cannot look: far above those that the kernel counts up to


class LinkRef(NamedTuple):
    """A link by name and index: what the add verbs return, before the kernel has been asked in a batch."""

    ifname: str
    index: int


LinkLike: TypeAlias = "Union[LinkRef, Link, int, str]"


def words(link: LinkLike) -> str:
    """What a link is called in an error message: its name, which may be a stranger's choice, in one line."""
    if isinstance(link, int):
        return f"link {link}"
    name = link if isinstance(link, str) else link.ifname
    return name if name.isprintable() else repr(name)


class VerbBase:
    """A namespace, and what becomes of a request."""

    netns: "Netns"
    requests: Sequence[Request] = ()            # in a batch: what is to be sent before
    lo = LinkRef("lo", rtnl.LOOPBACK_IFINDEX)

    def _run(self, request: Request) -> Any:
        raise NotImplementedError

    def _look(self, link: LinkLike) -> Optional[Link]:
        """The link as it is now; None if it is not there yet, for in a batch it may be made before."""
        try:
            return self.netns.link(self.netns.index_of(link))
        except NoSuchObject:
            return None

    def _other(self, netns: Optional["Netns"]) -> "Netns":
        """That namespace, or this one for None."""
        if netns is not None and not hasattr(netns, "hold"):
            raise UsageError(f"network namespace {netns!r}: expected a Netns")
        return self.netns if netns is None else netns

    @staticmethod
    def _holding(make: Callable[[Optional[int]], Request], netns: Optional["Netns"]) -> Request:
        """A request that names a namespace by a descriptor, which stays open until it was sent; None: it names none."""
        if netns is None:
            return make(None)
        held = netns.hold()
        try:
            return make(held.fileno())._replace(held=held)
        except BaseException:
            held.close()
            raise

    def _index(self, link: Optional[LinkLike]) -> int:
        """The ifindex; 0 for None. Where a link may be left out: a 0 that was given is refused."""
        return 0 if link is None else positive(self.netns.index_of(link))

    def _index_in(self, link: Optional[LinkLike], netnsid: Optional[int]) -> int:
        """The ifindex of a link in the namespace of that number; None: in this one. 0 for no link.

        A name is looked up there at once, also in a batch. Of an index or a reference nobody can tell where it is from,
        but of a Link that was read from another namespace.
        """
        found = link.attrs.get("target_netnsid") if isinstance(link, Link) else None
        if found not in (None, netnsid):
            raise UsageError(f"{words(link)}: expected netnsid {found}, it was read from there")
        if netnsid is None:
            return self._index(link)
        if link is None:
            return 0
        if not isinstance(link, str):           # an index or a reference, as that namespace has it
            return positive(link if isinstance(link, int) else link.index)
        if not 1 <= len(link) <= 15:
            raise UsageError(f"link {link!r}: expected a Link, an ifindex or a name of 1 to 15 bytes")
        request = requests.get_link(ifname=link, netnsid=netnsid)
        there = self.netns._get(request, Link)
        if there.ifname != link:                # the kernel looks at altnames too
            raise NoSuchObject(errno.ENODEV, request.words)
        return there.index

    def _index_elsewhere(self) -> int:
        """An ifindex for a link that is born in a namespace known by a pid or a number: we cannot look there.

        Random, and free here, where kernels before 6.15 look for it first (__rtnl_newlink()).
        """
        while True:
            index = _FIRST_INDEX + int.from_bytes(os.urandom(4), "little") % (0x7FFFFFFF - _FIRST_INDEX)
            if not self.netns.socket_of_rtnl.index_taken(index):
                return index

    def _delete(self, link: LinkLike, missing_ok: bool, request: Callable[[int], Request],
                netnsid: Optional[int] = None) -> None:
        """Run the deletion of something that belongs to a link. If the link is not there, neither is that."""
        try:
            index = self._index_in(link, netnsid)
        except NoSuchObject:
            if missing_ok:
                return
            raise
        self._run(request(index))

"""What every family of verbs stands on: how a link is given, and where a request goes."""

from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Union

from nsnet import rtnl
from nsnet.errors import NoSuchObject, UsageError
from nsnet.exchange import Request
from nsnet.objects import Link
from nsnet.requests.common import positive

if TYPE_CHECKING:
    from nsnet.netns import Netns


class LinkRef(NamedTuple):
    """A link by name and index: what the add verbs return, before the kernel has been asked in a batch."""

    ifname: str
    index: int


LinkLike = Union[LinkRef, Link, int, str]


def words(link: LinkLike) -> str:
    """What a link is called in an error message: its name, which may be a stranger's choice, in one line."""
    if isinstance(link, int):
        return f"link {link}"
    name = link if isinstance(link, str) else link.ifname
    return name if name.isprintable() else repr(name)


class VerbBase:
    """A namespace, and what becomes of a request."""

    netns: "Netns"
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

    def _delete(self, link: LinkLike, missing_ok: bool, request: Callable[[int], Request]) -> None:
        """Run the deletion of something that belongs to a link. If the link is not there, neither is that."""
        try:
            index = self.netns.index_of(link)
        except NoSuchObject:
            if missing_ok:
                return
            raise
        self._run(request(index))

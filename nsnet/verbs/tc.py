"""Verbs for queueing disciplines, classes and filters. Rates in bytes per second, sizes in bytes, times in seconds."""

from __future__ import annotations

import errno
import os

from nsnet import requests
from nsnet.errors import NoSuchObject, UsageError
from nsnet.verbs.base import LinkLike, VerbBase, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional, Sequence, Tuple, TypeAlias, Union

Handle: TypeAlias = "Union[int, str]"            # "1:10" in hex, "root", "ingress", "egress", or major << 16 | minor
_ROOT_MAJOR = 0x8001                # where the kernel begins when it chooses (qdisc_alloc_handle())


class TrafficControlVerbs(VerbBase):
    """What shapes and drops traffic. tc(8)."""

    def add_qdisc(self, link: LinkLike, kind: str, *, handle: Handle = 0, parent: Handle = "root",
                  **options: Any) -> None:
        """Give a link a queueing discipline.

        "tbf": `rate`, `burst` (at least the MTU and 14: what is longer never gets through), and `latency` or `limit`;
        `peakrate` and `mtu`. "htb": `default`, the class for what no filter picks, as "1:30" or its minor number; `rate2quantum`.
        Rates are bytes a second (125_000 is tc's 1mbit), `burst`, `limit` and `mtu` bytes, `latency` seconds.
        "ingress" and "clsact": none; these are where filters hang. Other kinds: `options`, the bytes of TCA_OPTIONS.
        `handle`: "8001:" by default, or for what is below a class a random one; for without any the kernel would put it in
        the place of one of another kind. Raises AlreadyExists, NotSupported if this kernel lacks the kind, UsageError for an option that the kind does
        not have. RTM_NEWQDISC; tc(8).
        """
        if not handle and kind not in ("ingress", "clsact"):
            major = _ROOT_MAJOR if parent == "root" else _ROOT_MAJOR + 1 + int.from_bytes(os.urandom(2), "little") % 0x7FF0
            handle = f"{major:x}:"
        self._run(requests.add_qdisc(self.netns.index_of(link), words(link), kind, handle_=handle, parent=parent,
                                     options=options))

    def ensure_qdisc(self, link: LinkLike, kind: str, *, handle: Handle = 0, parent: Handle = "root",
                     **options: Any) -> None:
        """The same, in the place of the one that is there. NLM_F_REPLACE.

        One of the same kind is changed and keeps its handle. The kernel cannot change an "htb": so this looks at once,
        also in a batch, and leaves one alone that is as asked; for one that differs NetlinkError with EINVAL says so.
        """
        index = self.netns.index_of(link)
        request = requests.add_qdisc(index, words(link), kind, handle_=handle, parent=parent, ensure=True,
                                     options=options)
        from nsnet.requests.tc import is_there

        if kind == "htb" and any(is_there(request, qdisc) for qdisc in self.netns.qdiscs(index)):
            return
        self._run(request)

    def del_qdisc(self, link: LinkLike, *, parent: Handle = "root", handle: Handle = 0,
                  missing_ok: bool = False) -> None:
        """Take it away, with all its classes and filters.

        `parent`: "root", "ingress" or "clsact" for what was added under that name, or a class. `handle`: only if it has
        that one. Raises NoSuchObject unless `missing_ok`. RTM_DELQDISC.
        """
        self._delete(link, missing_ok, lambda index: requests.del_qdisc(
            index, words(link), parent=parent, handle_=handle, missing_ok=missing_ok))

    def add_class(self, link: LinkLike, kind: str, *, classid: Handle, parent: Handle, **options: Any) -> None:
        """Add a class to a queueing discipline: kind "htb", with `rate`, `ceil`, `burst`, `cburst`, `prio`, `quantum`.

        `parent`: "root", the qdisc's handle ("1:"), or a class. Rates are bytes a second, bursts bytes, which the
        kernel rounds to what is sent in 64 ns. `prio`: 0 to 7, 0 goes first. `quantum` in bytes: without one or with 0
        the rate divided by the qdisc's rate2quantum, at least 1000 and at most 200000.
        A parent class that is not there the kernel takes for the root, without a word: so this looks for it at once,
        also in a batch, unless that makes it before. One that goes between the look and the request is not noticed.
        Raises AlreadyExists; NoSuchObject if the link has no such queueing discipline, or that no such parent.
        RTM_NEWTCLASS; tc-htb(8).
        """
        self._class(link, kind, classid, parent, options, ensure=False)

    def ensure_class(self, link: LinkLike, kind: str, *, classid: Handle, parent: Handle, **options: Any) -> None:
        """The same; one that is there gets these rates, and keeps its parent. NLM_F_REPLACE."""
        self._class(link, kind, classid, parent, options, ensure=True)

    def _class(self, link: LinkLike, kind: str, classid: Handle, parent: Handle, options: Mapping,
               ensure: bool) -> None:
        index = self.netns.index_of(link)
        request = requests.add_class(index, words(link), kind, classid=classid, parent=parent, ensure=ensure,
                                     options=options)
        from nsnet.requests.tc import get_parent, makes_class

        above = get_parent(request)
        if above is not None and not any(makes_class(before, above) for before in self.requests):
            try:
                self.netns.perform([above])             # the answer goes to whoever listens; that there is one says it
            except NoSuchObject:
                lack = f"parent {parent!r}: there is no such class"
                raise NoSuchObject(errno.ENOENT, request.words, lack) from None
        self._run(request)

    def del_class(self, link: LinkLike, *, classid: Handle, missing_ok: bool = False) -> None:
        """Remove a class. Raises NoSuchObject unless `missing_ok`; EBUSY if it is in use. RTM_DELTCLASS."""
        self._delete(link, missing_ok, lambda index: requests.del_class(
            index, words(link), classid=classid, missing_ok=missing_ok))

    def add_u32_filter(self, link: LinkLike, *, parent: Handle, protocol: Union[str, int] = "all", priority: int = 0,
                       match: Sequence[Tuple[int, int, int]] = (), src: Optional[str] = None, dst: Optional[str] = None,
                       classid: Optional[Handle] = None, police: Optional[Mapping] = None) -> None:
        """Filter by the bytes of a packet: `src`, `dst` (IPv4 networks), `match`: (value, mask, offset) of each word.

        `parent`: "root", a qdisc's handle ("1:"), "ingress" or "egress". `offset` in bytes from the network header, a
        multiple of 4. `protocol`: "all", "ip", "ipv6", "arp", "802.1q" or ETH_P_*. `priority`: 1 goes first; 0: the
        kernel picks. What matches goes to the class `classid`, or through a policer: {"rate", "burst", "mtu", "action":
        "drop"}. Raises NotSupported if this kernel lacks the filter or the policer. RTM_NEWTFILTER; tc-u32(8).
        """
        self._check_side(link, parent)
        self._run(requests.add_u32_filter(self.netns.index_of(link), words(link), parent=parent, protocol=protocol,
                                          priority=priority, match=match, src=src, dst=dst, classid=classid,
                                          policer=police))

    def add_bpf_filter(self, link: LinkLike, *, parent: Handle, prog_fd: int, name: str,
                       protocol: Union[str, int] = "all", priority: int = 0, direct_action: bool = True,
                       classid: Optional[Handle] = None) -> None:
        """Filter by a loaded BPF program (bpf(2)): a descriptor, and a name to list it under.

        `direct_action`: its return value is the verdict. The rest as add_u32_filter(). RTM_NEWTFILTER; tc-bpf(8).
        """
        self._check_side(link, parent)
        self._run(requests.add_bpf_filter(self.netns.index_of(link), words(link), parent=parent, prog_fd=prog_fd,
                                          name=name, protocol=protocol, priority=priority, direct_action=direct_action,
                                          classid=classid))

    def _check_side(self, link: LinkLike, parent: Handle) -> None:
        """An "ingress" qdisc takes a filter for the other side as one of its own (ingress_tcf_block())."""
        if parent != "egress":
            return
        try:
            there = self.netns.qdiscs(link)
        except NoSuchObject:            # in a batch the link may be made before
            return
        if any(qdisc.kind == "ingress" for qdisc in there):
            raise UsageError(f"filter on {words(link)}: expected parent 'ingress', or a clsact qdisc instead of the ingress one")

    def del_filter(self, link: LinkLike, *, parent: Handle, protocol: Union[str, int] = 0, priority: int = 0,
                   kind: Optional[str] = None, handle: int = 0, missing_ok: bool = False) -> None:
        """Remove one filter by its handle, all of a priority, or with priority 0 all of the parent.

        `handle`: a Filter's, a number. Raises NoSuchObject unless `missing_ok`. RTM_DELTFILTER.
        """
        self._delete(link, missing_ok, lambda index: requests.del_filter(
            index, words(link), parent=parent, protocol=protocol, priority=priority, kind=kind, handle_=handle,
            missing_ok=missing_ok))

"""What of a network is not as it was declared, and what would make it so: for `show`, `up --dry-run` and `up`.

Asks the kernel and the claim, changes nothing. A `Fault` that verbs can mend has them; the others say what kind of
work it takes, which is network/repair.py's.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from nsnet import declaration, forwarding, pins, plan
from nsnet.declaration import AttachmentSpec, NetworkSpec
from nsnet.errors import AlreadyExists, KernelError, UsageError
from nsnet.exchange import Request
from nsnet.named import NamedTuple
from nsnet.netns import Netns
from nsnet.objects import Link
from nsnet.ownership import Claim, Mark
from nsnet.plan import Change
from nsnet.removal import find
from nsnet.verbs import LinkRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple


class Fault(NamedTuple):
    """One thing that is not as declared.

    `where`: the bridge, or an attachment's name. `what`: in words. `netns` and `change`: the verbs that mend it, and
    where. `kind`: "verbs"; for other work "attach" (anew, from its declaration), "reattach" (another veth pair for what
    is there), "detach", "sysctls", "forwarding"; "beyond" for what is not ours to mend. `spec`: of the attachment.
    `entry`: its place in the claim, if it has one.
    """

    where: str
    what: str
    kind: str = "verbs"
    netns: Optional[Netns] = None
    change: Optional[Change] = None
    spec: Optional[AttachmentSpec] = None
    entry: Optional[str] = None
    settings: Any = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"

    def __repr__(self) -> str:
        return f"<Fault {self}>"


class Bridge:
    """The bridge as plan.py's verbs find it: what is there, or what is made first."""

    def __init__(self, ifname: str, index: int):
        self.ifname, self.index = ifname, index

    def ref(self) -> LinkRef:
        return LinkRef(self.ifname, self.index)


def own_bridge(netns: Netns, spec: NetworkSpec, claim: Claim) -> Optional[Link]:
    """The bridge, None if it is not there. Raises AlreadyExists if what has its name is not ours (or is no bridge)."""
    index = netns.find(spec.bridge)
    if not index:
        return None
    link = netns.link(index)
    if link.kind != "bridge":
        raise AlreadyExists(errno.EEXIST, f"bridge {spec.bridge}", f"a link of kind {link.kind} has that name")
    if not claim.adopted and not claim.is_ours(link):
        raise AlreadyExists(errno.EEXIST, f"bridge {spec.bridge}", whose(link))
    return link


def whose(link: Link) -> str:
    """Of a bridge that is not by the claim that was looked for."""
    mark = Mark.parse(link.ifalias)
    if mark is not None:
        return "a network that keeps nothing on disk has it: its owner takes it down, or gc if that has died"
    if (link.ifalias or "").startswith("nsnet:"):
        return "it was made by nsnet, but there is no such claim here: expected the state directory that it was made with"
    return "a bridge of that name is there, and it is not nsnet's; to attach to it, adopt it"


def look(netns: Netns, spec: NetworkSpec, claim: Claim, lladdr: str, lladdr_of: Callable[[AttachmentSpec], Optional[str]],
         inside: Callable[[str, AttachmentSpec], Optional[Netns]]) -> List[Fault]:
    """All faults, in the order in which they are mended.

    `lladdr`, `lladdr_of`: the MACs that the bridge and an attachment are to have. `inside(host_ifname, spec)`: the
    namespace of an attachment, None if it cannot be reached by us; raises KernelError if it is gone.
    """
    before = declaration.network(claim.declaration)
    link = own_bridge(netns, spec, claim)
    bridge = Bridge(spec.bridge, 0 if link is None else link.index)
    faults: List[Fault] = []
    if link is None and claim.adopted:
        faults.append(Fault(spec.bridge, "the bridge that was adopted is gone", "beyond"))
    elif link is None:
        def make(net: Any) -> None:
            bridge.index = plan.make_bridge(net, spec, claim, lladdr).index
        faults.append(Fault(spec.bridge, "no bridge", netns=netns, settings=bridge,
                            change=Change("no bridge", make, lambda net: net.del_link(bridge.ref(), missing_ok=True))))
    elif claim.adopted:
        faults += [Fault(spec.bridge, what, "beyond") for what in plan.adopted_faults(netns, link, spec)]
    else:
        faults += [Fault(spec.bridge, change.what, netns=netns, change=change)
                   for change in plan.bridge_changes(netns, link, spec, lladdr, before)]
        deaf = {} if claim.private else plan.deaf_to_routers(link)
        if deaf:
            faults.append(Fault(spec.bridge, "it accepts IPv6 router advertisements", "sysctls", netns=netns, settings=deaf))
    faults += _of_attachments(netns, spec, claim, bridge, lladdr_of, inside)
    faults += [Fault(spec.bridge, f"no uplink {ifname}", "beyond") for ifname in spec.forward if not netns.find(ifname)]
    unwanted = forwarding.unwanted(spec, claim)
    if unwanted:
        faults.append(Fault(spec.bridge, f"forwarding on {', '.join(unwanted)}, which is not declared any more",
                            "forwarding"))
    if link is not None:
        off = forwarding.missing(netns, spec)
        if off:
            faults.append(Fault(spec.bridge, "no " + ", no ".join(map(str, off)), "forwarding", settings=off))
    elif spec.forward:
        faults.append(Fault(spec.bridge, f"no forwarding to {', '.join(spec.forward)}", "forwarding"))
    return faults


def _of_attachments(netns: Netns, spec: NetworkSpec, claim: Claim, bridge: Bridge, lladdr_of: Callable,
                    inside: Callable) -> List[Fault]:
    faults: List[Fault] = []
    declared: Dict[str, AttachmentSpec] = {one.name: one for one in spec.attachments}
    before = declaration.network(claim.declaration)
    for host_ifname, entry in claim.attachments.items():
        now = attachment_of(entry, before)
        wanted = declared.pop(now.name, None) if entry.get("declared") is not None else None
        if entry.get("declared") is not None and wanted is None:
            faults.append(Fault(now.name, "it is not declared any more", "detach", entry=host_ifname))
        elif wanted is not None and declaration.as_dict(wanted) != entry["declared"]:
            faults.append(Fault(now.name, "it was declared differently", "attach", spec=wanted, entry=host_ifname))
        else:
            try:
                fitting = fitted(entry, before, spec)
            except UsageError:
                faults.append(Fault(now.name, f"{', '.join(entry['addresses'])}: in no subnet of the bridge any more",
                                    "detach" if wanted is None else "attach", spec=wanted, entry=host_ifname))
                continue
            faults += _of_one(netns, claim, bridge, host_ifname, fitting, now, wanted, lladdr_of(now), inside)
    return faults + [Fault(one.name, "it is not attached", "attach", spec=one) for one in declared.values()]


def attachment_of(entry: Dict[str, Any], network: NetworkSpec) -> AttachmentSpec:
    """What an entry of a claim is meant to be, on that network. Raises UsageError if its addresses do not fit there."""
    return declaration.attachment(entry["spec"], network._replace(attachments=()), needs_target=False)


def fitted(entry: Dict[str, Any], before: NetworkSpec, spec: NetworkSpec) -> AttachmentSpec:
    """The same when the network is declared as `spec`: its MTU, its gateways. Raises UsageError."""
    found = attachment_of(entry, spec)
    if found.mtu == before.mtu and not (entry.get("declared") or {}).get("mtu"):
        found = found._replace(mtu=spec.mtu)
    return found


def _of_one(netns: Netns, claim: Claim, bridge: Bridge, host_ifname: str, spec: AttachmentSpec, before: AttachmentSpec,
            wanted: Optional[AttachmentSpec], lladdr: Optional[str], inside: Callable) -> List[Fault]:
    again = "attach" if wanted is not None else "detach"
    process = claim.process_of(host_ifname)
    if process is not None and process.runs() is False:
        return [Fault(spec.name, f"process {process.pid} has ended", again, spec=wanted, entry=host_ifname)]
    # Of a process's network that is in its memory only.
    if claim.lifetime != "process" and not claim.attachments[host_ifname].get("ready", True):
        return [Fault(spec.name, "it was not attached to the end", again, spec=wanted, entry=host_ifname)]
    try:
        place = inside(host_ifname, spec)
    except KernelError as error:
        return [Fault(spec.name, f"its network namespace cannot be reached: {error}", again, spec=wanted, entry=host_ifname)]
    link = find(netns, claim, claim.attachments[host_ifname].get("index") or host_ifname)
    if link is None and place is None:          # as gc sees it: the kernel took it, with its namespace
        return [Fault(spec.name, f"no {host_ifname}, and who attached it is another process", again, spec=wanted,
                      entry=host_ifname)]
    if link is None:
        return [Fault(spec.name, f"no {host_ifname}", "reattach", spec=spec, entry=host_ifname)]
    faults = [Fault(spec.name, f"{host_ifname}: {change.what}", netns=netns, change=change)
              for change in plan.port_changes(link, bridge.ref, bridge.index, spec)]
    if place is None:
        return faults
    end = plan.find_end(place, link, spec.ifname)
    if end is None:
        return [Fault(spec.name, f"no {spec.ifname} in it", "reattach", spec=spec, entry=host_ifname)]
    faults += [Fault(spec.name, f"lo: {change.what}", netns=place, change=change) for change in plan.lo_changes(place)]
    faults += [Fault(spec.name, f"{spec.ifname}: {change.what}", netns=place, change=change)
               for change in plan.end_changes(place, end, spec, lladdr, before)]
    wrong = plan.sysctl_faults(place, spec)
    if wrong:
        faults.append(Fault(spec.name, ", ".join(f"{key} is {now}, expected {value}" for key, (now, value) in wrong.items()),
                            "sysctls", netns=place, settings=wrong))
    return faults


def entry_of(claim: Claim, host_ifname: str) -> Dict[str, Any]:
    """An attachment, for those who look at it."""
    entry = claim.attachments[host_ifname]
    return {"name": entry["name"], "host_ifname": host_ifname, "ifname": entry["ifname"],
            "addresses": entry["addresses"], "pid": entry.get("pid"), "declared": entry.get("declared") is not None}


def inside(claim: Claim, host_ifname: str, opened: ExitStack) -> Optional[Netns]:
    """The namespace of an attachment, by what the claim knows; None if only who attached it knows. Closed with `opened`.

    Raises KernelError if it is gone, or not ours to enter.
    """
    process, spec = claim.process_of(host_ifname), claim.attachments[host_ifname]["spec"]
    if process is not None and process.runs() is None:          # here its number is somebody else's
        return None
    path = spec.get("netns") or (os.path.join(pins.DIRECTORY, spec["pin"]) if spec.get("pin") else None)
    if process is not None:
        found = Netns.of_pid(process.pid)
    elif path is not None:
        found = Netns.open(path)
    else:
        return None
    opened.enter_context(found)
    if process is not None and not process.runs():              # now that it is open: nobody else's
        raise KernelError(errno.ESRCH, f"process {process.pid}")
    return found


def preview(netns: Netns, spec: NetworkSpec, claim: Claim, faults: Sequence[Fault], link_local: Optional[bool],
            lladdr_of: Callable[[AttachmentSpec], Optional[str]]) -> List[Tuple[Fault, List[Request]]]:
    """What would be sent for each fault; for a namespace that does not exist yet, the host's stands in."""
    found = []
    bridge = LinkRef(spec.bridge, netns.find(spec.bridge))
    for fault in faults:
        net = netns.batch() if fault.netns is None else fault.netns.batch()
        if fault.change is not None:
            fault.change.do(net)
            bridge = fault.settings.ref() if isinstance(fault.settings, Bridge) else bridge
        elif fault.kind in ("attach", "reattach"):
            one = fault.spec
            if one.host_ifname is None:
                one = one._replace(host_ifname=declaration.derived_ifname(claim.key, one.name))
            host_end, end = plan.make_pair(net, one, claim, bridge, netns, lladdr_of(one))
            plan.make_end(net, end, link_local)
            plan.enable_end(net, end, one)
            plan.enable_port(net, host_end)
        elif fault.kind == "detach":
            link = find(netns, claim, fault.entry)
            if link is not None:
                net.del_link(link, missing_ok=True)
        for request in net.requests:            # to be shown only
            if request.held is not None:
                request.held.close()
        found.append((fault, list(net.requests)))
    return found

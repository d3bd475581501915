"""Forwarding between a bridge and the uplinks that were named, on these links only: never the global switch.

IPv4 forwards what comes in on a link whose `forwarding` is set (ip(7), IN_DEV_FORWARD() in ip_forward()). IPv6 asks the
global switch, which would make a router of the whole host, until Linux 6.17 brought `force_forwarding` for a link
(ip6_forward()); on an older kernel whose global switch is off it is refused here.

What was there before is written to the claim before anything is changed, and put back at the end: by whoever takes the
network down, or by gc. Networks may share an uplink: the value is put back by the last of them. What somebody else has
changed meanwhile stays as it is. Knows links and claims; firewall rules are not its business.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

from nsnet import kernel, ownership, state, sysctls
from nsnet.declaration import NetworkSpec
from nsnet.errors import KernelError, NoSuchObject, NotSupported
from nsnet.named import NamedTuple
from nsnet.netns import Netns
from nsnet.objects import Link
from nsnet.ownership import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Iterator, List, Optional, Tuple

_WANTED = "1"


class Setting(NamedTuple):
    """Forwarding of one IP version on one link."""

    ifname: str
    index: int
    version: int                    # 4 or 6
    value: Optional[str]            # None: this kernel does not have it

    def __str__(self) -> str:
        return f"forwarding of IPv{self.version} on {self.ifname}"


def wanted(netns: Netns, spec: NetworkSpec) -> List[Setting]:
    """What it is on the links that are to forward and are there, now."""
    found: List[Setting] = []
    for ifname in (spec.bridge, *spec.forward) if spec.forward else ():
        try:
            link = netns.link(ifname)
        except NoSuchObject:
            continue
        found += [Setting(ifname, link.index, version, _value(link, version)) for version in _versions(spec)]
    return found


def missing(netns: Netns, spec: NetworkSpec) -> List[Setting]:
    """Those of them that do not forward. Raises NotSupported for IPv6 where only the global switch could do it."""
    return _off(netns, wanted(netns, spec))


def _off(netns: Netns, settings: Iterable[Setting]) -> List[Setting]:
    off = [setting for setting in settings if setting.value != _WANTED]
    for setting in off:
        if setting.value is None:
            key = "net.ipv6.conf.all.forwarding"
            if sysctls.read(netns, [key])[key] != _WANTED:
                lack = NotSupported(errno.EOPNOTSUPP, str(setting))
                lack.hint = (f"before Linux 6.17 IPv6 forwards only by the global switch, {key}, which nsnet does not"
                             " touch; set it yourself, or declare no IPv6 address")
                raise lack
    return [setting for setting in off if setting.value is not None]


def check(netns: Netns, spec: NetworkSpec) -> None:
    """Raise NoSuchObject for an uplink that is not there; before anything is made."""
    for ifname in spec.forward:
        if not netns.find(ifname):
            raise NoSuchObject(errno.ENODEV, f"forward to {ifname}",
                               f"an uplink of {spec.bridge}: expected a link that is there")


def enable(netns: Netns, claim: Claim, spec: NetworkSpec) -> List[Setting]:
    """Let them forward, and remember what they did before; also of those that do for another network. Which did not."""
    with _alone(claim):
        settings = wanted(netns, spec)
        off = _off(netns, settings)
        for setting in settings:
            before = _of_others(claim, setting)
            if setting.value is None or setting.value == _WANTED and before is None:
                continue                                    # it did so for the user: nothing to put back
            changed = claim.forwarding.setdefault(setting.ifname, {"index": setting.index, "earlier": {}})
            if changed["index"] != setting.index:           # another link of that name: nothing of the first is left
                changed.update(index=setting.index, earlier={})
            changed["earlier"].setdefault(str(setting.version), setting.value if before is None else before)
        claim.write()
        for setting in off:
            _set(netns, setting, _WANTED)
        return off


def undo(netns: Netns, claim: Claim, off: Iterable[Setting], before: Dict) -> None:
    """What enable() did: `off` is what it returned, `before` what the claim had."""
    with _alone(claim):
        for setting in off:
            if netns.find(setting.ifname) == setting.index:
                _set(netns, setting, setting.value)
        claim.forwarding = before
        claim.write()


def unwanted(spec: NetworkSpec, claim: Claim) -> List[str]:
    """The links that forward for this network and need not any more."""
    return [ifname for ifname in claim.forwarding if not spec.forward or ifname not in (spec.bridge, *spec.forward)]


def restore(netns: Netns, claim: Claim, restored: Optional[List[str]] = None, only: Optional[List[str]] = None) -> None:
    """Put back what was before, where it is still as we left it, and no other network wants it. May be repeated.

    `only`: on these links; else on all, when the network is taken down.
    """
    if not claim.forwarding:
        return
    with _alone(claim):
        for ifname, changed in claim.forwarding.items():
            if only is not None and ifname not in only:
                continue
            if ifname == claim.bridge and not claim.adopted and only is None:       # it goes, with all its settings
                continue
            try:
                link = netns.link(changed["index"])         # it may have another name by now
            except NoSuchObject:
                continue
            for version, earlier in changed["earlier"].items():
                setting = Setting(ifname, link.index, int(version), _value(link, int(version)))
                if setting.value == _WANTED != earlier and _of_others(claim, setting) is None:
                    _set(netns, setting._replace(ifname=link.ifname), earlier)
                    if restored is not None:
                        restored.append(str(setting))
        claim.forwarding = {ifname: kept for ifname, kept in claim.forwarding.items()
                            if only is not None and ifname not in only}
        claim.write()


def routes_of_remote(netns: Netns, spec: NetworkSpec) -> List[Tuple[str, str]]:
    """(subnet, via) of the routes that a host behind the uplinks needs: ip route add SUBNET via ADDRESS."""
    found = []
    for ifname in spec.forward:
        try:
            addresses = [one for one in netns.addresses(ifname) if one.scope == 0]
        except NoSuchObject:
            continue
        for own in spec.addresses:
            via = next((one.address.partition("/")[0] for one in addresses
                        if (":" in one.address) == (own.version == 6)), None)
            if via is not None:
                found.append((str(own.with_host(0)), via))
    return found


def _versions(spec: NetworkSpec) -> List[int]:
    return sorted({address.version for address in spec.addresses})


def _value(link: Link, version: int) -> Optional[str]:
    """IFLA_INET_CONF, IFLA_INET6_CONF: what /proc/sys/net/ipv4/conf/IF/forwarding has, without /proc."""
    families = link.attrs.get("af_spec", {})
    conf = families.get("inet" if version == 4 else "inet6", {}).get("conf")
    value = getattr(conf, "forwarding" if version == 4 else "force_forwarding", None)
    return None if value is None else str(value)


def _set(netns: Netns, setting: Setting, value: str) -> None:
    if setting.version == 4:
        netns.set_conf(setting.index, forwarding=int(value))
    else:
        sysctls.write(netns, {f"net/ipv6/conf/{setting.ifname}/force_forwarding": value})


def _of_others(claim: Claim, setting: Setting) -> Optional[str]:
    """What another network found there before it changed it."""
    if claim.directory is None:
        return None
    for other in ownership.claims(claim.directory):
        if other.key != claim.key and other.netns == claim.netns and other.boot_id == claim.boot_id:
            changed: Dict = other.forwarding.get(setting.ifname, {})
            if changed.get("index") == setting.index and str(setting.version) in changed["earlier"]:
                return changed["earlier"][str(setting.version)]
    return None


@contextmanager
def _alone(claim: Claim) -> Iterator[None]:
    """No two networks look at what the others did and change it at once."""
    path = os.path.join(claim.directory or state.directory(), "forwarding.lock")
    with kernel.refused(f"lock {path}"):
        held = state.lock(path, ownership.LOCK_TIMEOUT)
    if held is None:
        raise KernelError(errno.ETIMEDOUT, f"lock {path}", "another process holds it")
    with held:
        yield

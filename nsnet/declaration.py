"""What a network is declared to be: checked values made from a dict, a JSON file or a TOML file.

Knows the keys, each with its kind and its description in one row of a table, and how the values of one network, and
the networks of one file, must fit together. What one value may be is kinds.py's, what a file may be documents.py's.
Asks the kernel nothing: whether an uplink, a namespace or a program is there, it does not know.

A file is one network, or several under `network`. It has the names of the keyword arguments of `Network`:

    version = 1                                 # optional

    [[network]]
    bridge = "web0"
    address = ["10.7.0.1/24", "fd00:7::1/64"]   # the bridge's; its subnets are the network's
    forward = ["eth0"]                          # the uplinks that it may send through

    [[network.attachments]]
    name = "site"
    command = ["/usr/sbin/httpd", "-f"]         # or pid = 4711, netns = "/proc/4711/ns/net", pin = "blue"
    address = "10.7.0.2/24"                     # or several, or "auto": a free one of each family
    capabilities = ["net_bind_service"]
    sysctls = {"net.ipv4.conf.eth0.rp_filter" = 1}

A refusal is one line: "FILE: network[0].attachments[0].address '10.7.0.300/24': expected ...", counted from 0.
"""

from __future__ import annotations

import os

from nsnet import idmap, job, kinds, ranges, sysctls
from nsnet.digest import sha256
from nsnet.errors import UsageError
from nsnet.kinds import at, inside
from nsnet.named import NamedTuple
from nsnet.values import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

VERSION = 1
MOST_ATTACHMENTS = 1023             # of one bridge: BR_MAX_PORTS less port 0, net/bridge/br_private.h and find_portno()
LIFETIMES = ("process", "declared", "attachments", "owner")
TARGETS = ("command", "pid", "netns", "pin")
STREAMS = ("stdin", "stdout", "stderr")


class RouteSpec(NamedTuple):
    """A route inside an attached namespace. `dst`: "default" or a network. `via`: an IP, or None: on the link."""

    dst: str
    via: Optional[str] = None
    metric: Optional[int] = None


class AttachmentSpec(NamedTuple):
    """One end of a veth pair in a namespace, and what the namespace is of; the fields are the keys, checked.

    `addresses`: none if they are to be found (`auto`). `gateways`: those of the default routes, one of each family.
    `host_ifname`, `lladdr`, `mtu`: None for what is derived or the network's. `queues`: of each end.
    `new`, `capabilities`: in a fixed order.
    `sysctls`, `env`: (name, text) pairs as given. `rlimits`: (name, soft, hard). `stdin`, ...: a path, None for null.
    """

    name: str
    addresses: Tuple[Address, ...]
    gateways: Tuple[str, ...]
    command: Optional[Tuple[str, ...]]
    pid: Optional[int]
    netns: Optional[str]
    pin: Optional[str]
    ifname: str
    host_ifname: Optional[str]
    lladdr: Optional[str]
    mtu: Optional[int]
    queues: int
    default_route: bool
    routes: Tuple[RouteSpec, ...]
    sysctls: Tuple[Tuple[str, str], ...]
    capabilities: Tuple[str, ...]
    env: Tuple[Tuple[str, str], ...]
    cwd: Optional[str]
    user: Union[None, int, str]
    group: Union[None, int, str]
    groups: Optional[Tuple[Union[int, str], ...]]
    hostname: Optional[str]
    new: Tuple[str, ...]
    uid_map: Optional[Tuple[idmap.Range, ...]]
    gid_map: Optional[Tuple[idmap.Range, ...]]
    stdin: Optional[str]
    stdout: Optional[str]
    stderr: Optional[str]
    umask: Optional[int]
    oom_score_adj: Optional[int]
    cgroup: Optional[str]
    no_new_privs: bool
    rlimits: Tuple[Tuple[str, int, int], ...]

    @property
    def auto(self) -> bool:
        """Whether its addresses are to be found, one of each family of the network."""
        return not self.addresses


class NetworkSpec(NamedTuple):
    """A bridge and what is attached to it; the fields are the keys, checked.

    `lladdr`, `mtu`, `stp`, `ageing_time` (seconds): None for what is derived or the kernel's default. `ranges`,
    `exclude`: where addresses are found, as text in one form.
    """

    bridge: str
    addresses: Tuple[Address, ...]
    lladdr: Optional[str]
    mtu: Optional[int]
    stp: Optional[bool]
    ageing_time: Optional[float]
    lifetime: str
    adopt: bool
    forward: Tuple[str, ...]
    ranges: Tuple[str, ...]
    exclude: Tuple[str, ...]
    attachments: Tuple[AttachmentSpec, ...]


# --- settings and ranges ---

def _sysctls(value: Any, what: str) -> Tuple[Tuple[str, str], ...]:
    found = kinds.table(value, what)
    for key in found:
        sysctls.path(key, what)
    return tuple((key, sysctls.value(setting, f"{what} {key!r}:")) for key, setting in found.items())


def _ranges(items: Iterable[str], subnets: Sequence[Address], what: str) -> Tuple[str, ...]:
    """Parts of the subnets, each in one form."""
    ranges.parse_ranges(items, subnets, what)
    found: Dict[str, None] = {}
    for item in items:
        if ranges.text(item, what) in found:
            raise UsageError(f"{what} {item!r}: it stands twice")
        found[ranges.text(item, what)] = None
    return tuple(found)


# --- the keys ---

class Key(NamedTuple):
    """One key. `says`: its description. `field`: its name in the spec, `called`: in a refusal of a keyword argument, if
    that is another. `of_command`: only beside `command`; an argument of nsnet.spawn, but for the streams.
    """

    name: str
    kind: kinds.Kind
    says: str
    default: Any = None
    required: bool = False
    field: Optional[str] = None
    called: Optional[str] = None
    of_command: bool = False


ROUTE = (
    Key("dst", kinds.DESTINATION, '"default", or a network with its prefix', required=True),
    Key("via", kinds.IP, "the gateway's IP; without one, what is on the link"),
    Key("metric", kinds.METRIC, "the lowest goes first"),
)


def _routes(value: Any, what: str) -> Tuple[RouteSpec, ...]:
    found: Dict[Tuple, RouteSpec] = {}
    for index, item in enumerate(kinds.items(value, what, "tables")):
        where = f"{what}[{index}]"
        route = RouteSpec(**_checked(ROUTE, item, where))
        if route.dst == "default" and route.via is None:
            raise UsageError(f"{where}.via: expected the gateway of a default route, or 0.0.0.0/0 or ::/0 for dst")
        if route.via is not None and route.dst != "default" and (":" in route.dst) != (":" in route.via):
            kinds.refuse(f"{where}.via", route.via, f"an IP of the family of {route.dst}")
        if found.setdefault(_place(route), route) is not route:
            raise UsageError(f"{where}.dst {route.dst!r}: it stands twice with that metric")
    return tuple(found.values())


def _place(route: RouteSpec) -> Tuple[bool, str, int]:
    """What no two routes of a namespace may share: family, destination, metric."""
    is_v6 = ":" in (route.via if route.dst == "default" else route.dst)
    metric = route.metric or (1024 if is_v6 else 0)     # IP6_RT_PRIO_USER, <linux/ipv6_route.h>
    return is_v6, "default" if route.dst in ("0.0.0.0/0", "::/0") else route.dst, metric


def _tables(value: Any, what: str) -> Tuple[Mapping, ...]:
    found = kinds.items(value, what, "tables")
    if len(found) > MOST_ATTACHMENTS:
        raise UsageError(f"{what}: expected at most {MOST_ATTACHMENTS}, the ports of a bridge, not {len(found)}")
    return found


ATTACHMENT = (
    Key("name", kinds.NAME, "what it is called; host_ifname, or n and its place counted from 0, if not given"),
    Key("command", kinds.COMMAND, "the words of a command that is run in new namespaces"),
    Key("pid", kinds.PID, "a process whose network namespace is attached"),
    Key("netns", kinds.PATH, "the path of a network namespace that is attached"),
    Key("pin", kinds.PIN, "the name in /run/netns of a network namespace that is attached"),
    Key("address", kinds.AUTO_OR_ADDRESSES,
        'one or several with the subnet\'s prefix, or "auto": a free one of each family of the network', (),
        field="addresses"),
    Key("ifname", kinds.IFNAME, "the name of its link", "eth0"),
    Key("host_ifname", kinds.IFNAME, "the name of the link at the bridge; derived if not given"),
    Key("lladdr", kinds.LLADDR, "the MAC of its link; derived if not given"),
    Key("mtu", kinds.MTU, "bytes; the network's if not given"),
    Key("queues", kinds.QUEUES, "of each end, to send and to receive; more cost more to make, and serve more CPUs at once", 1),
    Key("default_route", kinds.BOOL, "whether its default routes are via the bridge's addresses", True),
    Key("routes", kinds.Kind(_routes, kinds.list_of({"$ref": "#/$defs/route"}),
                             lambda checked: [as_dict(item) for item in checked]), "further routes", ()),
    Key("sysctls", kinds.Kind(_sysctls, kinds.table_of({"type": ["integer", "string", "boolean"]},
                                                       propertyNames={"pattern": "^net[./]"}), dict),
        "settings of its network namespace by name: net.ipv4.conf.eth0.rp_filter", ()),
    Key("capabilities", kinds.CAPABILITIES, "names from capabilities(7), exactly those it has", (), of_command=True),
    Key("env", kinds.ENVIRONMENT, "its environment: these and the caller's PATH, TERM, LANG and TZ, nothing else", (),
        of_command=True),
    Key("cwd", kinds.PATH, "its directory; the caller's if not given", of_command=True),
    Key("user", kinds.USER, "its uid inside, or a name of passwd(5)", of_command=True),
    Key("group", kinds.USER, "its gid inside, or a name of group(5)", of_command=True),
    Key("groups", kinds.USERS, "its supplementary groups", of_command=True),
    Key("hostname", kinds.HOSTNAME, 'its hostname, with "uts" in new', of_command=True),
    Key("new", kinds.NAMESPACES, 'the kinds of its new namespaces, "net" among them', ("net", "user"), of_command=True),
    Key("uid_map", kinds.IDMAP, '"inside:outside:count", or a list of [inside, outside, count]', of_command=True),
    Key("gid_map", kinds.IDMAP, "the same for groups", of_command=True),
    Key("stdin", kinds.STREAM, '"null", or the path of a file that it reads', of_command=True),
    Key("stdout", kinds.STREAM, '"null", or the path of a file that it appends to', of_command=True),
    Key("stderr", kinds.STREAM, '"null", or the path of a file that it appends to', of_command=True),
    Key("umask", kinds.UMASK, 'a number, or octal digits: "022"', of_command=True),
    Key("oom_score_adj", kinds.SCORE, "for the kernel's choice of whom to kill", of_command=True),
    Key("cgroup", kinds.PATH, "the directory of the cgroup v2 that it begins in", of_command=True),
    Key("no_new_privs", kinds.BOOL, "whether set-uid programs give it nothing", True, of_command=True),
    Key("rlimits", kinds.RLIMITS, "limits of getrlimit(2) by name: nofile = [soft, hard], or one number for both", (),
        of_command=True),
)
NETWORK = (
    Key("bridge", kinds.IFNAME, "the name of the bridge", required=True),
    Key("address", kinds.ADDRESSES, "the bridge's, with prefix; one, or several for IPv4 and IPv6", required=True,
        field="addresses", called="bridge address"),
    Key("lladdr", kinds.LLADDR, "the MAC of the bridge; derived if not given"),
    Key("mtu", kinds.MTU, "bytes, of all links; the kernel's default if not given"),
    Key("stp", kinds.BOOL, "whether the bridge speaks the spanning tree protocol; false if not given"),
    Key("ageing_time", kinds.SECONDS,
        "seconds after which the bridge forgets where a MAC is; the kernel's default, 300, if not given"),
    Key("lifetime", kinds.one_of(*LIFETIMES),
        "when it is taken down at the latest: at the end of the process that made it (process, the default of a"
        " keyword argument), when it is asked for (declared, the default in a file), with the last attachment"
        " (attachments), or by its maker alone, with nothing recorded on disk (owner)"),
    Key("adopt", kinds.BOOL, "whether the bridge is there already, and stays the user's", False),
    Key("forward", kinds.LINKS, "the uplinks, by name, through which the network may reach others", ()),
    Key("ranges", kinds.RANGES,
        'where addresses for "auto" are: FIRST-LAST, a network, or one address; all of the subnets if not given', ()),
    Key("exclude", kinds.RANGES, 'what is never given for "auto", likewise', ()),
    Key("attachments", kinds.Kind(_tables, kinds.list_of({"$ref": "#/$defs/attachment"}, maxItems=MOST_ATTACHMENTS),
                                  lambda checked: [as_dict(item) for item in checked]), "what is attached to it", ()),
)
_KEYS = {RouteSpec: ROUTE, AttachmentSpec: ATTACHMENT, NetworkSpec: NETWORK}


def _checked(keys: Tuple[Key, ...], given: Any, where: str) -> Dict[str, Any]:
    """The fields of a spec. None, and JSON's null, is as if the key was not there."""
    names = [key.name for key in keys]
    for name in kinds.table(given, where.rstrip(":") or "what is declared"):
        if name not in names:
            near = _near(name, names) if isinstance(name, str) and len(name) < 64 else []
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
            raise UsageError(f"{inside(where)}key {name!r}: there is none of that name; {hint}")
    found = {}
    for key in keys:
        value = given.get(key.name)
        if value is None and not key.required:
            found[key.field or key.name] = key.default
            continue
        what = at(where, key.called if key.called and not where else key.name)
        if value is None:
            raise UsageError(f"{what}: there is none; expected {key.says}")
        found[key.field or key.name] = key.kind.check(value, what)
    return found


def _near(name: str, names: Sequence[str], cutoff: float = 0.6) -> List[str]:
    """The most similar of some names, if one is similar."""
    import difflib                      # here: only a misspelling needs it

    return difflib.get_close_matches(name, names, 1, cutoff)


# --- how they fit together ---

class Taken:
    """What of a network is given away already: addresses, MACs and links, each with whom it is given to."""

    def __init__(self, network: NetworkSpec):
        self.names: Dict[str, str] = {}
        self.links = {network.bridge: network.bridge}
        self.lladdrs = {} if network.lladdr is None else {network.lladdr: network.bridge}
        self.addresses: Dict[bytes, str] = {}
        self.ends: Dict[Optional[Tuple], str] = {}
        for spec in network.attachments:
            self.add(spec)

    def free_name(self) -> str:
        """n and its place; a later number where an earlier attachment was given that name."""
        index = len(self.names)
        while f"n{index}" in self.names:
            index += 1
        return f"n{index}"

    def check(self, spec: AttachmentSpec, where: str) -> None:
        """Raises UsageError for what is given away already."""
        for address in spec.addresses:
            if self.addresses.get(address.packed, spec.name) != spec.name:
                raise UsageError(f"{at(where, 'address')} '{address}': {self.addresses[address.packed]} has it")
        if spec.name in self.names:
            raise UsageError(f"{at(where, 'name')} {spec.name!r}: it stands for two attachments")
        if spec.host_ifname is not None and spec.host_ifname in self.links:
            raise UsageError(f"{at(where, 'host_ifname')} {spec.host_ifname!r}: it stands for two links")
        if spec.lladdr is not None and spec.lladdr in self.lladdrs:
            raise UsageError(f"{at(where, 'lladdr')} {spec.lladdr!r}: {self.lladdrs[spec.lladdr]} has it")
        _meet(self.ends, spec, where)

    def add(self, spec: AttachmentSpec) -> None:
        """Give it away."""
        self.addresses.update((address.packed, spec.name) for address in spec.addresses)
        self.ends[_end_of(spec)] = spec.name
        self.names[spec.name] = spec.name
        self.links[spec.host_ifname] = self.lladdrs[spec.lladdr] = spec.name


def _end_of(spec: AttachmentSpec) -> Optional[Tuple]:
    """Which link in which namespace; None for a namespace that is made for it."""
    if (spec.pid, spec.netns, spec.pin) == (None, None, None):
        return None
    return spec.pid, f"/run/netns/{spec.pin}" if spec.pin else spec.netns, spec.ifname


def _meet(ends: Dict[Optional[Tuple], str], spec: AttachmentSpec, where: str) -> None:
    """Refuse a second link of one name in one namespace, as far as two ways to name a namespace are seen to be one."""
    end = _end_of(spec)
    if end is not None and end in ends:
        raise UsageError(f"{at(where, 'ifname')} {spec.ifname!r}: {ends[end]} has it in that namespace")


def network(given: Mapping, where: str = "") -> NetworkSpec:
    """A network from a dict with the keys of `NETWORK`, which are the keyword arguments of Network.

    `where`: what refusals begin with, "FILE: network[0]". Raises UsageError, one line, for what cannot be meant.
    """
    found = _checked(NETWORK, given, where)
    found["lifetime"] = found["lifetime"] or "process"
    for name in ("ranges", "exclude"):
        found[name] = _ranges(found[name], found["addresses"], at(where, name))
    try:
        ranges.pools(found["addresses"], found["ranges"], found["exclude"])
    except UsageError as error:                 # they leave nothing
        raise UsageError(f"{inside(where)}{error}") from None
    tables, found["attachments"] = found["attachments"], ()
    spec = NetworkSpec(**found)
    if spec.bridge in spec.forward:
        raise UsageError(f"{at(where, 'forward')} {spec.bridge!r}: it is the bridge itself")
    if spec.forward and spec.lifetime == "owner":
        raise UsageError(f"{at(where, 'forward')} {list(spec.forward)}: expected a lifetime other than 'owner', for"
                         " the sysctls that it changes are recorded on disk")
    for name in ("lladdr", "mtu", "stp", "ageing_time") if spec.adopt else ():
        value = getattr(spec, name)
        if value is not None:
            raise UsageError(f"{at(where, name)} {value!r}: expected none with adopt; the bridge is the user's")
    taken, attachments = Taken(spec), []
    for index, table in enumerate(tables):
        place = at(where, f"attachments[{index}]")
        attachments.append(_attachment(table, spec, taken, place, True))
        taken.add(attachments[-1])
    return spec._replace(attachments=tuple(attachments))


def attachment(given: Mapping, network: NetworkSpec, where: str = "", needs_target: bool = True,
               taken: Optional[Taken] = None) -> AttachmentSpec:
    """An attachment to `network`, beside those that this has, from a dict with the keys of `ATTACHMENT`.

    `needs_target`: whether one of command, pid, netns and pin must be given; never more than one. `taken`: Taken(network),
    for who asks often. Raises UsageError.
    """
    return _attachment(given, network, Taken(network) if taken is None else taken, where, needs_target)


def _attachment(given: Mapping, network: NetworkSpec, taken: Taken, where: str, needs_target: bool) -> AttachmentSpec:
    found = _checked(ATTACHMENT, given, where)
    targets = [name for name in TARGETS if found[name] is not None]
    if len(targets) > 1 or needs_target and not targets:
        raise UsageError(f"{inside(where)}expected one of {', '.join(TARGETS)}"
                         + (f", not both {targets[0]} and {targets[1]}" if targets else ""))
    if "command" not in targets:
        for key in ATTACHMENT:
            if key.of_command and given.get(key.name) is not None:
                raise UsageError(f"{at(where, key.name)}: expected it beside a command only")
    if "net" not in found["new"]:
        raise UsageError(f"{at(where, 'new')} {list(found['new'])!r}: expected 'net' among them")
    if found["hostname"] is not None and "uts" not in found["new"]:
        raise UsageError(f"{at(where, 'hostname')} {found['hostname']!r}: expected 'uts' in new; else the name of this"
                         " machine would change")
    for name in ("uid_map", "gid_map"):
        if found[name] is not None and "user" not in found["new"]:
            raise UsageError(f"{at(where, name)}: expected 'user' in new; there is no user namespace to map")
    found["name"] = found["name"] or found["host_ifname"] or taken.free_name()
    gateways = _gateways(found["addresses"], network, at(where, "address"))
    found["gateways"] = gateways if found["default_route"] else ()
    own = {_place(RouteSpec("default", via)) for via in found["gateways"]}
    for number, route in enumerate(found["routes"]):
        if _place(route) in own:
            what = at(where, f"routes[{number}].dst")
            raise UsageError(f"{what} {route.dst!r}: expected default_route to be false, or a metric")
    spec = AttachmentSpec(**found)
    taken.check(spec, where)
    return spec


def _gateways(addresses: Sequence[Address], network: NetworkSpec, what: str) -> Tuple[str, ...]:
    """For each family the bridge's address in the subnet of the first one; its first, if they are to be found."""
    found: Dict[int, str] = {}
    for item in addresses:
        subnets = [own for own in network.addresses if item in own]
        if not subnets:
            raise UsageError(f"{what} '{item}': expected one in the subnet of the bridge, "
                             + " or ".join(str(own) for own in network.addresses))
        gateway = next((own for own in subnets if own.prefixlen == item.prefixlen), None)
        if gateway is None:
            raise UsageError(f"{what} '{item}': expected the subnet's prefix, /{subnets[0].prefixlen}")
        if any(item.packed == own.packed for own in network.addresses):
            raise UsageError(f"{what} '{item}': it is the bridge's own")
        found.setdefault(item.version, gateway.ip)
    for own in () if addresses else network.addresses:
        found.setdefault(own.version, own.ip)
    return tuple(found.values())


def _apart(specs: Sequence[NetworkSpec], places: Sequence[str]) -> None:
    """Refuse networks of one file that get into each other's way."""
    links: Dict[str, str] = {}
    ends: Dict[Optional[Tuple], str] = {}
    for spec, place in zip(specs, places):
        names = [(spec.bridge, at(place, "bridge"))]
        for index, item in enumerate(spec.attachments):
            names.append((item.host_ifname, at(place, f"attachments[{index}].host_ifname")))
        for name, what in names:
            if name is not None and links.setdefault(name, what) != what:
                raise UsageError(f"{what} {name!r}: it stands for two links")
    for spec, place in zip(specs, places):
        for index, item in enumerate(spec.attachments):
            _meet(ends, item, at(place, f"attachments[{index}]"))
            ends[_end_of(item)] = item.name
    subnets = sorted((own.version, own.with_host(0).packed, own.with_host(own.broadcast).packed, index, str(own))
                     for index, spec in enumerate(specs) for own in spec.addresses)
    widest = None                       # of two subnets one holds the other, or they are apart
    for subnet in subnets:
        if widest is None or subnet[:2] > (widest[0], widest[2]):
            widest = subnet
        elif subnet[3] != widest[3]:
            first, second = sorted((widest, subnet), key=lambda item: item[3])
            raise UsageError(f"{at(places[second[3]], 'address')} '{second[4]}': expected a subnet apart from"
                             f" '{first[4]}' of {specs[first[3]].bridge}")
        else:
            widest = max(widest, subnet, key=lambda item: item[2])


# --- and back ---

def as_dict(spec: Union[NetworkSpec, AttachmentSpec, RouteSpec]) -> Dict[str, Any]:
    """A spec as JSON has it: what differs from the defaults, and `name` and `lifetime`, which have more than one.

    `network(as_dict(spec)) == spec`, `attachment(as_dict(spec), network) == spec`.
    """
    found = {}
    for key in _KEYS[type(spec)]:
        value = getattr(spec, key.field or key.name)
        if key.required or value != key.default:
            found[key.name] = key.kind.plain(value)
    return found


def options(spec: AttachmentSpec) -> Dict[str, Any]:
    """The keyword arguments of nsnet.spawn for an attachment's command, but for the streams, which are paths to open.

    `env` is always among them: what the spec has, over PATH, TERM, LANG and TZ of this process.
    """
    found = {key.name: getattr(spec, key.name) for key in ATTACHMENT if key.of_command and key.name not in STREAMS}
    found["env"] = {**job.small_environment(), **dict(spec.env)}
    found["rlimits"] = {kinds.LIMITS[name]: (soft, hard) for name, soft, hard in spec.rlimits}
    return {name: value for name, value in found.items() if value is not None}


def derived_lladdr(*parts: str) -> str:
    """A MAC that is always the same for the same names: locally administered, unicast."""
    return (b"\x02" + _digest(parts)[:5]).hex(":")


def derived_ifname(*parts: str) -> str:
    """The name of a link that is always the same for the same names: veth and 8 hex digits."""
    return "veth" + _digest(parts)[:4].hex()


def _digest(parts: Sequence[str]) -> bytes:
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def schema() -> Dict[str, Any]:
    """A file in JSON Schema (draft 2020-12), for editors. How things must fit together is not in it."""
    version = {"version": {"const": VERSION, "description": "of this format"}}
    one = _schema_of(NETWORK)
    only_command = {key.name: ["command"] for key in ATTACHMENT if key.of_command}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "networks of nsnet",
        "oneOf": [
            {**one, "properties": {**version, **one["properties"]}},
            {"type": "object", "required": ["network"], "additionalProperties": False,
             "properties": {**version, "network": kinds.list_of({"$ref": "#/$defs/network"}, minItems=1)}},
        ],
        "$defs": {
            "network": one,
            "attachment": {**_schema_of(ATTACHMENT), "oneOf": [{"required": [name]} for name in TARGETS],
                           "dependentRequired": only_command},
            "route": _schema_of(ROUTE),
        },
    }


def _schema_of(keys: Tuple[Key, ...]) -> Dict[str, Any]:
    properties = {}
    for key in keys:
        properties[key.name] = {**key.kind.schema, "description": key.says}
        if key.default not in (None, ()):
            properties[key.name]["default"] = key.kind.plain(key.default)
    return {"type": "object", "properties": properties, "required": [key.name for key in keys if key.required],
            "additionalProperties": False}


# --- files ---

def load(path: Union[str, os.PathLike]) -> Tuple[NetworkSpec, ...]:
    """The networks of a file, JSON or TOML by its suffix or else by how it begins; "-" is standard input.

    Raises UsageError, one line that begins with the file's name; KernelError if it cannot be read.
    """
    from nsnet import documents         # here and below: who has no file needs no parsers

    return loads(*documents.read(path))


def loads(text: Union[str, bytes], name: str, kind: Optional[str] = None) -> Tuple[NetworkSpec, ...]:
    """The networks of a text. `name`: what refusals begin with. `kind`: "json" or "toml"; by default JSON if it begins
    with a brace.

    A network without a lifetime has "declared". Raises UsageError.
    """
    from nsnet import documents

    name = documents.shown(name)
    document = documents.parse(text, name, kind)
    version = document.pop("version", VERSION)
    if version != VERSION or not isinstance(version, int) or isinstance(version, bool):
        kinds.refuse(f"{name}: version", version, str(VERSION))
    if "network" in document:
        tables = document.pop("network")
        if not isinstance(tables, list) or not tables:
            raise UsageError(f"{name}: network: expected a list of at least one, [[network]] in TOML")
        for key in document:
            raise UsageError(f"{name}: key {key!r}: expected it in a network, or no list of networks")
        places = [f"{name}: network[{index}]" for index in range(len(tables))]
    else:
        for key in document.keys() - {row.name for row in NETWORK}:
            if len(key) < 64 and _near(key, ["network"], 0.8):
                raise UsageError(f"{name}: key {key!r}: there is none of that name; did you mean 'network'?")
        tables, places = [document], [f"{name}:"]
    for table, place in zip(tables, places):
        if kinds.table(table, place).get("lifetime") is None:
            table["lifetime"] = "declared"
    specs = tuple(map(network, tables, places))
    _apart(specs, places)
    return specs

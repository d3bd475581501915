"""What nsnet says and what iproute2 says of a namespace, as values that compare: the readings of the state machine.

`ip`, `ip -6`, `bridge` and `tc` run with -batch for as long as the machine does, so that a question costs a fraction of
a millisecond. Each list has a function that takes what nsnet says (as_...), and one that takes what iproute2 says
(..._of).
"""

import json
import re
import subprocess
import sys

from live_helpers import go_inside, which

TRIES = 50                          # readings until nothing changed from before iproute2's to after it, or they agree

LINK_FLAGS = ((0x10, "POINTOPOINT"), (0x8, "LOOPBACK"), (0x2, "BROADCAST"), (0x1000, "MULTICAST"), (0x200, "ALLMULTI"),
              (0x100, "PROMISC"), (0x80, "NOARP"), (0x1, "UP"), (0x10000, "LOWER_UP"))
ADDRESS_FLAGS = {0x01: "secondary", 0x02: "nodad", 0x08: "dadfailed", 0x20: "deprecated", 0x40: "tentative",
                 0x200: "noprefixroute"}
STATES = {0x02: "REACHABLE", 0x04: "STALE", 0x80: "PERMANENT"}
PORT_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
PORT_FIELDS = {"mode": "hairpin", "guard": "guard", "protect": "root_block", "fast_leave": "fastleave",
               "learning": "learning", "unicast_flood": "flood", "isolated": "isolated", "mcast_flood": "mcast_flood",
               "bcast_flood": "bcast_flood", "mcast_to_ucast": "mcast_to_unicast", "neigh_suppress": "neigh_suppress",
               "locked": "locked"}
BRIDGE_FIELDS = ("forward_delay", "hello_time", "max_age", "ageing_time", "stp_state", "priority", "vlan_filtering",
                 "mcast_snooping", "group_addr", "mcast_router", "mcast_query_use_ifaddr", "mcast_querier",
                 "mcast_hash_max", "mcast_last_member_cnt", "mcast_startup_query_cnt", "mcast_last_member_intvl",
                 "mcast_membership_intvl", "mcast_querier_intvl", "mcast_query_intvl", "mcast_query_response_intvl",
                 "mcast_startup_query_intvl", "mcast_stats_enabled", "mcast_igmp_version", "mcast_mld_version",
                 "nf_call_iptables", "nf_call_ip6tables", "nf_call_arptables")
VXLAN_FIELDS = {"id": "id", "port": "port", "ttl": "ttl", "ageing": "ageing", "learning": "learning"}
FDB_FLAGS = ((0x02, "self"), (0x80, "router"), (0x10, "extern_learn"), (0x20, "offload"), (0x04, "master"),
             (0x40, "sticky"))
FDB_STATES = {0x80: "permanent", 0x40: "static", 0x04: "stale", 0x02: ""}
PROTOCOLS = {0x0003: "all", 0x0800: "ip", 0x86DD: "ipv6"}
HOP_FLAGS = ((1, "dead"), (4, "onlink"), (16, "linkdown"))
SIDES = {"ingress": ["ingress"], "clsact": ["ingress", "egress"]}       # where filters hang
TC_ROOT = 0xFFFFFFFF
TICKS = 15.625                      # in a microsecond, the unit in which tc(8) counts


class Talker:
    """One iproute2 program with -batch in a namespace: each question is a line, and so is each answer but for text."""

    def __init__(self, netns_fd, program, *options):
        self._process = subprocess.Popen([which(program), *options, "-batch", "-"], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, preexec_fn=go_inside(netns_fd), encoding="utf-8")

    def _say(self, questions):
        self._process.stdin.write("".join(question + "\n" for question in questions))
        self._process.stdin.flush()

    def ask(self, *questions):
        """One list for each question, empty objects left out."""
        self._say(questions)
        return [[row for row in json.loads(self._process.stdout.readline()) if row] for _ in questions]

    def read_until(self, end, *questions):
        """The lines of text before the one that begins with `end`, which the last question asks for."""
        self._say(questions)
        return list(iter(lambda: self._line(end), None))

    def _line(self, end):
        line = self._process.stdout.readline()
        assert line, "it ended"
        return None if line.startswith(end) else line.split()

    def close(self):
        self._process.communicate()
        assert self._process.returncode == 0


class Witness:
    """iproute2 in a namespace."""

    def __init__(self, netns):
        self._netns_fd = netns.fd
        self.start()

    def start(self):
        self._ip, self._ip6, self._bridge, self._tc, self._text = self._talkers = [
            Talker(self._netns_fd, *words) for words in (
                ("ip", "-j", "-details", "-Numeric"), ("ip", "-6", "-j", "-details", "-Numeric"),
                ("bridge", "-j", "-details"), ("tc", "-j"), ("tc", "-details"))]    # not every tc has JSON for classes

    def close(self):
        for talker in self._talkers:
            talker.close()

    def forget(self):
        """They keep the names of links for as long as they run."""
        self.close()
        self.start()

    def says(self):
        """Everything, as values that compare."""
        links, routes, rules, neighbours, nexthops = self._ip.ask(
            "address show", "route show table all", "rule show", "neighbour show", "nexthop show")
        rules6, = self._ip6.ask("rule show")
        fdb, ports = self._bridge.ask("fdb show", "link show")
        qdiscs, = self._tc.ask("qdisc show")
        indexes = {row["ifname"]: row["ifindex"] for row in links}
        shaped = [row["dev"] for row in qdiscs if row["kind"] == "htb" and row.get("root") and row["dev"] in indexes]
        sides = [(row["dev"], side) for row in qdiscs if row["dev"] in indexes for side in (
            [row["handle"]] if row["dev"] in shaped and row.get("root") else SIDES.get(row["kind"], ()))]
        # By index, for a name they would look up among those that they keep.
        filters = self._tc.ask(*(f"filter show dev if{indexes[dev]} "
                                 f"{side if side in SIDES['clsact'] else 'parent ' + side}" for dev, side in sides))
        return {
            "links": [link_of(row) for row in sorted(links, key=lambda row: row["ifindex"])],
            "addresses": sort(one for row in links for one in addresses_of(row)),
            "routes": sort(map(route_of, routes)),
            "rules": sort([rule_of(row, "inet") for row in rules] + [rule_of(row, "inet6") for row in rules6]),
            "neighbours": sort(map(neighbour_of, neighbours)),
            "nexthops": sort(map(nexthop_of, nexthops)),
            "fdb": sort(map(fdb_of, fdb)),
            "ports": sort(map(port_of, ports)),
            "qdiscs": sort(map(qdisc_of, qdiscs)),
            "classes": sort(class_of(words, dev) for dev in shaped for words in self._text.read_until(
                "qdisc", f"class show dev if{indexes[dev]}", "qdisc show dev lo")),
            "filters": sort(filter_of(row, *where) for where, rows in zip(sides, filters) for row in rows),
        }


def read_both(netns, witness):
    """(what nsnet says, what iproute2 says) at one and the same time: they agree, or nothing changed in between."""
    for _ in range(TRIES):
        ours = nsnet_says(netns)
        theirs = witness.says()
        different = [what for what in ours if ours[what] != theirs[what]]
        # What a bridge with a loop learns goes to and fro, and may look the same before and after.
        if not different or different != ["fdb"] and ours == nsnet_says(netns):
            break                                           # else the kernel was still at it: carrier, addresses, ...
    return ours, theirs


# --- as iproute2 says it: each takes what nsnet says, or (for ..._of) what iproute2 says, to the same values ---

def as_link(link, names):
    attrs = link.attrs
    flags = [name for bit, name in LINK_FLAGS if link.flags & bit]
    if link.up and not link.flags & 0x40:                   # IFF_RUNNING
        flags.insert(0, "NO-CARRIER")
    said = {"ifindex": link.index, "ifname": link.ifname, "flags": flags, "mtu": link.mtu, "qdisc": link.qdisc,
            "operstate": link.operstate.upper(), "group": str(link.group), "txqlen": attrs["txqlen"],
            "address": link.lladdr, "broadcast": attrs.get("broadcast"), "promiscuity": attrs["promiscuity"],
            "allmulti": attrs["allmulti"], "min_mtu": attrs["min_mtu"], "max_mtu": attrs["max_mtu"],
            "num_tx_queues": attrs["num_tx_queues"], "num_rx_queues": attrs["num_rx_queues"],
            "gso_max_size": attrs["gso_max_size"], "gso_max_segs": attrs["gso_max_segs"],
            "master": names.get(link.master), "link": names.get(link.peer_index) if link.peer_index else None,
            "ifalias": link.ifalias, "altnames": sorted(link.altnames), "kind": link.kind,
            "port": attrs.get("linkinfo", {}).get("slave_kind")}
    if link.kind == "bridge":
        said["options"] = {name: link.options.get(name) for name in BRIDGE_FIELDS}
        said["options"]["group_fwd_mask"] = link.options["group_fwd_mask"]
    elif link.kind == "macvlan":
        said["options"] = {1: "private", 2: "vepa", 4: "bridge"}[link.options["mode"]]
    elif link.kind == "vxlan":
        said["options"] = {name: int(link.options[name]) for name in VXLAN_FIELDS}
    if said["port"] == "bridge":
        said["port_options"] = port_options(link.port_options)
    return said


def port_options(port):
    return {**{name: bool(port[field]) for field, name in PORT_FIELDS.items()}, "state": PORT_STATES[port["state"]],
            "priority": port["priority"], "cost": port["cost"], "multicast_router": port.get("multicast_router")}


def link_of(row):
    info = row.get("linkinfo", {})
    said = {name: row.get(name) for name in (
        "ifindex", "ifname", "flags", "mtu", "qdisc", "operstate", "group", "txqlen", "address", "broadcast",
        "promiscuity", "allmulti", "min_mtu", "max_mtu", "num_tx_queues", "num_rx_queues", "gso_max_size",
        "gso_max_segs", "master", "link", "ifalias")}
    said["group"] = str(int(said["group"]) % 2 ** 32)       # which it takes for signed
    said["txqlen"] = said["txqlen"] or 0                    # which it does not print
    said["flags"] = [flag for flag in said["flags"] if flag != "M-DOWN"]        # its own guess, of the lower link
    said.update(altnames=sorted(row.get("altnames", [])), kind=info.get("info_kind"), port=info.get("info_slave_kind"))
    data, port = info.get("info_data", {}), info.get("info_slave_data", {})
    if said["kind"] == "bridge":
        said["options"] = {name: data.get(name) for name in BRIDGE_FIELDS}
        said["options"]["group_fwd_mask"] = int(data["group_fwd_mask"], 16)
    elif said["kind"] == "macvlan":
        said["options"] = data["mode"]
    elif said["kind"] == "vxlan":
        said["options"] = {name: int(data.get(field, 0)) for name, field in VXLAN_FIELDS.items()}
    if said["port"] == "bridge":
        said["port_options"] = {name: port.get(name) for name in (*PORT_FIELDS.values(), "state", "priority", "cost",
                                                                  "multicast_router")}
    return said


def as_address(one, names):
    flags = {name for bit, name in ADDRESS_FLAGS.items() if one.flags & bit}
    if one.family == 10:
        flags.discard("secondary")                          # the same bit says "temporary" there
    return {"link": names[one.index], "family": {2: "inet", 10: "inet6"}[one.family], "address": one.address,
            "peer": one.peer, "broadcast": one.broadcast, "scope": str(one.scope), "label": one.label,
            "valid": one.valid_lft, "preferred": one.preferred_lft, "metric": one.metric, "flags": flags}


def addresses_of(row):
    for one in row["addr_info"]:
        lifetimes = [None if one[name] == 0xFFFFFFFF else one[name]
                     for name in ("valid_life_time", "preferred_life_time")]
        yield {"link": row["ifname"], "family": one["family"], "address": f"{one['local']}/{one['prefixlen']}",
               "peer": one.get("address"), "broadcast": one.get("broadcast"), "scope": one["scope"],
               "label": one.get("label"), "valid": lifetimes[0], "preferred": lifetimes[1], "metric": one.get("metric"),
               "flags": {name for name in ADDRESS_FLAGS.values() if one.get(name)}}


def flags_of(flags):
    return [name for bit, name in HOP_FLAGS if flags & bit]


def as_route(route, names):
    host = "/128" if route.family == 10 else "/32"
    hops = [{"gateway": hop.via, "dev": names.get(hop.oif), "weight": hop.weight, "flags": flags_of(hop.flags)}
            for hop in route.hops]
    return {"type": str(route.type), "dst": route.dst[:-len(host)] if route.dst.endswith(host) else route.dst,
            "gateway": route.via, "dev": names.get(route.oif), "table": str(route.table),
            "protocol": str(route.protocol), "scope": str(route.scope), "prefsrc": route.prefsrc,
            "metric": route.metric, "nhid": route.nh_id, "flags": flags_of(route.flags), "hops": hops}


def route_of(row):
    said = {name: row.get(name) for name in ("type", "dst", "gateway", "dev", "table", "protocol", "scope", "prefsrc",
                                             "metric", "nhid", "flags")}
    said["hops"] = [{name: hop.get(name) for name in ("gateway", "dev", "weight", "flags")}
                    for hop in row.get("nexthops", ())]
    return said


def as_rule(one):
    said = {"family": {2: "inet", 10: "inet6"}[one.family], "priority": one.priority, "protocol": str(one.protocol),
            "iif": one.iif, "fwmark": None if one.fwmark is None else hex(one.fwmark),
            "table": str(one.table) if one.action == 1 else None,               # FR_ACT_TO_TBL
            "action": None if one.action == 1 else str(one.action)}
    for name, network in (("src", one.src or "all"), ("dst", one.dst)):
        address, _, length = (network or "").partition("/")
        said[name], said[name + "len"] = address or None, int(length) if length not in ("", "32", "128") else None
    return said


def rule_of(row, family):
    return {"family": family, **{name: row.get(name) for name in (
        "priority", "src", "srclen", "dst", "dstlen", "table", "action", "protocol", "iif", "fwmark")}}


def as_neighbour(one, names):
    return {"dst": one.dst, "dev": names[one.index], "lladdr": one.lladdr, "state": [STATES.get(one.state, one.state)]}


def neighbour_of(row):
    return {name: row.get(name) for name in ("dst", "dev", "lladdr", "state")}


def as_nexthop(one, names):
    return {"id": one.id, "gateway": one.via, "dev": names.get(one.oif), "blackhole": one.blackhole or None,
            "scope": str(one.scope), "protocol": str(one.protocol),
            "flags": flags_of(one.header.flags),
            "group": [{"id": id, "weight": weight} for id, weight in one.group] or None}


def nexthop_of(row):
    said = {name: row.get(name) for name in ("id", "gateway", "dev", "scope", "protocol", "flags")}
    said["blackhole"] = True if "blackhole" in row else None
    said["group"] = [{"id": member["id"], "weight": member.get("weight", 1)}
                     for member in row["group"]] if "group" in row else None
    return said


def as_fdb(one, names):
    return {"mac": one.lladdr, "dev": names[one.index], "dst": one.dst, "port": one.port, "vni": one.vni,
            "via": names.get(one.attrs.get("ifindex")), "flags": [name for bit, name in FDB_FLAGS if one.flags & bit],
            "master": names.get(one.master), "state": FDB_STATES.get(one.state, hex(one.state))}


def fdb_of(row):
    return {"dev": row["ifname"], "via": row.get("viaIf"),
            **{name: row.get(name) for name in ("mac", "dst", "port", "vni", "flags", "master", "state")}}


def as_port(link, names):
    """What bridge(8) has as well, of a message of its own (IFLA_PROTINFO)."""
    return {"ifindex": link.index, "ifname": link.ifname, "master": names[link.master],
            **port_options(link.port_options)}


def port_of(row):
    said = {name: row.get(name) for name in ("ifindex", "ifname", "master", "state", "priority", "cost",
                                             *PORT_FIELDS.values())}
    return {**said, "multicast_router": row.get("mcast_router")}


def written(handle):
    """As tc(8) writes a handle: hex, without what is 0."""
    return ":".join(f"{part:x}" if part else "" for part in (handle >> 16, handle & 0xFFFF))


def place(one):
    """Where a qdisc or class hangs."""
    if one.parent == TC_ROOT:
        return {"root": True, "parent": None}
    return {"root": None, "parent": written(one.parent) if one.parent else None}


def sent_in(ticks, rate):
    """The bytes, by tc_calc_xmitsize() of tc(8), which counts in whole microseconds."""
    return int(rate * int(ticks / TICKS) / 1e6)


def as_qdisc(one, names):
    said = {"kind": one.kind, "handle": f"{one.handle >> 16:x}:", "dev": names[one.index], **place(one),
            "options": None}
    if one.kind == "tbf":
        parms = one.options["parms"]
        rate = one.options.get("rate64") or parms.rate_rate
        latency = 1e6 * (parms.limit / rate) - int(parms.buffer / TICKS)
        said["options"] = {"rate": rate, "burst": sent_in(parms.buffer, rate), "lat": None, "limit": None}
        said["options"].update({"limit": parms.limit} if latency < 0 else {"lat": int(latency)})
    elif one.kind == "htb":
        init = one.options["init"]
        said["options"] = {"r2q": init.rate2quantum, "default": hex(init.defcls) if init.defcls else "0",
                           "direct_qlen": one.options["direct_qlen"]}
    return said


def qdisc_of(row):
    said = {name: row.get(name) for name in ("kind", "handle", "dev", "root", "parent")}
    options = row.get("options", {})
    if said["kind"] == "tbf":
        said["options"] = {name: options.get(name) for name in ("rate", "burst", "limit")}
        said["options"]["lat"] = int(options["lat"]) if "lat" in options else None
    elif said["kind"] == "htb":
        said["options"] = {**{name: options.get(name) for name in ("r2q", "direct_qlen")},
                           "default": hex(int(options["default"], 16)) if int(options["default"], 16) else "0"}
    else:
        said["options"] = None
    return said


def as_class(one, names):
    said = {"kind": one.kind, "classid": written(one.handle), "dev": names[one.index], **place(one),
            "leaf": written(one.header.info) if one.header.info else None}
    if one.kind == "htb":
        parms = one.options["parms"]
        rates = [one.options.get(name + "64") or getattr(parms, f"{name}_rate") for name in ("rate", "ceil")]
        inner = parms.level > 0                             # of those tc(8) says neither prio nor quantum
        said.update(rate=rates[0], ceil=rates[1], level=parms.level, burst=size(sent_in(parms.buffer, rates[0])),
                    cburst=size(sent_in(parms.cbuffer, rates[1])), prio=None if inner else parms.prio,
                    quantum=None if inner else parms.quantum)
    return said


def class_of(words, dev):
    """From a line of text: class htb 1:10 parent 1:1 leaf 10: prio 0 quantum 12500 rate 1Mbit ceil 2Mbit ..."""
    rest = words[3:]
    said = {"kind": words[1], "classid": words[2], "dev": dev, "root": True if "root" in rest else None}
    fields = dict(zip(rest[rest[0] == "root"::2], rest[(rest[0] == "root") + 1::2]))
    said.update(parent=fields.get("parent"), leaf=fields.get("leaf"))
    if said["kind"] == "htb":
        said.update({name: bytes_a_second(fields[name]) for name in ("rate", "ceil")})
        said.update({name: fields[name].partition("/")[0] for name in ("burst", "cburst")})
        said.update({name: int(fields[name]) if name in fields else None for name in ("level", "prio", "quantum")})
    return said


def bytes_a_second(text):
    number, unit = re.fullmatch(r"(\d+)([KMGT]?)bit", text).groups()
    return int(number) * 1000 ** " KMGT".index(unit or " ") // 8


def size(number):
    """Bytes as tc(8) writes them, print_size()."""
    for unit, name, near in ((1 << 20, "Mb", 1024), (1 << 10, "Kb", 16)):
        if number >= unit and abs(unit * round(number / unit) - number) < near:
            return f"{round(number / unit)}{name}"
    return f"{number}b"


def as_filter(one, names, side):
    said = {"dev": names[one.index], "side": side, "kind": one.kind, "pref": one.priority, "chain": one.chain,
            "protocol": PROTOCOLS.get(one.protocol, one.protocol), "fh": None, "flowid": None, "match": None}
    if one.handle:
        table, bucket, node = one.handle >> 20, one.handle >> 12 & 0xFF, one.handle & 0xFFF
        said["fh"] = f"{table:x}:" + (f"{bucket:x}" if bucket else "") + (f":{node:x}" if node else "")
    if "classid" in one.options:
        said["flowid"] = written(one.options["classid"])
    if "sel" in one.options:
        key, = one.options["sel"][1]
        value, mask = (int.from_bytes(word.to_bytes(4, sys.byteorder), "big") for word in (key.val, key.mask))
        said["match"] = (value, mask, key.off)
    return said


def filter_of(row, dev, side):
    options = row.get("options", {})
    said = {"dev": dev, "side": side, "fh": options.get("fh"), "flowid": options.get("flowid"), "match": None,
            **{name: row.get(name) for name in ("kind", "pref", "chain", "protocol")}}
    if "match" in options:
        said["match"] = (int(options["match"]["value"], 16), int(options["match"]["mask"], 16), options["match"]["off"])
    return said


def sort(rows):
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True, default=sorted))


def differences(what, ours, theirs):
    """What to read first when they are not the same."""
    mine, its = [row for row in ours if row not in theirs], [row for row in theirs if row not in ours]
    if what == "links" and len(mine) == len(its):
        return "\n".join(f"{one['ifname']}: {name} is {one.get(name)!r}, to ip {two.get(name)!r}"
                         for one, two in zip(mine, its) for name in two if one.get(name) != two[name])
    return "\n".join([f"{what}: {len(ours)}, to ip {len(theirs)}", *(f"  nsnet: {row}" for row in mine),
                      *(f"  ip:    {row}" for row in its)])


def nsnet_says(netns):
    """Everything, as values that compare."""
    links = netns.links()
    names = {link.index: link.ifname for link in links}
    qdiscs = netns.qdiscs()
    shaped = {one.index: written(one.handle) for one in qdiscs if one.kind == "htb" and one.parent == TC_ROOT}
    sides = [(one.index, side) for one in qdiscs for side in (
        [shaped[one.index]] if one.index in shaped and one.parent == TC_ROOT else SIDES.get(one.kind, ()))]
    return {
        "links": [as_link(link, names) for link in sorted(links, key=lambda link: link.index)],
        "addresses": sort(as_address(one, names) for one in netns.addresses()),
        "routes": sort(as_route(one, names) for one in netns.routes()),
        "rules": sort(as_rule(one) for one in netns.rules() if one.family in (2, 10)),
        "neighbours": sort(as_neighbour(one, names) for one in netns.neighbours()
                           if one.state and not one.state & 0x40),              # NUD_NOARP
        "nexthops": sort(as_nexthop(one, names) for one in netns.nexthops()),
        "fdb": sort(as_fdb(one, names) for one in netns.fdb()),
        "ports": sort(as_port(link, names) for link in links if link.port_options),
        "qdiscs": sort(as_qdisc(one, names) for one in qdiscs),
        "classes": sort(as_class(one, names) for index in shaped for one in netns.classes(index)),
        "filters": sort(as_filter(one, names, side) for index, side in sides for one in netns.filters(index, side)),
    }

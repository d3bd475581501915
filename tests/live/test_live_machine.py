"""A state machine against iproute2: verbs in any order, and after each, nsnet's lists say what `ip -j` says, by field.

Each rule is a verb with what the kernel must answer to it: done, or one certain error, which follows from the state
before. What the kernel does on its own (link-local addresses, prefix routes, carrier) is only compared. The witness is
one `ip -batch` for each namespace, so that a step costs milliseconds. NSNET_HYPOTHESIS=long takes tens of thousands of
steps.

A new verb gets a rule; a new list gets a line in Witness.QUERIES and a function like those of "as iproute2 says it".
"""

import json
import os
import subprocess
from contextlib import contextmanager

import pytest
from hypothesis import Phase, settings, strategies as st
from hypothesis.stateful import (RuleBasedStateMachine, initialize, invariant, precondition, rule,
                                 run_state_machine_as_test)

import nsnet
from live_helpers import go_inside, needs, which
from nsnet import rtnl

LONG = os.environ.get("NSNET_HYPOTHESIS") == "long"
MOST_LINKS = 14
TRIES = 50                          # readings until nothing changed from before iproute2's to after it

LINK_FLAGS = ((0x10, "POINTOPOINT"), (0x8, "LOOPBACK"), (0x2, "BROADCAST"), (0x1000, "MULTICAST"), (0x200, "ALLMULTI"),
              (0x100, "PROMISC"), (0x80, "NOARP"), (0x1, "UP"), (0x10000, "LOWER_UP"))
ADDRESS_FLAGS = {0x01: "secondary", 0x02: "nodad", 0x08: "dadfailed", 0x20: "deprecated", 0x40: "tentative",
                 0x200: "noprefixroute"}
STATES = {0x02: "REACHABLE", 0x04: "STALE", 0x80: "PERMANENT"}
PORT_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
PORT_FIELDS = {"mode": "hairpin", "guard": "guard", "protect": "root_block", "fast_leave": "fastleave",
               "learning": "learning", "unicast_flood": "flood", "isolated": "isolated", "mcast_flood": "mcast_flood",
               "bcast_flood": "bcast_flood"}
BRIDGE_FIELDS = ("forward_delay", "hello_time", "max_age", "ageing_time", "stp_state", "priority", "vlan_filtering",
                 "mcast_snooping")
VXLAN_FIELDS = {"id": "id", "port": "port", "ttl": "ttl", "ageing": "ageing", "learning": "learning"}


class Witness:
    """`ip -batch` in a namespace: each question is a line, and so is its answer."""

    QUERIES = ("address show", "route show table all", "rule show", "neighbour show", "nexthop show")

    def __init__(self, netns):
        self._netns_fd = netns.fd
        self.start()

    def start(self):
        self._ip = subprocess.Popen([which("ip"), "-j", "-details", "-Numeric", "-batch", "-"], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, preexec_fn=go_inside(self._netns_fd), encoding="utf-8")

    def ask(self):
        """One list for each query, empty objects left out."""
        self._ip.stdin.write("".join(query + "\n" for query in self.QUERIES))
        self._ip.stdin.flush()
        return [[row for row in json.loads(self._ip.stdout.readline()) if row] for _ in self.QUERIES]

    def close(self):
        self._ip.communicate()
        assert self._ip.returncode == 0

    def forget(self):
        """It keeps the names of links for as long as it runs."""
        self.close()
        self.start()


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
        said["options"] = {name: link.options[name] for name in BRIDGE_FIELDS}
    elif link.kind == "macvlan":
        said["options"] = {1: "private", 2: "vepa", 4: "bridge"}[link.options["mode"]]
    elif link.kind == "vxlan":
        said["options"] = {name: int(link.options[name]) for name in VXLAN_FIELDS}
    if said["port"] == "bridge":
        port = link.port_options
        said["port_options"] = {**{name: bool(port[field]) for field, name in PORT_FIELDS.items()},
                                "state": PORT_STATES[port["state"]], "priority": port["priority"], "cost": port["cost"]}
    return said


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
        said["options"] = {name: data[name] for name in BRIDGE_FIELDS}
    elif said["kind"] == "macvlan":
        said["options"] = data["mode"]
    elif said["kind"] == "vxlan":
        said["options"] = {name: int(data.get(field, 0)) for name, field in VXLAN_FIELDS.items()}
    if said["port"] == "bridge":
        said["port_options"] = {name: port[name] for name in (*PORT_FIELDS.values(), "state", "priority", "cost")}
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


def as_route(route, names):
    flags = [name for bit, name in ((1, "dead"), (4, "onlink"), (16, "linkdown")) if route.flags & bit]
    host = "/128" if route.family == 10 else "/32"
    return {"type": str(route.type), "dst": route.dst[:-len(host)] if route.dst.endswith(host) else route.dst,
            "gateway": route.via, "dev": names.get(route.oif), "table": str(route.table),
            "protocol": str(route.protocol), "scope": str(route.scope), "prefsrc": route.prefsrc,
            "metric": route.metric, "nhid": route.nh_id, "flags": flags}


def route_of(row):
    return {name: row.get(name) for name in ("type", "dst", "gateway", "dev", "table", "protocol", "scope", "prefsrc",
                                             "metric", "nhid", "flags")}


def as_rule(one):
    src, _, length = (one.src or "all").partition("/")
    return {"priority": one.priority, "src": src, "srclen": int(length) if length not in ("", "32") else None,
            "table": str(one.table), "protocol": str(one.protocol), "iif": one.iif,
            "fwmark": None if one.fwmark is None else hex(one.fwmark)}


def rule_of(row):
    return {name: row.get(name) for name in ("priority", "src", "srclen", "table", "protocol", "iif", "fwmark")}


def as_neighbour(one, names):
    return {"dst": one.dst, "dev": names[one.index], "lladdr": one.lladdr, "state": [STATES.get(one.state, one.state)]}


def neighbour_of(row):
    return {name: row.get(name) for name in ("dst", "dev", "lladdr", "state")}


def as_nexthop(one, names):
    return {"id": one.id, "gateway": one.via, "dev": names.get(one.oif), "blackhole": one.blackhole or None,
            "scope": str(one.scope), "protocol": str(one.protocol),
            "group": [{"id": id} for id, _ in one.group] or None}


def nexthop_of(row):
    said = {name: row.get(name) for name in ("id", "gateway", "dev", "scope", "protocol")}
    said["blackhole"] = True if "blackhole" in row else None
    said["group"] = [{"id": member["id"]} for member in row["group"]] if "group" in row else None
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


def as_nsnet_says(netns):
    """Everything, as values that compare."""
    links = netns.links()
    names = {link.index: link.ifname for link in links}
    return {
        "links": [as_link(link, names) for link in sorted(links, key=lambda link: link.index)],
        "addresses": sort(as_address(one, names) for one in netns.addresses()),
        "routes": sort(as_route(one, names) for one in netns.routes()),
        "rules": sort(as_rule(one) for one in netns.rules(family="inet")),
        "neighbours": sort(as_neighbour(one, names) for one in netns.neighbours()
                           if one.state and not one.state & 0x40),              # NUD_NOARP
        "nexthops": sort(as_nexthop(one, names) for one in netns.nexthops()),
    }


def as_ip_says(witness):
    links, routes, rules, neighbours, nexthops = witness.ask()
    return {
        "links": [link_of(row) for row in sorted(links, key=lambda row: row["ifindex"])],
        "addresses": sort(one for row in links for one in addresses_of(row)),
        "routes": sort(map(route_of, routes)),
        "rules": sort(map(rule_of, rules)),
        "neighbours": sort(map(neighbour_of, neighbours)),
        "nexthops": sort(map(nexthop_of, nexthops)),
    }


# --- the machine ---

NAMES = st.sampled_from([f"l{number}" for number in range(24)])
PICK = st.integers(0, 1000)                                 # which of those that are there
MTU = st.integers(1280, 9000)                               # IPv6 leaves a link with less
LLADDR = st.integers(0, 0xFFFF).map(lambda number: f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}")
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, blacklist_categories=("Cs", "Cc")), min_size=1,
               max_size=20)
ADDRESS = st.one_of(st.builds("10.0.{}.{}/24".format, st.integers(0, 3), st.integers(1, 4)),
                    st.builds("fd00:{}::{}/64".format, st.integers(1, 4), st.integers(1, 4)))
NETWORK = st.one_of(st.builds("192.168.{}.0/24".format, st.integers(0, 5)),
                    st.builds("172.16.0.{}/32".format, st.integers(0, 5)),
                    st.builds("fd01:{}::/64".format, st.integers(1, 6)))
TABLE = st.sampled_from([254, 254, 100, 1000])
MAYBE = st.none() | st.booleans()


class Machine(RuleBasedStateMachine):
    """`known`: what must be there: {ifindex: what was asked of the link}."""

    steps = 0
    seen = set()

    def __init__(self):
        super().__init__()
        self.netns = nsnet.Netns.new()
        self.witness = Witness(self.netns)
        self.known = {}
        self.make(self.netns.lo, None)
        self.state = None
        self.did = set()            # which rules apply must follow from this, not from the kernel's own doings

    def teardown(self):
        self.witness.close()
        self.netns.close()

    @initialize()
    def begin(self):
        self.netns.set_link("lo", up=True)
        self.known[1]["up"] = True
        self.make(self.netns.add_bridge("br"), "bridge")
        one, two = self.netns.add_veth("va", peer="vb", queues=1)
        self.make(one, "veth", peer=two.index)
        self.make(two, "veth", peer=one.index)

    @invariant()
    def nsnet_and_iproute2_say_the_same(self):
        before = as_nsnet_says(self.netns)
        for _ in range(TRIES):
            said = as_ip_says(self.witness)
            after = as_nsnet_says(self.netns)
            if before == after:
                break
            before = after                                  # the kernel was still at it: carrier, addresses, ...
        for what, ours in after.items():
            assert ours == said[what], differences(what, ours, said[what])
        self.state = after
        Machine.steps += 1

    @invariant()
    def what_was_made_is_there_and_nothing_else(self):
        found = {link["ifindex"]: link for link in self.state["links"]}
        assert set(found) == set(self.known)
        for index, known in self.known.items():
            link = found[index]
            master = self.known[known["master"]]["ifname"] if known["master"] else None
            assert (link["ifname"], link["kind"], link["ifalias"], link["master"]) == (
                known["ifname"], known["kind"], known["ifalias"], master)
            assert (link["group"], "UP" in link["flags"]) == (str(known["group"]), known["up"])

    # what may be done to what

    def pick(self, number, kinds=None, fits=lambda index, known: True):
        """One of the links of these kinds, as an index; None if there is none."""
        links = [index for index, known in sorted(self.known.items())
                 if (known["kind"] in kinds if kinds else index != 1) and fits(index, known)]
        return links[number % len(links)] if links else None

    def given(self, index, number):
        """A link in one of the ways in which it can be given: index, name, reference, object."""
        name = self.known[index]["ifname"]
        return (index, name, nsnet.LinkRef(name, index), self.netns.link(index))[number % 4]

    def names(self):
        return {known["ifname"] for known in self.known.values()} | {
            name for link in self.state["links"] for name in link["altnames"]}

    def make(self, ref, kind, **known):
        self.known[ref.index] = {"ifname": ref.ifname, "kind": kind, "peer": None, "group": 0, "ifalias": None,
                                 "master": None, "up": False, "lower": None, **known}

    def gone(self, index):
        """A link goes, and with it its peer and what stands on it; what it was master of stays."""
        known = self.known.pop(index, None)
        if known is None:
            return
        for other, its in list(self.known.items()):
            if its["master"] == index:
                its["master"] = None
            if its.get("lower") == index or its["peer"] == index:
                self.gone(other)

    def is_lower(self, index):
        return any(known.get("lower") == index for known in self.known.values())

    @contextmanager
    def expect(self, *errors):
        """The first of (condition, error class) that holds is what must be raised; done if none does."""
        kind = next((error for condition, error in errors if condition), None)
        Machine.seen.add(kind.__name__ if kind else "done")
        if kind is None:
            yield
        else:
            with pytest.raises(kind):
                yield

    def room(self):
        return len(self.known) < MOST_LINKS

    # --- links ---

    @precondition(room)
    @rule(name=NAMES, up=MAYBE, group=st.none() | st.integers(0, 9), ageing=st.none() | st.integers(1, 60000),
          stp=st.none() | st.integers(0, 1))
    def add_bridge(self, name, up, group, ageing, stp):
        options = {key: value for key, value in (("ageing_time", ageing), ("stp_state", stp)) if value is not None}
        with self.expect((name in self.names(), nsnet.AlreadyExists)):
            ref = self.netns.add_bridge(name, up=up, group=group, **options)
            self.make(ref, "bridge", up=bool(up), group=group or 0)
            found = self.netns.link(ref).options
            assert stp is None or found["stp_state"] == stp

    @precondition(room)
    @rule(name=NAMES, peer=NAMES, up=MAYBE, mtu=st.none() | MTU, group=st.none() | st.integers(1, 9), master=PICK,
          mastered=st.booleans(), queues=st.integers(1, 3))
    def add_veth(self, name, peer, up, mtu, group, master, mastered, queues):
        bridge = self.pick(master, ["bridge"]) if mastered else None
        with self.expect((name == peer, nsnet.UsageError), ({name, peer} & self.names(), nsnet.AlreadyExists)):
            one, two = self.netns.add_veth(name, peer=peer, up=up, mtu=mtu, group=group, master=bridge, queues=queues)
            self.make(one, "veth", peer=two.index, master=bridge, up=bool(up), group=group or 0)
            self.make(two, "veth", peer=one.index, group=group or 0)

    @precondition(room)
    @rule(name=NAMES, number=PICK, mode=st.sampled_from(["private", "vepa", "bridge"]),
          kind=st.sampled_from(["macvlan", "ifb", "vxlan"]), vni=st.integers(0, 100))
    def add_another_kind(self, name, number, mode, kind, vni):
        lower = self.pick(number, ["veth"], lambda index, known: known["master"] is None)
        taken = any(link["kind"] == kind == "vxlan" and link["options"]["id"] == vni for link in self.state["links"])
        if kind == "macvlan" and lower is None:
            return
        try:
            with self.expect((name in self.names() or taken, nsnet.AlreadyExists)):
                if kind == "macvlan":
                    ref = self.netns.add_macvlan(name, lower, mode=mode)
                else:
                    ref = self.netns.add_vxlan(name, vni) if kind == "vxlan" else self.netns.add_ifb(name)
                self.make(ref, kind, lower=lower if kind == "macvlan" else None)
        except nsnet.NotSupported:                          # by this kernel
            pass

    @rule(number=PICK, way=PICK, up=st.booleans())
    def set_up(self, number, way, up):
        index = self.pick(number)
        if index is None:
            return
        self.netns.set_link(self.given(index, way), up=up)
        self.known[index]["up"] = up

    @rule(number=PICK, way=PICK, mtu=MTU)
    def set_mtu(self, number, way, mtu):
        index = self.pick(number, ["bridge", "veth", "vxlan"])
        if index is not None:
            self.netns.set_link(self.given(index, way), mtu=mtu)
            assert self.netns.link(index).mtu == mtu

    @rule(number=PICK, way=PICK, name=NAMES)
    def rename(self, number, way, name):
        index = self.pick(number, fits=lambda index, known: not known["up"])
        if index is None:
            return
        same = name == self.known[index]["ifname"]
        with self.expect((name in self.names() and not same, nsnet.AlreadyExists)):
            self.netns.set_link(self.given(index, way), ifname=name)
            self.known[index]["ifname"] = name
            self.witness.forget()

    @rule(number=PICK, way=PICK, lladdr=LLADDR)
    def set_lladdr(self, number, way, lladdr):
        index = self.pick(number, ["bridge", "veth", "vxlan"], lambda index, known: not self.is_lower(index))
        if index is not None:
            self.netns.set_link(self.given(index, way), lladdr=lladdr)
            assert self.netns.link(index).lladdr == lladdr

    @rule(number=PICK, way=PICK, ifalias=TEXT, group=st.integers(0, 2 ** 32 - 1), txqlen=st.integers(0, 5000))
    def set_alias_group_and_txqlen(self, number, way, ifalias, group, txqlen):
        index = self.pick(number) or 1
        self.netns.set_link(self.given(index, way), ifalias=ifalias, group=group, txqlen=txqlen)
        self.known[index].update(ifalias=ifalias, group=group)
        assert self.netns.link(index).attrs["txqlen"] == txqlen

    @rule(number=PICK, way=PICK, promisc=MAYBE, allmulticast=MAYBE, multicast=MAYBE)
    def set_flags(self, number, way, promisc, allmulticast, multicast):
        index = self.pick(number, ["bridge", "veth"])
        if index is not None and {promisc, allmulticast, multicast} != {None}:
            self.netns.set_link(self.given(index, way), promisc=promisc, allmulticast=allmulticast, multicast=multicast)
            flags = self.netns.link(index).flags
            for asked, bit in ((promisc, 0x100), (allmulticast, 0x200), (multicast, 0x1000)):
                assert asked is None or bool(flags & bit) == asked

    @rule(number=PICK, way=PICK, master=PICK, away=st.booleans())
    def set_master(self, number, way, master, away):
        index = self.pick(number, ["veth", "vxlan", "ifb"], lambda index, known: not self.is_lower(index))
        bridge = self.pick(master, ["bridge"])
        if index is None or (bridge is None and not away):
            return
        if away:
            self.netns.set_link(self.given(index, way), nomaster=True)
        else:
            self.netns.set_link(self.given(index, way), master=self.given(bridge, way))
        self.known[index]["master"] = None if away else bridge

    @rule(number=PICK, way=PICK, isolated=st.integers(0, 1), learning=st.integers(0, 1), cost=st.integers(1, 65535))
    def set_port(self, number, way, isolated, learning, cost):
        index = self.pick(number, ["veth", "vxlan"], lambda index, known: known["master"])
        if index is not None:
            self.netns.set_port(self.given(index, way), isolated=isolated, learning=learning, cost=cost)
            port = self.netns.link(index).port_options
            assert (port["isolated"], port["learning"], port["cost"]) == (isolated, learning, cost)

    @rule(number=PICK, way=PICK, forward_delay=st.integers(200, 3000), snooping=st.integers(0, 1))
    def set_bridge(self, number, way, forward_delay, snooping):
        index = self.pick(number, ["bridge"])
        if index is not None:
            self.netns.set_options(self.given(index, way), "bridge", forward_delay=forward_delay,
                                   mcast_snooping=snooping)
            assert self.netns.link(index).options["mcast_snooping"] == snooping

    @rule(number=PICK, way=PICK, name=NAMES, away=st.booleans())
    def change_altname(self, number, way, name, away):
        index = self.pick(number) or 1
        its = next(link["altnames"] for link in self.state["links"] if link["ifindex"] == index)
        if away and its:
            self.netns.del_altname(self.given(index, way), its[0])
        else:
            with self.expect((name in self.names(), nsnet.AlreadyExists)):
                self.netns.add_altname(self.given(index, way), name)

    @rule(number=PICK, way=PICK)
    def del_link(self, number, way):
        index = self.pick(number)
        if index is not None:
            self.netns.del_link(self.given(index, way))
            self.gone(index)
            with self.expect((True, nsnet.NoSuchObject)):
                self.netns.del_link(index)
            self.netns.del_link(index, missing_ok=True)

    @rule(number=PICK, mtus=st.lists(MTU, min_size=1, max_size=5))
    def set_many_in_a_batch(self, number, mtus):
        """What fails in the middle does not keep the rest from being done."""
        index = self.pick(number, ["veth"])
        if index is not None:
            with self.expect((True, nsnet.NoSuchObject)):
                with self.netns.batch() as net:
                    for mtu in mtus:
                        net.set_link(index, mtu=mtu)
                        net.set_link(999999, mtu=mtu)
                    net.set_link(index, group=len(mtus))
            self.known[index]["group"] = len(mtus)
            assert self.netns.link(index).mtu == mtus[-1]

    # --- addresses ---

    def addresses_of(self, index):
        return [one["address"] for one in self.state["addresses"] if one["link"] == self.known[index]["ifname"]]

    @rule(number=PICK, way=PICK, address=ADDRESS)
    def add_address(self, number, way, address):
        index = self.pick(number) or 1
        with self.expect((address in self.addresses_of(index), nsnet.AlreadyExists)):
            self.netns.add_address(self.given(index, way), address)
        assert address in [one.address for one in self.netns.addresses(index)]

    @rule(number=PICK, way=PICK, address=ADDRESS, that_is_there=PICK)
    def del_address(self, number, way, address, that_is_there):
        index = self.pick(number) or 1
        its = [one for one in self.addresses_of(index) if one.startswith(("10.", "fd00"))]
        address = its[that_is_there % len(its)] if its and that_is_there % 4 else address
        with self.expect((address not in its, nsnet.NoSuchObject)):
            self.netns.del_address(self.given(index, way), address)
        assert address not in [one.address for one in self.netns.addresses(index)]

    # --- routes, rules, nexthops, neighbours ---

    @rule(number=PICK, way=PICK, dst=NETWORK, metric=st.none() | st.integers(1, 9), table=TABLE)
    def add_route(self, number, way, dst, metric, table):
        index = self.pick(number, fits=lambda index, known: known["up"])
        if index is None:
            return
        six = ":" in dst
        written = dst[:-3] if dst.endswith("/32") else dst
        taken = any(route["dst"] == written and route["table"] == str(table)
                    and (route["metric"] or 0) == ((metric or 1024) if six else (metric or 0))
                    and (not six or route["dev"] == self.known[index]["ifname"]) for route in self.state["routes"])
        others = any(route["dst"] == written and route["table"] == str(table) for route in self.state["routes"])
        if six and others and not taken:
            return                                          # NLM_F_EXCL and IPv6's siblings: not foretold here
        with self.expect((taken, nsnet.AlreadyExists)):
            self.netns.add_route(dst, oif=self.given(index, way), metric=metric, table=table)
        assert any(route.dst == dst for route in self.netns.routes(table=table))

    @rule(dst=NETWORK, kind=st.sampled_from(["blackhole", "unreachable", "prohibit"]), table=TABLE)
    def ensure_route_that_leads_nowhere(self, dst, kind, table):
        self.did.add("route")
        self.netns.ensure_route(dst, type=kind, table=table, metric=77)
        found, = [route for route in self.netns.routes(table=table) if route.dst == dst and route.metric == 77]
        assert found.type == {"blackhole": 6, "unreachable": 7, "prohibit": 8}[kind]

    @precondition(lambda self: "route" in self.did)
    @rule(number=PICK)
    def del_route(self, number):
        ours = [route for route in self.netns.routes() if route.protocol == 3 and not route.nh_id]
        if ours:
            route = ours[number % len(ours)]
            self.netns.del_route(route.dst, oif=route.oif if route.type == 1 else None, metric=route.metric,
                                 table=route.table)
            assert len([one for one in self.netns.routes() if one.protocol == 3 and not one.nh_id]) == len(ours) - 1

    @rule(priority=st.integers(100, 105), src=st.none() | st.builds("10.{}.0.0/16".format, st.integers(0, 3)),
          table=st.integers(1, 1000), fwmark=st.none() | st.integers(1, 5))
    def add_rule(self, priority, src, table, fwmark):
        self.did.add("rule")
        fields = {name: value for name, value in (("src", src), ("fwmark", fwmark)) if value is not None}
        said = {"priority": priority, "src": src.partition("/")[0] if src else "all", "srclen": 16 if src else None,
                "table": str(table), "protocol": "3", "iif": None, "fwmark": None if fwmark is None else hex(fwmark)}
        with self.expect((said in self.state["rules"], nsnet.AlreadyExists)):
            self.netns.add_rule(priority=priority, table=table, family="inet", **fields)

    @precondition(lambda self: "rule" in self.did)
    @rule(number=PICK)
    def del_rule(self, number):
        ours = [one for one in self.netns.rules(family="inet") if 100 <= one.priority <= 105]
        if ours:
            one = ours[number % len(ours)]
            fields = {"src": one.src, "fwmark": one.fwmark}
            self.netns.del_rule(priority=one.priority, table=one.table, family="inet",
                                **{name: value for name, value in fields.items() if value is not None})
            assert len([one for one in self.netns.rules(family="inet") if 100 <= one.priority <= 105]) == len(ours) - 1

    @rule(id=st.integers(1, 5))
    def add_nexthop(self, id):
        taken = any(one["id"] == id for one in self.state["nexthops"])
        with self.expect((taken, nsnet.AlreadyExists)):
            self.netns.add_nexthop(id, blackhole=True, family="inet")
        assert self.netns.nexthop(id).blackhole

    @rule(id=st.integers(1, 5))
    def del_nexthop(self, id):
        with self.expect((not any(one["id"] == id for one in self.state["nexthops"]), nsnet.NoSuchObject)):
            self.netns.del_nexthop(id)
        assert id not in [one.id for one in self.netns.nexthops()]

    @rule(number=PICK, way=PICK, dst=st.sampled_from(["10.0.0.77", "10.0.0.78", "fd00::77"]), lladdr=LLADDR)
    def ensure_neighbour(self, number, way, dst, lladdr):
        index = self.pick(number, ["bridge", "veth"], lambda index, known: known["up"])
        if index is not None:
            self.did.add("neighbour")
            self.netns.ensure_neighbour(self.given(index, way), dst, lladdr)
            found = self.netns.neighbour(index, dst)
            assert (found.lladdr, found.state) == (lladdr, rtnl.NUD_PERMANENT)

    @precondition(lambda self: "neighbour" in self.did)
    @rule(number=PICK)
    def del_neighbour(self, number):
        ours = [one for one in self.netns.neighbours() if one.state == rtnl.NUD_PERMANENT]
        if ours:
            self.netns.del_neighbour(ours[number % len(ours)].index, ours[number % len(ours)].dst)
            assert len([one for one in self.netns.neighbours() if one.state == rtnl.NUD_PERMANENT]) == len(ours) - 1


@needs("ip")
def test_whatever_is_done_in_any_order_iproute2_sees_what_nsnet_sees():
    Machine.steps, Machine.seen = 0, set()
    phases = list(Phase) if LONG else [Phase.explicit, Phase.reuse, Phase.generate]         # shrinking takes minutes
    run_state_machine_as_test(Machine, settings=settings(stateful_step_count=60 if LONG else 40, phases=phases))
    print(f"{Machine.steps} steps; answers: {', '.join(sorted(Machine.seen))}")
    assert Machine.steps > (10_000 if os.environ.get("NSNET_HYPOTHESIS") == "long" else 200) and {"done", "AlreadyExists", "NoSuchObject"} <= Machine.seen

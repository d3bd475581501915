"""What the state machine knows: the model of everything that was made, and the comparison after each step.

`known` has the links by ifindex with what hangs on them, and `rules_made`, `routes_made` and `hops_made` the rest. What
the kernel does on its own (link-local addresses, prefix routes, carrier, what a bridge learns) is not in the model:
that is only compared between nsnet and iproute2.
"""

from contextlib import contextmanager

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

import nsnet
from machine_witness import differences, read_both, Witness

MOST_LINKS = 14
FDB_PREFIX = "02:00:00:01:"         # of the forwarding entries that the machine makes in bridges and VXLANs
OWN_PREFIX = "02:00:00:02:"         # and of the addresses that it gives to links themselves
NOWHERE = "00:00:00:00:00:00"       # of a VXLAN: where everything else goes
VXLAN_PORT = 4789                   # nsnet's default

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


class Model(RuleBasedStateMachine):
    """`known`: what must be there: {ifindex: what was asked of the link}."""

    steps = 0
    seen = set()

    def __init__(self):
        super().__init__()
        self.netns = nsnet.Netns.new()
        self.witness = Witness(self.netns)
        self.known = {}
        self.rules_made = []        # as iproute2 would say them
        self.routes_made = {}       # {(dst, table, metric or 0): what made_route() has}
        self.hops_made = {}         # nexthop objects: {id: what made_hop() has}
        self.disturbed = set()      # links that lost something in this step which takes routes along
        self.make(self.netns.lo, None)
        self.state = None
        self.did = set()            # which rules apply must follow from this, not from the kernel's own doings

    def teardown(self):
        self.witness.close()
        self.netns.close()

    @initialize(furnished=st.integers(0, 3))
    def begin(self, furnished):
        """Mostly with what takes many steps to come by: ports, carrier, nexthops, a VXLAN, a class, ..."""
        self.netns.set_link("lo", up=True)
        self.known[1]["up"] = True
        bridge = self.netns.add_bridge("br", up=bool(furnished))
        self.make(bridge, "bridge", up=bool(furnished))
        for name, peer, master in [("va", "vb", bridge), ("vc", "vd", None)] if furnished else [("va", "vb", None)]:
            one, two = self.netns.add_veth(name, peer=peer, master=master, up=bool(furnished), queues=1)
            self.make(one, "veth", peer=two.index, master=master and master.index, up=bool(furnished))
            self.make(two, "veth", peer=one.index, up=bool(furnished))
            if furnished:
                self.netns.set_link(two, up=True)
        if furnished:
            self.netns.add_qdisc(two, "clsact")
            self.netns.add_qdisc(two, "htb", handle="1:")
            self.netns.add_class(two, "htb", classid="1:1", parent="1:", rate=125_000, burst=2000)
            self.known[two.index].update(
                ingress="clsact", root={"kind": "htb", "handle": "1:", "default": 0}, classes={"1:1": {
                    "parent": None, "rate": 125_000, "ceil": 125_000, "burst": 2000, "prio": 0, "quantum": 12_500}})
            for id, end in ((6, one), (7, two)):
                self.netns.add_nexthop(id, oif=end)
                self.made_hop(id, dev=end.index, family="inet")
            try:
                self.make(self.netns.add_vxlan("vx", 7), "vxlan", vni=7)
            except nsnet.NotSupported:                      # by this kernel
                pass

    # --- after each step ---

    @invariant()
    def everything_is_as_it_must_be(self):
        """In one, so that the order is certain: both must agree, and then what they say must be what was asked for."""
        ours, theirs = read_both(self.netns, self.witness)
        assert set(ours) == set(theirs)
        for what in ours:
            assert ours[what] == theirs[what], differences(what, ours[what], theirs[what])
        self.state = theirs
        self.the_links_are_those_that_were_made()
        self.so_are_forwarding_entries()
        self.so_are_queues_and_filters()
        self.so_are_rules()
        self.so_are_nexthops()
        self.so_are_routes()
        self.disturbed.clear()
        Model.steps += 1

    def the_links_are_those_that_were_made(self):
        found = {link["ifindex"]: link for link in self.state["links"]}
        ports = {port["ifindex"]: port for port in self.state["ports"]}
        assert set(found) == set(self.known)
        assert set(ports) == {index for index, known in self.known.items() if known["master"]}
        for index, known in self.known.items():
            link = found[index]
            master = self.known[known["master"]]["ifname"] if known["master"] else None
            assert (link["ifname"], link["kind"], link["ifalias"], link["master"]) == (
                known["ifname"], known["kind"], known["ifalias"], master)
            assert (link["group"], "UP" in link["flags"]) == (str(known["group"]), known["up"])
            assert {name: link["options"][name] for name in known["options"]} == known["options"]
            for said in [link["port_options"], ports[index]] if master else []:
                assert {name: said[name] for name in known["port"]} == known["port"], "as ip(8) and bridge(8) say"

    def so_are_forwarding_entries(self):
        made = []
        for index, known in self.known.items():
            for lladdr, entry in known["fdb"].items():
                made.append({"mac": lladdr, "dev": self.name(entry["port"]), "master": known["ifname"], "dst": None,
                             "port": None, "vni": None, "via": None, "state": entry["state"],
                             "flags": ["extern_learn"] if entry["extern"] else []})
            for lladdr, peers in known["peers"].items():
                made += [{"mac": lladdr, "dev": known["ifname"], "master": None, "dst": dst, "via": via,
                          "port": None if port == VXLAN_PORT else port, "vni": None if vni == known["vni"] else vni,
                          "state": "permanent", "flags": ["self"]} for dst, port, vni, via in peers]
            made += [{"mac": lladdr, "dev": known["ifname"], "master": None, "dst": None, "port": None, "vni": None,
                      "via": None, "state": "permanent", "flags": ["self"]} for lladdr in known["own"]]
        # A bridge gives the static ones to the hardware of its other ports, which have them of their own then.
        found = [row for row in self.state["fdb"] if row["mac"].startswith(OWN_PREFIX) or row["mac"] == NOWHERE
                 or row["mac"].startswith(FDB_PREFIX) and (row["master"] or row["dst"])]
        same("forwarding entries", found, made)

    def so_are_queues_and_filters(self):
        found = {index: {"root": None, "ingress": None, "leaves": {}, "classes": {}, "filters": []}
                 for index in self.known}
        indexes = {known["ifname"]: index for index, known in self.known.items()}
        for row in self.state["qdiscs"]:
            its = found[indexes[row["dev"]]]
            if row["handle"] == "0:":                       # the kernel's own
                continue
            if row["kind"] in ("ingress", "clsact"):
                its["ingress"] = row["kind"]
            elif row["root"]:
                its["root"] = row
            else:
                its["leaves"][row["parent"]] = row
        for row in self.state["classes"]:
            if row["kind"] == "htb":
                found[indexes[row["dev"]]]["classes"][row["classid"]] = row
        for row in self.state["filters"]:
            if row["match"]:
                found[indexes[row["dev"]]]["filters"].append(
                    (row["side"], row["pref"], row["protocol"], row["match"], row["flowid"]))
        for index, known in self.known.items():
            its = found[index]
            assert its["ingress"] == known["ingress"]
            assert (its["root"] is None) == (known["root"] is None), its["root"]
            if known["root"]:
                self.is_qdisc(its["root"], known["root"])
            assert set(its["leaves"]) == set(known["leaves"])
            for parent, leaf in known["leaves"].items():
                self.is_qdisc(its["leaves"][parent], leaf)
            assert set(its["classes"]) == set(known["classes"])
            for classid, one in known["classes"].items():
                row = its["classes"][classid]
                inner = any(other["parent"] == classid for other in known["classes"].values())
                leaf = known["leaves"].get(classid)
                assert (row["parent"], row["rate"], row["ceil"]) == (one["parent"], one["rate"], one["ceil"])
                assert row["leaf"] == (leaf["handle"] if leaf else None)
                assert (row["prio"], row["quantum"]) == ((None, None) if inner else (one["prio"], one["quantum"]))
                assert abs(int(row["burst"][:-1]) - one["burst"]) <= 1.1e-6 * one["rate"] + 1
            found_filters, made = (sorted(filters, key=repr) for filters in (
                its["filters"], [one[:5] for one in known["filters"]]))
            assert found_filters == made, f"filters of {known['ifname']}: there {found_filters}, asked {made}"

    def is_qdisc(self, row, made):
        """As tc(8) says it, what was asked for."""
        assert (row["kind"], made["handle"] in (None, row["handle"])) == (made["kind"], True)
        options = row["options"]
        if made["kind"] == "htb":
            assert (options["default"], options["r2q"]) == (hex(made["default"]) if made["default"] else "0", 10)
            return
        assert options["rate"] == made["rate"] and abs(options["burst"] - made["burst"]) <= 1.1e-6 * made["rate"] + 1
        if made["limit"] < made["burst"]:
            assert options["limit"] == made["limit"]
        else:                                               # then tc(8) says how long the rest takes, in microseconds
            assert abs(options["lat"] - (made["limit"] - made["burst"]) / made["rate"] * 1e6) <= 2

    def so_are_rules(self):
        same("rules", [row for row in self.state["rules"] if 100 <= row["priority"] <= 105], self.rules_made)

    def so_are_nexthops(self):
        found = {row["id"]: row for row in self.state["nexthops"]}
        for id, hop in list(self.hops_made.items()):
            if hop["dev"] and not self.has_carrier(hop["dev"]):
                hop["shaky"] = True                         # it may go now, or when the kernel comes to it
            if id not in found and hop["shaky"]:
                del self.hops_made[id]
        for id, hop in list(self.hops_made.items()):
            if hop["group"]:                                # who goes leaves the group, and the last one takes it along
                hop["group"] = [one for one in hop["group"] if one[0] in self.hops_made]
                if not hop["group"]:
                    del self.hops_made[id]
        assert set(found) == set(self.hops_made)
        for id, hop in self.hops_made.items():
            row = found[id]
            assert (row["blackhole"], row["gateway"]) == (hop["blackhole"], hop["gateway"])
            assert row["dev"] == (self.name(hop["dev"]) if hop["dev"] else None)
            assert row["group"] == ([{"id": one, "weight": weight} for one, weight in hop["group"]] or None)

    def so_are_routes(self):
        found = {}
        for row in self.state["routes"]:
            if row["protocol"] == "3":                      # RTPROT_BOOT: not the kernel's
                key = row["dst"], row["table"], row["metric"] or 0
                assert key not in found, f"two routes of {key}"
                found[key] = row
        for key, route in list(self.routes_made.items()):
            if key not in found and (set(route["hops"]) & self.disturbed
                                     or route["nhid"] and route["nhid"] not in self.hops_made):
                del self.routes_made[key]
        assert set(found) == set(self.routes_made)
        for key, route in self.routes_made.items():
            row = found[key]
            assert (row["type"], row["nhid"]) == (route["type"], route["nhid"])
            if route["nhid"] or route["type"] != "1":       # where those go is the nexthop's, or the family's, to say
                continue
            named = ("dev", "gateway", "weight") if row["hops"] else ("dev", "gateway")
            hops = [{name: hop[name] for name in named} for hop in row["hops"] or [row]]
            made = [dict(zip(named, (self.name(index), gateway, weight)))
                    for index, (gateway, weight) in route["hops"].items() if index in self.known]
            same(f"hops to {key}", hops, made)

    def has_carrier(self, index):
        """Of a veth: both ends are up."""
        known = self.known.get(index)
        return bool(known and known["up"] and self.known[known["peer"]]["up"])

    def name(self, index):
        return self.known[index]["ifname"] if index in self.known else None

    # --- what may be done to what ---

    def pick(self, number, kinds=None, fits=lambda index, known: True):
        """One of the links of these kinds, as an index; None if there is none."""
        links = [index for index, known in sorted(self.known.items())
                 if (known["kind"] in kinds if kinds else index != 1) and fits(index, known)]
        return links[number % len(links)] if links else None

    def mostly(self, number, those, others):
        """One of those that a verb is for; in one case of eight, or if there are none, one of others."""
        those = sorted(those) if number % 8 != 7 else []
        return (those or others)[number // 8 % len(those or others)]

    def given(self, index, number):
        """A link in one of the ways in which it can be given: index, name, reference, object."""
        name = self.known[index]["ifname"]
        return (index, name, nsnet.LinkRef(name, index), self.netns.link(index))[number % 4]

    def names(self):
        return {known["ifname"] for known in self.known.values()} | {
            name for link in self.state["links"] for name in link["altnames"]}

    def make(self, ref, kind, **known):
        self.known[ref.index] = {"ifname": ref.ifname, "kind": kind, "peer": None, "group": 0, "ifalias": None,
                                 "master": None, "up": False, "lower": None, "vni": None,
                                 "options": {}, "port": {},     # of bridges and their ports, as iproute2 says them
                                 "fdb": {},         # of a bridge: {lladdr: {"port": ifindex, "state", "extern"}}
                                 "peers": {},       # of a VXLAN: {lladdr: [(dst, port, vni, via)]}
                                 "own": set(),      # lladdrs of a veth
                                 "root": None, "ingress": None, "classes": {}, "leaves": {},
                                 "filters": [],     # (side, priority, protocol, match, classid, whether that was there)
                                 **known}

    def made_hop(self, id, **known):
        self.hops_made[id] = {"blackhole": None, "dev": None, "gateway": None, "family": None, "group": [],
                              "shaky": False, **known}

    def made_route(self, key, hops, type="1", nhid=None):
        self.did.add("route")
        self.routes_made[key] = {"type": type, "hops": hops, "nhid": nhid}

    def gone(self, index):
        """A link goes, and with it its peer and what stands on it; what it was master of stays."""
        if index not in self.known:
            return
        self.leave(index)
        del self.known[index]
        self.disturbed.add(index)
        for other, its in list(self.known.items()):
            if its["master"] == index:
                its.update(master=None, port={})
            if its.get("lower") == index or its["peer"] == index:
                self.gone(other)

    def leave(self, index):
        """A port leaves its bridge, and so do the forwarding entries to it."""
        known = self.known[index]
        if known["master"]:
            entries = self.known[known["master"]]["fdb"]
            for lladdr in [lladdr for lladdr, entry in entries.items() if entry["port"] == index]:
                del entries[lladdr]
        known.update(master=None, port={})

    def is_lower(self, index):
        return any(known.get("lower") == index for known in self.known.values())

    @contextmanager
    def expect(self, *errors):
        """The first of (condition, error class) that holds is what must be raised; done if none does."""
        kind = next((error for condition, error in errors if condition), None)
        Model.seen.add(kind.__name__ if kind else "done")
        if kind is None:
            yield
        else:
            with pytest.raises(kind) as refused:
                yield
            assert type(refused.value) is kind, refused.value

    def room(self):
        return len(self.known) < MOST_LINKS


def same(what, found, made):
    """Two lists of values, in any order."""
    found, made = (sorted(rows, key=repr) for rows in ([dict(sorted(row.items())) for row in rows]
                                                       for rows in (found, made)))
    assert found == made, differences(what, found, made).replace("nsnet:", "there:").replace("ip:  ", "asked:")

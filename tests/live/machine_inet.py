"""Rules of the state machine for addresses, routes, routing rules, nexthop objects and neighbours."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

import nsnet
from machine_model import ADDRESS, LLADDR, NETWORK, PICK, TABLE, Model
from nsnet import rtnl

KINDS = {"blackhole": "6", "unreachable": "7", "prohibit": "8"}         # RTN_*, FR_ACT_*
NAMES_OF_KINDS = {number: name for name, number in KINDS.items()}
SOURCE = st.none() | st.builds("10.{}.0.0/16".format, st.integers(0, 3))
ANY_ID = [*range(1, 10), 11, 12, 13]                                    # holes, links, groups


def six_of(network):
    """The same in IPv6."""
    return f"fd02:{int(network.split('.')[1]) + 1}::/48"


class InetRules(Model):

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
            self.disturbed.add(index)                       # with its last IPv4 address a link loses its IPv4 routes
        assert address not in [one.address for one in self.netns.addresses(index)]

    # --- routes ---

    def key_of(self, dst, table, metric=None):
        """By which the kernel tells routes apart; IPv6 has a metric of its own for those that have none."""
        return dst[:-3] if dst.endswith("/32") else dst, str(table), metric or (1024 if ":" in dst else 0)

    @rule(number=PICK, way=PICK, dst=NETWORK, metric=st.none() | st.integers(1, 9), table=TABLE)
    def add_route(self, number, way, dst, metric, table):
        index = self.pick(number, fits=lambda index, known: known["up"])
        if index is None:
            return
        key = self.key_of(dst, table, metric)
        with self.expect((key in self.routes_made, nsnet.AlreadyExists)):
            self.netns.add_route(dst, oif=self.given(index, way), metric=metric, table=table)
            self.made_route(key, {index: (None, 1)})
        assert any(route.dst == dst for route in self.netns.routes(table=table))

    @rule(numbers=st.lists(PICK, min_size=2, max_size=4), way=PICK, dst=NETWORK, metric=st.none() | st.integers(1, 9),
          table=TABLE, weights=st.lists(st.integers(1, 256), min_size=4, max_size=4),
          gateways=st.lists(st.booleans(), min_size=4, max_size=4), ensure=st.booleans())
    def add_multipath_route(self, numbers, way, dst, metric, table, weights, gateways, ensure):
        """Through several links; for IPv6 always by gateways, or the kernel would not take them for one route."""
        indexes = sorted({self.pick(number, ["bridge", "veth"], lambda index, known: known["up"]) for number in numbers}
                         - {None})
        six = ":" in dst
        if len(indexes) < 2:
            return
        key = self.key_of(dst, table, metric)
        there = self.routes_made.get(key)
        if six and there and (there["type"] != "1" or len(there["hops"]) < 2):
            ensure = False                                  # that would stand beside it (fib6_add_rt2node())
        hops = {index: (("fe80::{}" if six else "10.9.9.{}").format(index) if six or gateway else None, weight)
                for index, weight, gateway in zip(indexes, weights, gateways)}
        verb = self.netns.ensure_route if ensure else self.netns.add_route
        with self.expect((there and not ensure, nsnet.AlreadyExists)):
            verb(dst, metric=metric, table=table, hops=[
                {"oif": self.given(index, way), "weight": weight, **({} if via is None else {"via": via}),
                 "onlink": via is not None} for index, (via, weight) in hops.items()])
            self.made_route(key, hops)
            found, = [route for route in self.netns.routes(table=table)
                      if route.dst == dst and (route.metric or 0) == key[2]]
            assert {hop.oif: (hop.via, hop.weight) for hop in found.hops} == hops

    @rule(dst=NETWORK, kind=st.sampled_from(sorted(KINDS)), table=TABLE)
    def ensure_route_that_leads_nowhere(self, dst, kind, table):
        self.netns.ensure_route(dst, type=kind, table=table, metric=77)
        self.made_route(self.key_of(dst, table, 77), {}, type=KINDS[kind])
        found, = [route for route in self.netns.routes(table=table) if route.dst == dst and route.metric == 77]
        assert str(found.type) == KINDS[kind]

    @rule(number=PICK, dst=NETWORK, table=TABLE)
    def add_route_by_nexthop(self, number, dst, table):
        id = self.mostly(number, [id for id, hop in self.hops_made.items() if not hop["blackhole"]], ANY_ID)
        hop = self.hops_made.get(id)
        members = [self.hops_made[one] for one, _ in hop["group"]] if hop and hop["group"] else [hop] if hop else []
        family = "inet6" if ":" in dst else "inet"
        key = self.key_of(dst, table)
        if any(member["blackhole"] or member["family"] != family for member in members):
            return                                          # that makes it a route of another type, or an error
        with self.expect((not hop, nsnet.NetlinkError), (key in self.routes_made, nsnet.AlreadyExists)):
            self.netns.add_route(dst, table=table, nh_id=id)
            self.made_route(key, {}, nhid=id)

    @precondition(lambda self: "route" in self.did)
    @rule(number=PICK)
    def del_route(self, number):
        if not self.routes_made:
            return
        key, made = sorted(self.routes_made.items())[number % len(self.routes_made)]
        dst, table, metric = key
        one_way = len(made["hops"]) == 1 and number % 2
        self.netns.del_route(dst, oif=next(iter(made["hops"])) if one_way else None, metric=metric or None,
                             table=int(table), missing_ok=False)
        del self.routes_made[key]

    # --- rules ---

    @rule(priority=st.integers(100, 105), src=SOURCE, dst=SOURCE, table=st.integers(1, 1000),
          fwmark=st.none() | st.integers(1, 5), action=st.none() | st.sampled_from(sorted(KINDS)), six=st.booleans())
    def add_rule(self, priority, src, dst, table, fwmark, action, six):
        src, dst = (network and (six_of(network) if six else network) for network in (src, dst))
        said = {"family": "inet6" if six else "inet", "priority": priority, "protocol": "3", "iif": None,
                "table": None if action else str(table), "action": action and KINDS[action],
                "fwmark": None if fwmark is None else hex(fwmark)}
        for name, network in (("src", src), ("dst", dst)):
            address, _, length = network.partition("/") if network else ("all" if name == "src" else None, "", "")
            said[name], said[name + "len"] = address, int(length) if length else None
        fields = {"src": src, "dst": dst, "fwmark": fwmark, **({"action": action} if action else {"table": table})}
        with self.expect((said in self.rules_made, nsnet.AlreadyExists)):
            self.netns.add_rule(priority=priority, family=said["family"],
                                **{name: value for name, value in fields.items() if value is not None})
            self.rules_made.append(said)

    @precondition(lambda self: self.rules_made)
    @rule(number=PICK)
    def del_rule(self, number):
        """By all that it has: with less, the first one that fits would go."""
        made = self.rules_made[number % len(self.rules_made)]
        fields = {name: f"{made[name]}/{made[name + 'len']}" for name in ("src", "dst") if made[name + "len"]}
        fields.update({"table": int(made["table"])} if made["table"] else {"action": NAMES_OF_KINDS[made["action"]]})
        if made["fwmark"]:
            fields["fwmark"] = int(made["fwmark"], 16)
        before = self.netns.rules(family=made["family"])
        fits = [one for one in self.rules_made if one["family"] == made["family"] and all(
            one[name] == value or value is None or (name, value) == ("src", "all") for name, value in made.items())]
        if len(fits) > 1:
            return                                          # which of them the kernel has first depends on their age
        self.netns.del_rule(priority=made["priority"], family=made["family"], **fields)
        self.rules_made.remove(made)
        assert len(self.netns.rules(family=made["family"])) == len(before) - 1

    # --- nexthop objects ---

    @rule(id=st.integers(1, 5))
    def add_nexthop_that_is_a_hole(self, id):
        with self.expect((id in self.hops_made, nsnet.AlreadyExists)):
            self.netns.add_nexthop(id, blackhole=True, family="inet")
            self.made_hop(id, blackhole=True, family="inet")
        assert self.netns.nexthop(id).blackhole

    @rule(id=st.integers(6, 9), number=PICK, way=PICK, gateway=st.booleans(), six=st.booleans(), ensure=st.booleans())
    def add_nexthop_of_a_link(self, id, number, way, gateway, six, ensure):
        index = self.pick(number, ["veth"], lambda index, known: self.has_carrier(index) or number % 8 == 7)
        if index is None:
            return
        there = self.hops_made.get(id)
        if there and ensure:
            six = there["family"] == "inet6"                # a group or a route may not change its family
        via = ("fe80::9" if six else "10.9.9.9") if gateway else None
        verb = self.netns.ensure_nexthop if ensure else self.netns.add_nexthop
        with self.expect((not self.has_carrier(index), nsnet.NetlinkError),     # ENETDOWN
                         (there and not ensure, nsnet.AlreadyExists)):
            verb(id, oif=self.given(index, way), via=via, onlink=gateway, family="inet6" if six else "inet")
            self.made_hop(id, dev=index, gateway=via, family="inet6" if six else "inet")

    @rule(id=st.integers(11, 13), numbers=st.lists(PICK, min_size=1, max_size=6, unique=True),
          weights=st.lists(st.integers(1, 256), min_size=6, max_size=6), ensure=st.booleans())
    def add_nexthop_group(self, id, numbers, weights, ensure):
        single = [one for one, hop in self.hops_made.items() if not hop["group"] and not hop["blackhole"]]
        members = sorted({self.mostly(number, single, range(1, 10)) for number in numbers})
        group = list(zip(members, weights))
        missing = any(one not in self.hops_made for one in members)
        hole = len(members) > 1 and any(self.hops_made[one]["blackhole"] for one in members if one in self.hops_made)
        there = id in self.hops_made
        if any(route["nhid"] == id for route in self.routes_made.values()):
            ensure = False                                  # a route may not change its family
        verb = self.netns.ensure_nexthop if ensure else self.netns.add_nexthop
        with self.expect((missing or hole, nsnet.NetlinkError), (there and not ensure, nsnet.AlreadyExists)):
            verb(id, group=group)
            self.made_hop(id, group=group)
            assert list(self.netns.nexthop(id).group) == group

    @rule(number=PICK)
    def del_nexthop(self, number):
        id = self.mostly(number, self.hops_made, ANY_ID)
        with self.expect((id not in self.hops_made, nsnet.NoSuchObject)):
            self.netns.del_nexthop(id)
            del self.hops_made[id]
        assert id not in [one.id for one in self.netns.nexthops()]

    # --- neighbours ---

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

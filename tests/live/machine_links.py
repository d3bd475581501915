"""Rules of the state machine for links, bridges, their ports, and forwarding entries."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

import nsnet
from machine_model import FDB_PREFIX, LLADDR, MAYBE, MTU, NAMES, NOWHERE, OWN_PREFIX, PICK, TEXT, VXLAN_PORT, Model
from machine_witness import PORT_FIELDS


# Those that a bridge takes at any time and keeps as they were given, under the names of both nsnet and ip(8).
BRIDGE_OPTIONS = {
    "forward_delay": st.integers(2, 30).map(lambda seconds: 100 * seconds),     # whole seconds are whole ticks
    "hello_time": st.integers(1, 10).map(lambda seconds: 100 * seconds),
    "max_age": st.integers(6, 40).map(lambda seconds: 100 * seconds), "priority": st.integers(0, 65535),
    "ageing_time": st.integers(1, 600).map(lambda seconds: 100 * seconds),
    "group_fwd_mask": st.integers(0, 8191).map(lambda number: 8 * number),      # not STP, pause and LACP
    "group_addr": st.sampled_from(["01:80:c2:00:00:00", "01:80:c2:00:00:04", "01:80:c2:00:00:0f"]),
    "mcast_snooping": st.integers(0, 1), "mcast_router": st.integers(0, 2), "mcast_querier": st.integers(0, 1),
    "mcast_query_use_ifaddr": st.integers(0, 1), "mcast_hash_max": st.integers(1, 12).map(lambda bits: 2 ** bits),
    "mcast_last_member_cnt": st.integers(0, 100), "mcast_startup_query_cnt": st.integers(0, 100),
    "mcast_last_member_intvl": st.integers(1, 90).map(lambda seconds: 100 * seconds),
    "mcast_membership_intvl": st.integers(1, 900).map(lambda seconds: 100 * seconds),
    "mcast_querier_intvl": st.integers(1, 900).map(lambda seconds: 100 * seconds),
    "mcast_query_intvl": st.integers(1, 900).map(lambda seconds: 100 * seconds),
    "mcast_query_response_intvl": st.integers(1, 90).map(lambda seconds: 100 * seconds),
    "mcast_startup_query_intvl": st.integers(1, 90).map(lambda seconds: 100 * seconds),
    "mcast_stats_enabled": st.integers(0, 1), "mcast_igmp_version": st.integers(2, 3),
    "mcast_mld_version": st.integers(1, 2), "nf_call_iptables": st.integers(0, 1),
    "nf_call_ip6tables": st.integers(0, 1), "nf_call_arptables": st.integers(0, 1),
}
PORT_OPTIONS = {**dict.fromkeys(PORT_FIELDS, st.integers(0, 1)), "cost": st.integers(1, 65535),
                "priority": st.integers(0, 63), "multicast_router": st.integers(0, 2)}
FDB_LLADDR = st.integers(1, 4).map(lambda number: f"{FDB_PREFIX}00:0{number}")
PEER_LLADDR = st.just(NOWHERE) | FDB_LLADDR
PEER = st.sampled_from(["198.51.100.1", "198.51.100.2", "198.51.100.3"])     # no route leads there


def some_of(options):
    return st.lists(st.sampled_from(sorted(options)), min_size=1, max_size=4, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: options[name] for name in names}))


class LinkRules(Model):

    # --- links ---

    @precondition(Model.room)
    @rule(name=NAMES, up=MAYBE, group=st.none() | st.integers(0, 9), stp=st.none() | st.integers(0, 1),
          options=st.just({}) | some_of(BRIDGE_OPTIONS))
    def add_bridge(self, name, up, group, stp, options):
        options = {**options, **({} if stp is None else {"stp_state": stp})}
        with self.expect((name in self.names(), nsnet.AlreadyExists)):
            ref = self.netns.add_bridge(name, up=up, group=group, **options)
            self.make(ref, "bridge", up=bool(up), group=group or 0, options=options)
            found = self.netns.link(ref).options
            assert {key: found[key] for key in options} == options

    @precondition(Model.room)
    @rule(name=NAMES, peer=NAMES, up=MAYBE, mtu=st.none() | MTU, group=st.none() | st.integers(1, 9), master=PICK,
          mastered=st.booleans(), queues=st.integers(1, 3))
    def add_veth(self, name, peer, up, mtu, group, master, mastered, queues):
        bridge = self.pick(master, ["bridge"]) if mastered else None
        with self.expect((name == peer, nsnet.UsageError), ({name, peer} & self.names(), nsnet.AlreadyExists)):
            one, two = self.netns.add_veth(name, peer=peer, up=up, mtu=mtu, group=group, master=bridge, queues=queues)
            self.make(one, "veth", peer=two.index, master=bridge, up=bool(up), group=group or 0)
            self.make(two, "veth", peer=one.index, group=group or 0)

    @precondition(Model.room)
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
                self.make(ref, kind, lower=lower if kind == "macvlan" else None,
                          vni=vni if kind == "vxlan" else None)
        except nsnet.NotSupported:                          # by this kernel
            pass

    @rule(number=PICK, way=PICK, up=st.booleans())
    def set_up(self, number, way, up):
        index = self.pick(number)
        if index is None:
            return
        self.netns.set_link(self.given(index, way), up=up)
        self.known[index]["up"] = up
        if not up:
            self.disturbed.add(index)

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
        if away or self.known[index]["master"] != bridge:
            self.leave(index)
        self.known[index]["master"] = None if away else bridge

    def pick_port(self, number):
        """Of a bridge; sometimes one that is none."""
        kinds = ["veth", "vxlan", "ifb"]
        port = self.pick(number // 8, kinds, lambda index, known: known["master"]) if number % 8 != 7 else None
        return port or self.pick(number // 8, kinds)

    @rule(number=PICK, way=PICK, options=some_of(PORT_OPTIONS))
    def set_port(self, number, way, options):
        index = self.pick_port(number)
        if index is None:
            return
        with self.expect((not self.known[index]["master"], nsnet.NotSupported)):
            self.netns.set_port(self.given(index, way), **options)
            port = self.netns.link(index).port_options
            assert {name: port[name] for name in options} == options
            self.known[index]["port"].update({PORT_FIELDS.get(name, name): bool(value) if name in PORT_FIELDS else value
                                              for name, value in options.items()})

    @rule(number=PICK, way=PICK, options=some_of(BRIDGE_OPTIONS))
    def set_bridge(self, number, way, options):
        index = self.pick(number, ["bridge"])
        if index is not None:
            self.netns.set_options(self.given(index, way), "bridge", **options)
            found = self.netns.link(index).options
            assert {name: found[name] for name in options} == options
            self.known[index]["options"].update(options)

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

    # --- forwarding entries ---

    @rule(number=PICK, way=PICK, lladdr=FDB_LLADDR, permanent=st.booleans(), extern=st.booleans(), ensure=st.booleans())
    def add_fdb(self, number, way, lladdr, permanent, extern, ensure):
        """To a port of a bridge."""
        index = self.pick_port(number)
        if index is None:
            return
        bridge = self.known[index]["master"]
        there = self.known[bridge]["fdb"].get(lladdr) if bridge else None
        extern = extern and not permanent and there is None         # it would take over without a word
        verb = self.netns.ensure_fdb if ensure else self.netns.add_fdb
        with self.expect((not bridge, nsnet.NotSupported), (there and not ensure, nsnet.AlreadyExists)):
            verb(self.given(index, way), lladdr, permanent=permanent, extern_learn=extern)
            self.known[bridge]["fdb"][lladdr] = {
                "port": index, "state": "permanent" if permanent else "" if extern else "static",
                "extern": extern or bool(there and there["extern"])}

    @rule(number=PICK, way=PICK, lladdr=FDB_LLADDR, that_is_there=PICK, missing_ok=st.booleans())
    def del_fdb(self, number, way, lladdr, that_is_there, missing_ok):
        index = self.pick(number, ["veth", "vxlan", "ifb"], lambda index, known: known["master"])
        if index is None:
            return
        entries = self.known[self.known[index]["master"]]["fdb"]
        if entries and that_is_there % 4:
            lladdr, entry = sorted(entries.items())[that_is_there % len(entries)]
            index = entry["port"] if that_is_there % 8 > 1 else index
        its = lladdr in entries and entries[lladdr]["port"] == index
        with self.expect((not its and not missing_ok, nsnet.NoSuchObject)):
            self.netns.del_fdb(self.given(index, way), lladdr, missing_ok=missing_ok)
        if its:
            del entries[lladdr]

    @rule(number=PICK, way=PICK, lladdr=PEER_LLADDR, dst=PEER, port=st.none() | st.just(VXLAN_PORT) | st.integers(1, 5),
          vni=st.none() | st.integers(0, 100), via=st.booleans(), how=st.sampled_from(["add", "append", "ensure"]))
    def add_peer(self, number, way, lladdr, dst, port, vni, via, how):
        """To a VXLAN's own table; several of them for what goes everywhere."""
        index = self.pick(number, ["vxlan"])
        if index is None:
            return
        known = self.known[index]
        there = known["peers"].get(lladdr, [])
        peer = (dst, port or VXLAN_PORT, known["vni"] if vni is None else vni, "lo" if via else None)
        options = {"port": port, "vni": vni, "via": "lo" if via else None}
        if how == "append":
            with self.expect((lladdr != NOWHERE, nsnet.UsageError)):
                self.netns.add_fdb(self.given(index, way), lladdr, self_=True, dst=dst, append=True, **options)
        else:
            verb = self.netns.ensure_fdb if how == "ensure" else self.netns.add_fdb
            with self.expect((there and how == "add", nsnet.AlreadyExists)):
                verb(self.given(index, way), lladdr, self_=True, dst=dst, **options)
        if lladdr == NOWHERE and how != "add":
            known["peers"][lladdr] = there + [peer] * (peer not in there)
        elif how == "ensure" or how == "add" and not there:
            known["peers"][lladdr] = [peer]

    @rule(number=PICK, way=PICK, lladdr=PEER_LLADDR, dst=PEER, which=PICK)
    def del_peer(self, number, way, lladdr, dst, which):
        """One that is there, all of an lladdr, or one that may be there."""
        index = self.pick(number, ["vxlan"])
        if index is None:
            return
        known = self.known[index]
        every = [(lladdr, peer) for lladdr, peers in sorted(known["peers"].items()) for peer in peers]
        options = {}
        if every and which % 4:
            lladdr, peer = every[which % len(every)]
            options = dict(zip(("dst", "port", "vni", "via"), peer)) if which % 4 > 1 else {}
        elif which % 8:
            peer = (dst, VXLAN_PORT, known["vni"], None)
            options = {"dst": dst}
        its = known["peers"].get(lladdr, [])
        with self.expect(((peer not in its) if options else not its, nsnet.NoSuchObject)):
            self.netns.del_fdb(self.given(index, way), lladdr, self_=True, **options)
            known["peers"][lladdr] = [one for one in its if options and one != peer]
        if not known["peers"].get(lladdr, True):
            del known["peers"][lladdr]

    @rule(number=PICK, way=PICK, last=st.integers(1, 3), away=st.booleans())
    def change_own_lladdrs(self, number, way, last, away):
        """What a link takes in besides its own address."""
        index = self.pick(number, ["veth"])
        if index is None:
            return
        own, lladdr = self.known[index]["own"], f"{OWN_PREFIX}00:0{last}"
        if away:
            with self.expect((lladdr not in own, nsnet.NoSuchObject)):
                self.netns.del_fdb(self.given(index, way), lladdr, self_=True)
            own.discard(lladdr)
        else:
            with self.expect((lladdr in own, nsnet.AlreadyExists)):
                self.netns.add_fdb(self.given(index, way), lladdr, self_=True)
            own.add(lladdr)

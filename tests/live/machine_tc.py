"""Rules of the state machine for queueing disciplines, classes and filters."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

import nsnet
from machine_model import PICK, Model

MBIT = 125_000                      # bytes a second
SHAPED = ["bridge", "veth", "vxlan", "ifb", "macvlan"]
RATE = st.integers(1, 800).map(lambda number: number * MBIT)                # tc(8) writes those without rounding
BURST = st.sampled_from([2000, 5000, 6000, 9000])                           # and those without Kb
LIMIT = st.sampled_from([1500, 10_000, 100_000])
HANDLE = st.sampled_from([0, "1:", "2:"])
MINORS = [0x1, 0x2, 0x10, 0x20, 0xa0]
MINOR = st.sampled_from(MINORS)
SIDE = st.sampled_from(["root", "ingress", "egress"])
MATCH = st.sampled_from([(0, 0, 0), (0x0a000002, 0xffffffff, 16), (0x0a000000, 0xff000000, 12), (7, 0xffff, 20)])


def tbf(handle, rate, burst, limit):
    """`handle` 0: the kernel picks one."""
    return {"kind": "tbf", "handle": handle or None, "rate": rate, "burst": burst, "limit": limit}


class TcRules(Model):

    def shape(self, index, root):
        """Another discipline at the root: what hung on the one before is gone."""
        self.known[index].update(root=root, classes={}, leaves={}, filters=[
            one for one in self.known[index]["filters"] if one[0] in ("ingress", "egress")])

    def pick_htb(self, number):
        return self.pick(number, SHAPED, lambda index, known: known["root"] and known["root"]["kind"] == "htb")

    def pick_class(self, index, number):
        """The classid of one that is there, mostly."""
        known = self.known[index]
        return self.mostly(number, known["classes"], [f"{known['root']['handle']}{minor:x}" for minor in MINORS])

    def pick_for_filters(self, number, side):
        """A link with a place for filters on that side; sometimes one without."""
        return self.pick(number, SHAPED, lambda index, known: self.side_of(index, side)[1]
                         or side != "root" and number % 8 == 7)     # an HTB's name is its handle

    def children(self, index, classid):
        return [one for one in self.known[index]["classes"].values() if one["parent"] == classid]

    # --- queueing disciplines ---

    @rule(number=PICK, way=PICK, handle=HANDLE, rate=RATE, burst=BURST, limit=LIMIT)
    def add_tbf(self, number, way, handle, rate, burst, limit):
        index = self.pick(number, SHAPED)
        if index is None:
            return
        root = self.known[index]["root"]
        if root and root["kind"] != "tbf" and not handle:
            handle = "2:"                                   # or the kernel puts it in the place of another kind
        with self.expect((root, nsnet.AlreadyExists)):
            self.netns.add_qdisc(self.given(index, way), "tbf", handle=handle, rate=rate, burst=burst, limit=limit)
            self.shape(index, tbf(handle, rate, burst, limit))

    @rule(number=PICK, way=PICK, handle=st.sampled_from(["1:", "2:"]), default=st.just(0) | MINOR)
    def add_htb(self, number, way, handle, default):
        index = self.pick(number, SHAPED)
        if index is not None:
            with self.expect((self.known[index]["root"], nsnet.AlreadyExists)):
                self.netns.add_qdisc(self.given(index, way), "htb", handle=handle, default=default)
                self.shape(index, {"kind": "htb", "handle": handle, "default": default})

    @rule(number=PICK, way=PICK, handle=HANDLE, rate=RATE, burst=BURST, limit=LIMIT)
    def ensure_tbf(self, number, way, handle, rate, burst, limit):
        """One that is there is changed; another kind, or one of another handle, is replaced."""
        index = self.pick(number, SHAPED)
        if index is None:
            return
        root = self.known[index]["root"]
        same = root and handle in (0, root["handle"])
        with self.expect((same and handle and root["kind"] != "tbf", nsnet.NetlinkError)):      # a handle has one kind
            self.netns.ensure_qdisc(self.given(index, way), "tbf", handle=handle, rate=rate, burst=burst, limit=limit)
            new = tbf(handle, rate, burst, limit)
            if same and root["kind"] == "tbf":
                root.update(new, handle=root["handle"])
            else:
                self.shape(index, new)

    @rule(number=PICK, way=PICK, handle=st.sampled_from(["1:", "2:"]), default=st.just(0) | MINOR)
    def ensure_htb(self, number, way, handle, default):
        """One that is there cannot be changed, but it may be as asked."""
        index = self.pick(number, SHAPED)
        if index is None:
            return
        root = self.known[index]["root"]
        same = root and handle == root["handle"]
        as_asked = same and root["kind"] == "htb" and root["default"] == default
        with self.expect((same and not as_asked, nsnet.NetlinkError)):
            self.netns.ensure_qdisc(self.given(index, way), "htb", handle=handle, default=default)
            if not as_asked:
                self.shape(index, {"kind": "htb", "handle": handle, "default": default})

    @rule(number=PICK, way=PICK, handle=HANDLE)
    def del_qdisc(self, number, way, handle):
        index = self.pick(number, SHAPED)
        if index is None:
            return
        root = self.known[index]["root"]
        with self.expect((handle and (not root or root["handle"] != handle), nsnet.NetlinkError),
                         (not root, nsnet.NoSuchObject)):
            self.netns.del_qdisc(self.given(index, way), handle=handle)
            self.shape(index, None)

    @rule(number=PICK, way=PICK, kind=st.sampled_from(["ingress", "clsact"]), ensure=st.booleans())
    def add_place_for_filters(self, number, way, kind, ensure):
        index = self.pick(number, SHAPED)
        if index is None:
            return
        there = self.known[index]["ingress"]
        verb = self.netns.ensure_qdisc if ensure else self.netns.add_qdisc
        with self.expect((there and not ensure, nsnet.AlreadyExists), (there and there != kind, nsnet.NetlinkError)):
            verb(self.given(index, way), kind)
            self.known[index]["ingress"] = kind

    @rule(number=PICK, way=PICK, kind=st.sampled_from(["ingress", "clsact"]))
    def del_place_for_filters(self, number, way, kind):
        """By either name: there is one place."""
        index = self.pick(number, SHAPED)
        if index is None:
            return
        known = self.known[index]
        with self.expect((not known["ingress"], nsnet.NoSuchObject)):
            self.netns.del_qdisc(self.given(index, way), parent=kind)
        known.update(ingress=None, filters=[one for one in known["filters"] if one[0] not in ("ingress", "egress")])

    # --- classes ---

    @rule(number=PICK, way=PICK, minor=MINOR, above=PICK, rate=RATE, more=RATE, burst=BURST,
          prio=st.integers(0, 7), quantum=st.sampled_from([0, 1500, 3000]), ensure=st.booleans())
    def add_class(self, number, way, minor, above, rate, more, burst, prio, quantum, ensure):
        index = self.pick_htb(number)
        if index is None:
            return
        known = self.known[index]
        classid = f"{known['root']['handle']}{minor:x}"
        parent = self.pick_class(index, above) if above % 3 else None
        there = known["classes"].get(classid)
        verb = self.netns.ensure_class if ensure else self.netns.add_class
        with self.expect((parent and parent not in known["classes"], nsnet.NoSuchObject),
                         (there and not ensure, nsnet.AlreadyExists)):
            verb(self.given(index, way), "htb", classid=classid, parent=parent or known["root"]["handle"], rate=rate,
                 ceil=rate + more, burst=burst, prio=prio, quantum=quantum)
            new = {"rate": rate, "ceil": rate + more, "burst": burst}
            if not there or not self.children(index, classid):      # to one that has children the rest means nothing
                new.update(prio=prio, quantum=quantum or min(max(rate // 10, 1000), 200_000))
            if there:
                there.update(new)
            else:
                known["classes"][classid] = {"parent": parent, **new}
                known["leaves"].pop(parent, None)           # a class with children has no queue

    @rule(number=PICK, way=PICK, which=PICK)
    def del_class(self, number, way, which):
        index = self.pick_htb(number)
        if index is None:
            return
        known, classid = self.known[index], self.pick_class(index, which)
        in_use = self.children(index, classid) or any(one[4] == classid and one[5] for one in known["filters"])
        with self.expect((classid not in known["classes"], nsnet.NoSuchObject), (in_use, nsnet.NetlinkError)):
            self.netns.del_class(self.given(index, way), classid=classid)
            del known["classes"][classid]
            known["leaves"].pop(classid, None)

    @rule(number=PICK, way=PICK, which=PICK, rate=RATE, burst=BURST, limit=LIMIT,
          away=st.sampled_from([False, False, False, True]))
    def change_queue_of_class(self, number, way, which, rate, burst, limit, away):
        index = self.pick_htb(number)
        if index is None:
            return
        known, classid = self.known[index], self.pick_class(index, which)
        handle = f"1{classid.partition(':')[2]:0>2}:"
        leaf, inner = known["leaves"].get(classid), self.children(index, classid)
        if away:
            with self.expect((not leaf, nsnet.NoSuchObject)):
                self.netns.del_qdisc(self.given(index, way), parent=classid)
                del known["leaves"][classid]
        else:
            with self.expect((classid not in known["classes"], nsnet.NoSuchObject), (inner, nsnet.NetlinkError),
                             (leaf, nsnet.AlreadyExists)):
                self.netns.add_qdisc(self.given(index, way), "tbf", parent=classid, handle=handle, rate=rate,
                                     burst=burst, limit=limit)
                known["leaves"][classid] = tbf(handle, rate, burst, limit)

    # --- filters ---

    def side_of(self, index, side):
        """As the lists have it; and whether filters can hang there."""
        known = self.known[index]
        if side == "root":
            htb = known["root"] and known["root"]["kind"] == "htb"
            return (known["root"]["handle"] if htb else None), bool(htb)
        return side, known["ingress"] == "clsact" or (side, known["ingress"]) == ("ingress", "ingress")

    @rule(number=PICK, way=PICK, side=SIDE, priority=st.integers(1, 3), protocol=st.sampled_from(["ip", "all"]),
          match=MATCH, which=PICK)
    def add_filter(self, number, way, side, priority, protocol, match, which):
        index = self.pick_for_filters(number, side)
        if index is None:
            return
        known = self.known[index]
        place, there = self.side_of(index, side)
        priority += 3 * (side == "egress")      # u32 shows what has the same one on both sides of a clsact (u32_walk())
        classid = self.pick_class(index, which) if side == "root" else f"1:{1 + which % 20:x}"
        # A priority is for one protocol.
        other = any(row["dev"] == known["ifname"] and (row["side"], row["pref"]) == (place, priority)
                    and row["protocol"] != protocol for row in self.state["filters"])
        with self.expect((side == "egress" and known["ingress"] == "ingress", nsnet.UsageError),
                         (not there or other, nsnet.NetlinkError)):
            if match[2] in (12, 16) and protocol == "ip":
                network = f"10.0.0.{match[0] & 255}/{bin(match[1]).count('1')}"
                options = {"src" if match[2] == 12 else "dst": network}
            else:
                options = {"match": [match]}
            self.netns.add_u32_filter(self.given(index, way), parent=side, priority=priority, protocol=protocol,
                                      classid=classid, **options)
            known["filters"].append((place, priority, protocol, match, classid,
                                     side == "root" and classid in known["classes"]))

    @rule(number=PICK, way=PICK, side=SIDE, priority=st.integers(0, 3))
    def del_filters(self, number, way, side, priority):
        """All of a priority, or all."""
        index = self.pick_for_filters(number, side)
        if index is None:
            return
        known = self.known[index]
        place, there = self.side_of(index, side)
        priority += 3 * (side == "egress" and priority > 0)
        its = [row for row in self.state["filters"] if row["dev"] == known["ifname"] and row["side"] == place
               and priority in (0, row["pref"])]
        if side == "egress" and known["ingress"] == "ingress":
            return                                          # there "egress" is one more name of the same place
        with self.expect((not there, nsnet.NetlinkError), (priority and not its, nsnet.NoSuchObject)):
            self.netns.del_filter(self.given(index, way), parent=side, priority=priority)
            known["filters"] = [one for one in known["filters"] if one[0] != place or priority not in (0, one[1])]

    @rule(number=PICK, way=PICK, side=SIDE, which=PICK)
    def del_filter(self, number, way, side, which):
        """One, by its handle."""
        index = self.pick(number, SHAPED, lambda index, known: any(
            one[0] == self.side_of(index, side)[0] for one in known["filters"]))
        if index is None:
            return
        known = self.known[index]
        place, _ = self.side_of(index, side)
        listed = [one for one in self.netns.filters(index, side) if "sel" in one.options]
        chosen = listed[which % len(listed)]
        self.netns.del_filter(self.given(index, way), parent=side, priority=chosen.priority, protocol=chosen.protocol,
                              kind="u32", handle=chosen.handle)
        row, = [row for row in self.state["filters"] if row["dev"] == known["ifname"] and row["side"] == place
                and row["fh"] == f"{chosen.handle >> 20:x}::{chosen.handle & 0xFFF:x}"]
        known["filters"].remove(next(one for one in known["filters"] if one[:5] == (
            place, row["pref"], row["protocol"], row["match"], row["flowid"])))

"""Address leases without a disk: what may be given, and to whom, against a model that enumerates."""

import ipaddress
import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from strategies import ANY_TEXT, one_line, refused

from nsnet import values
from nsnet.errors import KernelError, LeaseTaken, NoFreeAddress, NsnetError, UsageError
from nsnet.leases import MemoryLeases, book, parse_ranges, pools
from nsnet.leases.disk import parse_lease
from nsnet.ranges import Pool, Span


def ips(*texts):
    return {int(ipaddress.ip_address(text)) for text in texts}


def given_out(pool):
    """Every address of a small pool, as numbers."""
    return {number for span in pool.spans for number in range(span.first, span.last + 1)}


# --- ranges ---

@pytest.mark.parametrize("subnet, expected", [
    ("10.0.0.1/29", ips("10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6")),
    ("10.0.0.5/30", ips("10.0.0.6")), ("10.0.0.0/31", ips("10.0.0.1")), ("10.0.0.1/31", ips("10.0.0.0")),
    ("10.0.0.1/32", set()), ("fd00::1/128", set()), ("fd00::/127", ips("fd00::1")), ("fd00::1/127", ips("fd00::")),
    ("fd00::1/126", ips("fd00::2", "fd00::3")), ("fd00::1/125", ips(*(f"fd00::{host}" for host in range(2, 8))))])
def test_what_a_subnet_gives(subnet, expected):
    (pool,) = pools([subnet])
    assert given_out(pool) == expected and pool.size == len(expected)
    assert all(pool.address(number) in pool for number in expected) and pool.subnet not in pool
    assert one_line(str(pool))


@pytest.mark.parametrize("subnet, size", [
    ("10.0.0.1/8", 2**24 - 3), ("fd00::1/64", 2**64 - 2), ("fd00::1/8", 2**120 - 2), ("fc00::1/7", 2**121 - 2),
    ("1.0.0.1/0", 0xE0000000 - 0x01000000 - 1)])
def test_a_large_subnet_is_not_enumerated(subnet, size):
    (pool,) = pools([subnet])
    assert pool.size == size and next(pool.unused(set())) in pool


def test_what_is_no_hosts_address_is_in_no_pool():
    (v4,), (v6,) = pools(["10.0.0.1/0"]), pools(["fd00::1/0"])
    for text in ("0.0.0.1", "224.0.0.1", "255.255.255.255"):
        assert values.address(f"{text}/0") not in v4
    for text in ("::", "::1", "ff02::1"):
        assert values.address(f"{text}/0") not in v6


@pytest.mark.parametrize("items, expected", [
    (["10.0.0.10-10.0.0.12"], ips("10.0.0.10", "10.0.0.11", "10.0.0.12")),
    (["10.0.0.32/31", "10.0.0.7"], ips("10.0.0.7", "10.0.0.32", "10.0.0.33")), ("10.0.0.9", ips("10.0.0.9")),
    (["10.0.0.0-10.0.0.2"], ips("10.0.0.2")), (["10.0.0.254/31"], ips("10.0.0.254")),
    (["10.0.0.4-10.0.0.6", "10.0.0.5-10.0.0.7"], ips("10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"))])
def test_ranges_restrict(items, expected):
    assert given_out(pools(["10.0.0.1/24"], items)[0]) == expected


def test_ranges_are_of_the_subnet_that_they_lie_in():
    v4, v6 = pools(["10.0.0.1/24", "fd00::1/64"], ["fd00::10-fd00::12"], ["10.0.0.2-10.0.0.253", "fd00::11"])
    assert given_out(v4) == ips("10.0.0.254") and given_out(v6) == ips("fd00::10", "fd00::12")
    assert parse_ranges(["fd00::5"], ["10.0.0.1/24", "fd00::1/64"]) == ((), (Span(*[2**120 * 0xfd + 5] * 2),))


def test_no_gateway_is_given_whosever_it_is():
    first, second = pools(["10.0.0.1/29", "10.0.0.2/29"])
    assert given_out(first) == given_out(second) == ips("10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6")


@pytest.mark.parametrize("item", [
    "10.0.0.300-10.0.0.310", "10.0.0.20-10.0.0.10", "10.0.0.10-fd00::1", "10.0.0.10-", "-10.0.0.10", "10.0.0.1-2",
    "10.0.0.10 - 10.0.0.20", "10.0.0.33/28", "10.0.0.0/33", "10.0.0.0/", "10.0.1.5", "10.0.0.250-10.0.1.5", "", "x",
    "10.0.0.0/16", "0.0.0.0/0", "10.0.0.1-10.0.0.2-10.0.0.3", None, 5, b"10.0.0.5", ["10.0.0.5"], "fd00::5%eth0"],
    ids=repr)
def test_what_is_no_range_is_named(item):
    for what in ("ranges", "exclude"):
        said = refused(pools, ["10.0.0.1/24"], **{what: [item]})
        assert said.startswith(what) and repr(item) in said and "expected" in said


@pytest.mark.parametrize("items", [5, None, True], ids=repr)
def test_what_is_no_list_of_ranges_is_named(items):
    assert repr(items) in refused(pools, ["10.0.0.1/24"], items)


@pytest.mark.parametrize("ranges, exclude", [(["10.0.0.1"], []), (["10.0.0.0"], []), (["10.0.0.255"], []),
                                             (["10.0.0.8/29"], ["10.0.0.8/30", "10.0.0.12-10.0.0.20"]),
                                             ([], ["10.0.0.0/24"])])
def test_ranges_that_leave_nothing_are_refused(ranges, exclude):
    assert "10.0.0.0/24" in refused(pools, ["10.0.0.1/24"], ranges, exclude)


@pytest.mark.parametrize("subnets", [[], ["10.0.0.1"], ["10.0.0.0/24"], ["224.0.0.1/24"], ["x"], [None],
                                     ["10.0.0.1/24", "10.0.0.1/16"]], ids=repr)
def test_what_is_no_subnet_is_refused(subnets):
    assert refused(MemoryLeases, subnets).startswith("subnets")


HOSTS = st.integers(0, 31)
ITEMS = st.lists(st.one_of(HOSTS.map(lambda host: f"10.0.0.{host}"),
                           st.tuples(HOSTS, HOSTS).map(lambda ends: "10.0.0.{}-10.0.0.{}".format(*sorted(ends))),
                           st.integers(0, 7).map(lambda part: f"10.0.0.{4 * part}/30")), max_size=5)


def hosts_of(item):
    """The addresses that an item names, by way of the standard library."""
    first, _, last = item.partition("-")
    if "/" in item:
        return {int(host) for host in ipaddress.ip_network(item)}
    return set(range(min(ips(first)), min(ips(last or first)) + 1))


@given(HOSTS.filter(lambda host: host not in (0, 31)), ITEMS, ITEMS)
def test_pools_are_what_enumeration_says(gateway, ranges, exclude):
    base = min(ips("10.0.0.0"))
    wanted = set().union(*map(hosts_of, ranges)) if ranges else set(range(base, base + 32))
    expected = wanted - set().union(*map(hosts_of, exclude)) - {base, base + 31, base + gateway}
    try:
        (pool,) = pools([f"10.0.0.{gateway}/27"], ranges, exclude)
    except UsageError:
        assert not expected
        return
    assert given_out(pool) == expected and list(pool.spans) == sorted(pool.spans)
    assert all(left.last + 1 < right.first for left, right in zip(pool.spans, pool.spans[1:]))
    assert {host for host in range(base, base + 32) if pool.address(host) in pool} == expected
    assert {int(ipaddress.ip_address(address.ip)) for address in pool.unused({base + 5})} == expected - {base + 5}


@given(st.lists(ANY_TEXT, max_size=3), st.lists(ANY_TEXT, max_size=2))
def test_any_text_is_ranges_or_a_usage_error(ranges, subnets):
    try:
        pools(subnets + ["10.0.0.1/24"], ranges)
    except UsageError as error:
        assert one_line(str(error))


# --- the content of a file ---

GOOD = {"version": 1, "address": "10.0.0.5/24", "owner": "web", "boot_id": "b", "number": 0}


def test_a_lease_is_read():
    address, *rest = parse_lease(json.dumps(GOOD).encode(), "10.0.0.5")
    assert str(address) == "10.0.0.5/24" and rest == ["web", "b", 0]
    assert parse_lease(json.dumps({**GOOD, "more": 1}).encode(), "10.0.0.5") is not None


@pytest.mark.parametrize("change", [
    {"version": 2}, {"version": True}, {"version": "1"}, {"address": "10.0.0.6/24"}, {"address": "10.0.0.5"},
    {"address": None}, {"owner": ""}, {"owner": None}, {"owner": "a\n"}, {"owner": "a" * 129}, {"boot_id": None},
    {"number": -1}, {"number": 1.5}, {"number": True}, {"number": 2**40}])
def test_a_lease_that_makes_no_sense_is_nobody_knows_whose(change):
    assert parse_lease(json.dumps({**GOOD, **change}).encode(), "10.0.0.5") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 4000, b"\0" * 100, b" " * 5000,
                                     json.dumps(GOOD).encode() + b" " * 4096, json.dumps(GOOD).encode()[:-1]], ids=len)
def test_what_is_no_json_is_nobody_knows_whose(content):
    assert parse_lease(content, "10.0.0.5") is None


@given(st.one_of(st.binary(max_size=64), st.dictionaries(st.sampled_from(sorted(GOOD)), st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from(list(GOOD.values())), st.lists(st.none(), max_size=1)))
    .map(lambda found: json.dumps(found).encode())))
def test_any_bytes_are_a_lease_or_not(content):
    found = parse_lease(content, "10.0.0.5")
    assert found is None or (found[0].ip == "10.0.0.5" and 1 <= len(found[1]) <= 128)


# --- the verbs ---

def test_the_lowest_first_and_the_same_again():
    kept = MemoryLeases(["10.0.0.1/24", "fd00::1/64"])
    assert str(kept.take("a")) == "10.0.0.2/24" and str(kept.take("b", 6)) == "fd00::2/64"
    assert str(kept.take("b", subnet=0)) == "10.0.0.3/24" and str(kept.take("a")) == "10.0.0.2/24"
    assert list(map(str, kept.take_all("a"))) == ["10.0.0.2/24", "fd00::3/64"]
    assert [lease.owner for lease in kept.leases()] == ["a", "b", "b", "a"]
    assert [str(lease.address) for lease in kept.release("a")] == ["10.0.0.2/24", "fd00::3/64"]
    assert kept.release("a") == []


def test_who_comes_back_finds_its_own_and_others_take_it_last():
    kept = MemoryLeases(["10.0.0.1/29"])
    for owner in "abc":
        kept.take(owner)
    for owner in "cab":
        kept.release(owner)
    assert [kept.take(owner).ip for owner in ("x", "y", "a")] == ["10.0.0.5", "10.0.0.6", "10.0.0.2"]
    assert kept.take("z").ip == "10.0.0.4"              # of the one who went first
    assert kept.take("c").ip == "10.0.0.3"
    with pytest.raises(NoFreeAddress) as caught:
        kept.take("b")
    assert str(caught.value) == ("no free address in 10.0.0.0/29 (10.0.0.2-10.0.0.6): all 5 are leased; "
                                 "leases() shows them")


def test_a_claim_may_go_beyond_the_ranges():
    kept = MemoryLeases(["10.0.0.1/24"], ranges=["10.0.0.10-10.0.0.11"], exclude=["10.0.0.50"])
    assert str(kept.claim("a", "10.0.0.50")) == "10.0.0.50/24" == str(kept.claim("a", "10.0.0.50/24"))
    assert str(kept.take("a")) == "10.0.0.50/24"        # it has one
    assert str(kept.claim("a", "10.0.0.5")) == "10.0.0.5/24" and str(kept.take("a")) == "10.0.0.50/24"
    assert str(kept.claim("b", "10.0.0.10")) == "10.0.0.10/24" and str(kept.take("c")) == "10.0.0.11/24"
    with pytest.raises(LeaseTaken) as caught:
        kept.claim("c", "10.0.0.5")
    assert (caught.value.owner, caught.value.address) == ("a", "10.0.0.5") and "'a'" in str(caught.value)
    kept.release("a")
    kept.release("b")
    assert str(kept.take("a")) == "10.0.0.10/24"        # it had .50, which take() does not give


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.0", "10.0.0.255", "10.0.1.5", "10.0.0.5/16", "10.0.0.5/x",
                                     "fd00::", "fd00::1", "fd01::5", "x", "", None, 5], ids=repr)
def test_what_cannot_be_claimed_is_named(address):
    said = refused(MemoryLeases(["10.0.0.1/24", "fd00::1/64"]).claim, "a", address)
    assert str(address) in said and "expected" in said


@pytest.mark.parametrize("owner", ["", "a" * 129, "a\n", "\0", "\ud800", None, 5, b"a"], ids=repr)
def test_who_is_no_owner_is_named(owner):
    kept = MemoryLeases(["10.0.0.1/24"])
    for said in (refused(kept.take, owner), refused(kept.take_all, owner), refused(kept.release, owner),
                 refused(kept.claim, owner, "10.0.0.5")):
        assert repr(owner) in said
    assert str(kept.take("a" * 128)) == "10.0.0.2/24"


def test_a_subnet_is_chosen_by_version_or_index():
    kept = MemoryLeases(["10.0.0.1/24", "10.1.0.1/24"])
    assert str(kept.take("a", subnet=1)) == "10.1.0.2/24"
    for arguments in ({"version": 6}, {"version": 5}, {"subnet": 2}, {"subnet": -1}, {"subnet": True}, {"subnet": "0"},
                      {"version": 4, "subnet": 0}):
        assert "expected" in refused(kept.take, "a", **arguments)


def test_all_or_nothing():
    kept = MemoryLeases(["10.0.0.1/24", "fd00::1/126"])
    for owner in "ab":
        kept.take(owner, 6)
    with pytest.raises(NoFreeAddress, match="fd00::/126"):
        kept.take_all("c")
    assert {lease.owner for lease in kept.leases()} == {"a", "b"}
    assert [str(address) for address in MemoryLeases(["10.0.0.1/32", "10.1.0.1/24"]).take_all("a")] == ["10.1.0.2/24"]
    with pytest.raises(NoFreeAddress):
        MemoryLeases(["10.0.0.1/32"]).take_all("a")


def test_many_at_once_are_as_one_after_the_other():
    kept = MemoryLeases(["10.0.0.1/29", "fd00::1/64"])
    kept.take("c")
    kept.release("c")
    found = kept.take_many(["a", "c", "b", "a"])
    assert [[address.ip for address in addresses] for addresses in found] == [
        ["10.0.0.3", "fd00::2"], ["10.0.0.2", "fd00::3"], ["10.0.0.4", "fd00::4"], ["10.0.0.3", "fd00::2"]]
    assert kept.take_many(["a", "b"]) == [found[0], found[2]] and kept.take_many([]) == []
    assert [str(lease.address) for lease in kept.release_many(["b", "nobody", "a", "b"])] == [
        "10.0.0.4/29", "fd00::4/64", "10.0.0.3/29", "fd00::2/64"]
    assert [lease.owner for lease in kept.leases()] == ["c", "c"] and kept.release_many([]) == []


def test_many_are_all_or_nothing_and_leave_no_memory():
    kept = MemoryLeases(["10.0.0.1/29", "fd00::1/64"])
    kept.take("a", 4)
    with pytest.raises(NoFreeAddress, match="10.0.0.0/29"):
        kept.take_many(["a", "b", "c", "d", "e", "f"])
    assert [(lease.address.ip, lease.owner) for lease in kept.leases()] == [("10.0.0.2", "a")]
    assert kept.take("z").ip == "10.0.0.3"


@pytest.mark.parametrize("owners", ["abc", b"abc", None, 5, ["a", ""], ["a", None], [["a"]]], ids=repr)
def test_what_is_no_list_of_owners_is_named(owners):
    kept = MemoryLeases(["10.0.0.1/24"])
    for call in (kept.take_many, kept.release_many):
        assert "expected" in refused(call, owners)
    assert kept.leases() == []


def test_collect_asks_once_for_each_and_an_error_releases_nothing():
    kept = MemoryLeases(["10.0.0.1/24", "fd00::1/64"])
    for owner in "abc":
        kept.take_all(owner)
    with pytest.raises(ZeroDivisionError):
        kept.collect(lambda owner: owner == "a" or 1 // 0)
    assert len(kept.leases()) == 6
    asked = []
    gone = kept.collect(lambda owner: asked.append(owner) or owner == "b")
    assert sorted(asked) == ["a", "b", "c"] and [lease.owner for lease in gone] == ["a", "c", "a", "c"]
    assert {lease.owner for lease in kept.leases()} == {"b"} and kept.collect(lambda owner: True) == []


def test_one_thread_at_a_time_and_not_from_within(monkeypatch):
    monkeypatch.setattr(book, "LOCK_TIMEOUT", 0.01)
    kept, found = MemoryLeases(["10.0.0.1/24"]), []

    def other():
        try:
            kept.take("b")
        except KernelError as error:
            found.append(str(error))

    def alive(owner):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        kept.take("b")

    kept.take("a")
    with pytest.raises(KernelError, match="called by what"):
        kept.collect(alive)
    assert len(found) == 1 and "ETIMEDOUT" in found[0]
    assert kept.take("b").ip == "10.0.0.3" and len(kept.leases()) == 2


def test_an_address_is_released_by_its_number():
    kept = MemoryLeases(["10.0.0.1/24"])
    kept.take("a")
    assert kept.release_address("10.0.0.2").owner == "a" and kept.release_address("10.0.0.2/24") is None
    assert kept.leases() == [] and str(kept.take("a")) == "10.0.0.2/24"


def test_only_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr(book, "MOST_REMEMBERED", 2)
    kept = MemoryLeases(["10.0.0.1/24"])
    for owner in "abc":
        kept.take(owner)
    for owner in "abc":
        kept.release(owner)
    assert [kept.take(owner).ip for owner in "xcb"] == ["10.0.0.2", "10.0.0.4", "10.0.0.3"]


# --- a model: lists, and no index ---

OWNERS = st.sampled_from("abcdefgh")
SUBNETS = ("10.0.0.1/28", "fd00::1/125")
RANGES = ("10.0.0.3-10.0.0.6", "10.0.0.9")
EXCLUDE = ("10.0.0.5", "fd00::3")
GIVEN = {4: [f"10.0.0.{host}" for host in (3, 4, 6, 9)], 6: [f"fd00::{host}" for host in (2, 4, 5, 6, 7)]}
CLAIMABLE = {4: [f"10.0.0.{host}" for host in range(2, 15)], 6: [f"fd00::{host}" for host in range(2, 8)]}


def version_of(ip):
    return 6 if ":" in ip else 4


def pairs(entries):
    return [entry[:2] for entry in entries]


class Machine(RuleBasedStateMachine):
    """`leased`: (ip, owner, number) in the order in which they were taken. `past`: in the order of their release."""

    @initialize()
    def start(self):
        self.leased, self.past = [], []
        self.book = MemoryLeases(SUBNETS, ranges=RANGES, exclude=EXCLUDE)

    def expect(self, owner, version):
        """What take() must give, which is then taken; None if nothing is left."""
        for ip, holder, _ in self.leased:
            if holder == owner and version_of(ip) == version:
                return ip
        busy = {entry[0] for entry in self.leased}
        remembered = [entry[0] for entry in self.past]
        mine = [ip for ip, holder, _ in reversed(self.past) if holder == owner]
        fresh = [ip for ip in GIVEN[version] if ip not in remembered]
        for ip in mine + fresh + remembered:
            if ip in GIVEN[version] and ip not in busy:
                self.hand(ip, owner)
                return ip
        return None

    def hand(self, ip, owner):
        self.past = [entry for entry in self.past if entry[0] != ip]
        self.leased.append((ip, owner, 1 + max((entry[2] for entry in self.leased if entry[1] == owner), default=-1)))

    def end(self, gone):
        """Released together: what was taken last is released first."""
        self.leased = [entry for entry in self.leased if entry not in gone]
        self.past += sorted(gone, key=lambda entry: (-entry[2], ipaddress.ip_address(entry[0]).packed))

    @rule(owner=OWNERS, version=st.sampled_from([4, 6]))
    def take(self, owner, version):
        expected = self.expect(owner, version)
        try:
            assert self.book.take(owner, version).ip == expected
        except NoFreeAddress:
            assert expected is None

    @rule(owner=OWNERS)
    def take_all(self, owner):
        self.check_many([owner], lambda owners: [self.book.take_all(owner)])

    @rule(owners=st.lists(OWNERS, max_size=5))
    def take_many(self, owners):
        self.check_many(owners, self.book.take_many)

    def check_many(self, owners, take):
        """As if one came after the other; if there is not enough, nothing has happened."""
        before, expected = (list(self.leased), list(self.past)), []
        for owner in owners:
            expected.append([self.expect(owner, version) for version in (4, 6)])
        try:
            assert [[address.ip for address in addresses] for addresses in take(owners)] == expected
        except NoFreeAddress:
            assert any(None in addresses for addresses in expected)
            self.leased, self.past = before

    @rule(owner=OWNERS, version=st.sampled_from([4, 6]), data=st.data())
    def claim(self, owner, version, data):
        ip = data.draw(st.sampled_from(CLAIMABLE[version]))
        holder = {entry[0]: entry[1] for entry in self.leased}.get(ip)
        try:
            assert self.book.claim(owner, ip).ip == ip
        except LeaseTaken as error:
            assert error.owner == holder != owner
        else:
            assert holder in (None, owner)
            if holder is None:
                self.hand(ip, owner)

    @rule(owner=OWNERS)
    def release(self, owner):
        mine = [entry for entry in self.leased if entry[1] == owner]
        assert [(lease.address.ip, lease.owner) for lease in self.book.release(owner)] == pairs(mine)
        self.end(mine)

    @rule(owners=st.lists(OWNERS, max_size=5))
    def release_many(self, owners):
        found, expected = self.book.release_many(owners), []
        for owner in owners:
            mine = [entry for entry in self.leased if entry[1] == owner]
            expected += pairs(mine)
            self.end(mine)
        assert [(lease.address.ip, lease.owner) for lease in found] == expected

    @rule(version=st.sampled_from([4, 6]), data=st.data())
    def release_address(self, version, data):
        ip = data.draw(st.sampled_from(CLAIMABLE[version]))
        mine = [entry for entry in self.leased if entry[0] == ip]
        found = self.book.release_address(ip)
        assert ([] if found is None else [(found.address.ip, found.owner)]) == pairs(mine)
        self.end(mine)

    @rule(alive=st.sets(OWNERS, min_size=5))
    def collect(self, alive):
        gone = [entry for entry in self.leased if entry[1] not in alive]
        assert {(lease.address.ip, lease.owner) for lease in self.book.collect(alive.__contains__)} == set(pairs(gone))
        self.end(gone)

    @invariant()
    def nobody_has_what_another_has(self):
        found = self.book.leases()
        assert sorted((lease.address.ip, lease.owner) for lease in found) == sorted(pairs(self.leased))
        assert len({lease.address.ip for lease in found}) == len(found)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=settings.default.max_examples * 2, stateful_step_count=40)


def test_the_errors_are_of_the_family():
    assert issubclass(NoFreeAddress, NsnetError) and issubclass(LeaseTaken, NsnetError)
    assert isinstance(pools(["10.0.0.1/24"])[0], Pool)

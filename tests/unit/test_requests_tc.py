"""What the requests for queueing disciplines, classes and filters ask; and what would be set in vain."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ANY_TEXT, refused

from nsnet import requests, rtnl
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.requests import tc

EXCL, REPLACE = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL, rtnl.NLM_F_CREATE | rtnl.NLM_F_REPLACE
TICK = 64e-9
MBIT = 125000                           # bytes per second


def body(request):
    return rtnl.LAYOUTS[request.type].decode(request.payload)


def qdisc(kind, **options):
    return body(requests.add_qdisc(2, "it", kind, options=options)).attrs["options"]


def htb_class(**options):
    return body(requests.add_class(2, "it", "htb", classid="1:10", parent="1:", options=options)).attrs["options"]


def u32(**options):
    return body(requests.add_u32_filter(2, "it", **{"parent": "root", **options}))


# --- handles ---

@pytest.mark.parametrize("text, handle", [("1:", 0x10000), ("1:10", 0x10010), ("ffff:fff2", 0xFFFFFFF2), (":10", 0x10),
                                          ("aBc:", 0xABC0000), (0x10010, 0x10010)])
def test_a_handle_is_written_as_tc_writes_it(text, handle):
    assert body(requests.del_class(2, "it", classid=text)).header.handle == handle


@pytest.mark.parametrize("text",
                         ["", ":", "1", "1:2:3", "10000:", "1:10000", "g:", "1_0:", " 1:", "1:\n", "١:", "root", None,
                          1.5])
def test_what_is_no_handle_is_refused(text):
    assert f"classid {text!r}" in refused(requests.del_class, 2, "it", classid=text)


@given(ANY_TEXT)
def test_any_text_as_a_handle_is_a_request_or_a_refusal(text):
    for ask in (lambda: requests.del_class(2, "it", classid=text), lambda: requests.del_qdisc(2, "it", handle_=text),
                lambda: requests.list_filters(2, text), lambda: requests.add_qdisc(2, "it", "tbf", parent=text)):
        try:
            assert 0 <= body(ask()).header.handle < 2**32
        except UsageError as error:
            assert repr(text) in str(error) or "tbf: expected" in str(error)


def test_root_is_another_number_for_a_qdisc_than_for_a_filter():
    """TC_H_ROOT begins like the handle of "ingress": of a filter it would be that one's."""
    assert body(requests.add_qdisc(2, "it", "htb")).header.parent == 0xFFFFFFFF
    assert body(requests.del_qdisc(2, "it")).header.parent == 0xFFFFFFFF
    assert body(requests.list_filters(2, "root")).header.parent == 0
    assert u32(parent="root").header.parent == 0
    assert u32(parent="ingress").header.parent == 0xFFFFFFF2 and u32(parent="egress").header.parent == 0xFFFFFFF3
    assert "'ingress'" in refused(requests.add_qdisc, 2, "it", "htb", parent="ingress")


# --- queueing disciplines ---

def test_a_qdisc_is_asked_for_at_its_place():
    request = requests.add_qdisc(2, "eth0", "htb", handle_="1:", parent="2:5")
    assert body(request).header == (0, 2, 0x10000, 0x20005, 0)
    assert (request.flags, request.kind, request.words) == (EXCL, "htb", "add qdisc htb on eth0")
    assert requests.add_qdisc(2, "eth0", "htb", ensure=True).flags == REPLACE


@pytest.mark.parametrize("kind", ["ingress", "clsact"])
def test_the_place_of_ingress_is_fixed_and_it_has_no_options(kind):
    assert body(requests.add_qdisc(2, "it", kind)).header == (0, 2, 0xFFFF0000, 0xFFFFFFF1, 0)
    assert body(requests.add_qdisc(2, "it", kind)).attrs == {"kind": kind}
    assert body(requests.del_qdisc(2, "it", parent=kind)).header.parent == 0xFFFFFFF1
    assert "its place is fixed" in refused(requests.add_qdisc, 2, "it", kind, handle_="1:")
    assert "its place is fixed" in refused(requests.add_qdisc, 2, "it", kind, parent="1:1")
    assert "'rate'" in refused(requests.add_qdisc, 2, "it", kind, options={"rate": 1})


def test_a_handle_of_a_qdisc_has_no_minor_number():
    assert "'1:1'" in refused(requests.add_qdisc, 2, "it", "htb", handle_="1:1")


def test_a_token_bucket_holds_what_latency_lets_wait():
    options = qdisc("tbf", rate=MBIT, burst=10000, latency=0.05)
    assert options["parms"].limit == MBIT // 20 + 10000 and options["burst"] == 10000
    assert options["parms"].buffer == round(10000 / MBIT / TICK) and options["parms"].rate_rate == MBIT
    assert qdisc("tbf", rate=MBIT, burst=10000, limit=7)["parms"].limit == 7


def test_a_peak_rate_shortens_the_queue_too():
    """Of latency, tc(8) takes what either bucket lets through: the packet that waits longest waits for both."""
    options = qdisc("tbf", rate=MBIT, burst=100000, latency=0.05, peakrate=2 * MBIT, mtu=1514)
    assert options["parms"].limit == 2 * MBIT // 20 + 1514
    assert options["parms"].peakrate_rate == 2 * MBIT and options["pburst"] == 1514
    assert options["parms"].mtu == round(1514 / (2 * MBIT) / TICK)


@pytest.mark.parametrize("rate", [2**32 - 1, 2**32, 2**40])
def test_a_rate_beyond_32_bits_has_an_attribute_of_its_own(rate):
    options = qdisc("tbf", rate=rate, burst=10**6, limit=10**6, peakrate=rate + 1, mtu=2000)
    assert options["parms"].rate_rate == 2**32 - 1
    assert options.get("rate64") == (rate if rate >= 2**32 else None) and options["prate64"] == rate + 1
    options = htb_class(rate=rate, ceil=rate + 1)
    assert options.get("rate64") == (rate if rate >= 2**32 else None) and options["ceil64"] == rate + 1


BUCKET = {"rate": MBIT, "burst": 10000, "limit": 9}


@pytest.mark.parametrize("options, named", [
    ({}, "qdisc tbf: expected rate"), ({"rate": MBIT}, "qdisc tbf: expected burst"),
    ({**BUCKET, "speed": 1}, "'speed'"),
    ({**BUCKET, "latency": 1}, "not both"), ({"rate": MBIT, "burst": 1}, "latency or limit"),
    ({**BUCKET, "mtu": 5}, "together"),
    ({**BUCKET, "peakrate": MBIT, "mtu": 5}, f"peakrate {MBIT}"), ({**BUCKET, "rate": 0}, "rate 0"),
    ({**BUCKET, "rate": 2**64}, str(2**64)), ({**BUCKET, "burst": 0}, "burst 0"),
    ({**BUCKET, "burst": 2**32 - 1}, "burst"),
    *[({"rate": MBIT, "burst": 10000, "latency": odd}, "latency")
      for odd in (0, -1, float("nan"), 1e6, "1", True, None)]], ids=repr)
def test_what_is_no_token_bucket_is_refused(options, named):
    assert named in refused(requests.add_qdisc, 2, "it", "tbf", options=options)


@given(st.integers(1, 2**64 - 1), st.integers(1, 2**32 - 1))
def test_any_rate_and_burst_is_a_bucket_or_a_refusal(rate, burst):
    try:
        parms = qdisc("tbf", rate=rate, burst=burst, limit=1)["parms"]
    except UsageError as error:
        assert f"burst {burst}" in str(error) and burst / rate > 274
    else:
        assert parms.buffer == round(burst / rate / TICK)


def test_a_kind_without_a_table_takes_bytes():
    assert qdisc("fq", options=b"\1\2\3\4") == b"\1\2\3\4"
    for options in ({"limit": 7}, {"options": "text"}, {"options": b"", "limit": 7}):
        assert "expected none, or 'options' as bytes" in refused(requests.add_qdisc, 2, "it", "fq", options=options)
    for kind in ("", "a b", "x" * 16, None, "a\n"):
        assert repr(kind) in refused(requests.add_qdisc, 2, "it", kind)


def test_an_htb_that_is_as_asked_is_known():
    """The kernel cannot change one: what is there already must be known before."""
    def there(**other):
        header = {"ifindex": 2, "handle": 0x10000, "parent": 0xFFFFFFFF, **other.pop("header", {})}
        init = {"version": 0x30011, "rate2quantum": 10, "defcls": 7, "direct_pkts": 99, **other}
        return body(Request(rtnl.RTM_NEWQDISC, 0, rtnl.TC_BODY.encode(
            (header, {"kind": "htb", "options": {"init": init}})), "there"))
    wanted = requests.add_qdisc(2, "it", "htb", options={"default": 7})
    assert tc.is_there(wanted, there())
    for other in ({"defcls": 8}, {"rate2quantum": 1}, {"header": {"parent": 0x10001}}):
        assert not tc.is_there(wanted, there(**other))
    assert not tc.is_there(requests.add_qdisc(2, "it", "htb", handle_="2:", options={"default": 7}), there())


# --- classes ---

@pytest.mark.parametrize("classid, parent, handle", [
    ("1:10", "1:1", 0x10001), ("1:10", ":1", 0x10001), (":10", "1:1", 0x10001), (":10", ":1", 1), ("1:10", "1:", None),
    ("1:10", "root", None), ("1:10", "1:10", 0x10010)])
def test_the_parent_of_a_class_is_asked_for_by_its_handle(classid, parent, handle):
    question = tc.get_parent(requests.add_class(2, "it", "htb", classid=classid, parent=parent, options={"rate": 1000}))
    if handle is None:
        assert question is None
    else:
        assert (question.type, question.flags, body(question).header) == (rtnl.RTM_GETTCLASS, 0, (0, 2, handle, 0, 0))


def test_a_request_that_makes_the_class_is_known():
    def add(index, classid, parent="root"):
        return requests.add_class(index, "it", "htb", classid=classid, parent=parent, options={"rate": 1000})
    wanted = tc.get_parent(add(2, "1:10", "1:1"))
    assert tc.makes_class(add(2, "1:1"), wanted) and tc.makes_class(add(2, ":1"), wanted)
    for other in (add(3, "1:1"), add(2, "2:1"), add(2, "1:10"), requests.del_class(2, "it", classid="1:1"),
                  requests.add_qdisc(2, "it", "htb"), requests.list_links()):
        assert not tc.makes_class(other, wanted)


def test_a_bucket_holds_what_is_sent_in_a_tick():
    """Of less the kernel would make nothing at all."""
    assert "burst 31: expected at least 64" in refused(htb_class, rate=10**9, burst=31)
    assert "cburst 31: expected at least 64" in refused(htb_class, rate=10**9, cburst=31)
    assert htb_class(rate=10**9, burst=64)["parms"].buffer == 1
    assert "burst 31: expected at least 64" in refused(u32, policer={"rate": 10**9, "burst": 31})
    assert qdisc("tbf", rate=10**9, burst=31, limit=1)["burst"] == 31, "a tbf is told in bytes too"


def test_a_class_is_asked_for_below_its_parent():
    request = requests.add_class(2, "eth0", "htb", classid="1:10", parent="1:1",
                                 options={"rate": MBIT, "ceil": 2 * MBIT})
    assert body(request).header == (0, 2, 0x10010, 0x10001, 0)
    assert (request.flags, request.words, request.kind) == (EXCL, "add class 1:10 on eth0", None)
    parms = body(request).attrs["options"]["parms"]
    assert (parms.rate_rate, parms.ceil_rate) == (MBIT, 2 * MBIT)
    assert parms.buffer == round((MBIT // 1000 + 1600) / MBIT / TICK)
    assert requests.del_class(2, "eth0", classid=0x10010).words == "delete class 1:10 of eth0"


def test_the_buckets_of_a_class_may_be_given():
    parms = htb_class(rate=MBIT, ceil=2 * MBIT, burst=5000, cburst=6000, prio=3, quantum=7)["parms"]
    assert parms.buffer == round(5000 / MBIT / TICK) and parms.cbuffer == round(6000 / (2 * MBIT) / TICK)
    assert (parms.prio, parms.quantum) == (3, 7)
    assert htb_class(rate=1)["parms"].buffer == 2**32 - 1, "the default of a rate that low is as long as can be"


@pytest.mark.parametrize("options, named", [
    ({}, "htb class: expected rate"), ({"rate": MBIT, "ceil": MBIT - 1}, f"ceil {MBIT - 1}"), ({"rate": 0}, "rate 0"),
    ({"rate": MBIT, "latency": 1}, "'latency'"), ({"rate": 1, "burst": 9999}, "burst 9999"),
    ({"rate": 1, "cburst": 9999}, "cburst 9999")], ids=repr)
def test_what_is_no_class_is_refused(options, named):
    assert named in refused(requests.add_class, 2, "it", "htb", classid="1:10", parent="1:", options=options)
    assert "'1:'" in refused(requests.add_class, 2, "it", "htb", classid="1:", parent="1:", options={"rate": 1})
    assert "'drr'" in refused(requests.add_class, 2, "it", "drr", classid="1:1", parent="1:", options={"rate": 1})


# --- filters ---

def test_words_are_compared_in_network_order():
    found = u32(src="10.0.0.0/8", dst="10.9.0.1", match=[(0x0000FF00, 0x0000FFFF, -4)], protocol="ip", priority=7,
                classid="1:10")
    head, keys = found.attrs["options"]["sel"]
    wanted = [("10.0.0.0", "255.0.0.0", 12), ("10.9.0.1", "255.255.255.255", 16), ("0.0.255.0", "0.0.255.255", -4)]
    assert [(key.val, key.mask, key.off) for key in keys] == [
        (int.from_bytes(socket.inet_aton(value), "little" if key_order_is_little() else "big"),
         int.from_bytes(socket.inet_aton(mask), "little" if key_order_is_little() else "big"), offset)
        for value, mask, offset in wanted]
    assert (head.flags, head.nkeys, found.attrs["options"]["classid"]) == (1, 3, 0x10010)
    assert found.header.info == 7 << 16 | socket.htons(0x0800)


def key_order_is_little():
    return socket.htons(1) != 1


def test_a_filter_without_a_key_matches_everything():
    head, keys = u32().attrs["options"]["sel"]
    assert head.nkeys == 1 and [(key.val, key.mask) for key in keys] == [(0, 0)]
    assert u32(protocol="all").header.info == socket.htons(3)


@pytest.mark.parametrize("options, named", [
    ({"src": "10.0.0.0/8"}, "'all'"), ({"src": "fd00::/8", "protocol": "ip"}, "'fd00::/8'"),
    ({"match": [(1, 2)]}, "(1, 2)"),
    ({"dst": "10.0.0.1/8", "protocol": "ip"}, "'10.0.0.1/8'"), ({"match": 7}, "match 7"),
    ({"match": [(2, 1, 0)]}, "value 2"),
    ({"match": [(0, 0, 2)]}, "offset 2"), ({"match": [(0, 0, 2**15)]}, "32768"),
    ({"match": [(0, 2**32, 0)]}, str(2**32)),
    ({"match": [(0, 0, 0)] * 129}, "129"), ({"protocol": 0}, " 0:"), ({"protocol": "ipx"}, "'ipx'"),
    ({"protocol": [1]}, "[1]"),
    ({"parent": "clsact"}, "'clsact'"), ({"policer": {"rate": 1}}, "police: expected burst"),
    ({"policer": 7}, "police 7"),
    ({"policer": {"rate": 1, "burst": 1, "foo": 1}}, "'foo'")], ids=repr)
def test_what_is_no_filter_is_refused(options, named):
    assert named in refused(u32, **options)


def test_a_protocol_may_be_a_number():
    assert u32(protocol=0x0800, src="10.0.0.0/8").header.info == socket.htons(0x0800)


def test_a_policer_has_a_table_though_the_kernel_computes():
    options = u32(policer={"rate": MBIT, "burst": 10000, "mtu": 2000, "action": "pipe"}).attrs["options"]["police"]
    assert (options["tbf"].rate_rate, options["tbf"].mtu, options["tbf"].action) == (MBIT, 2000, 3)
    assert len(options["rate"]) == 1024 and options["tbf"].rate_cell_log == 3
    assert options["tbf"].burst == round(10000 / MBIT / TICK)


def test_a_program_is_a_filter_by_its_descriptor_and_a_name():
    request = requests.add_bpf_filter(2, "eth0", parent="ingress", prog_fd=5, name="drop", classid="1:1", priority=7)
    assert body(request).attrs == {"kind": "bpf", "options": {"fd": 5, "name": "drop", "flags": 1, "classid": 0x10001}}
    assert request.kind == "bpf"
    assert "flags" not in body(requests.add_bpf_filter(2, "it", parent="root", prog_fd=5, name="a",
                                                       direct_action=False)).attrs["options"]
    for name in ("", "x" * 256, "a\0", None):
        assert repr(name) in refused(requests.add_bpf_filter, 2, "it", parent="root", prog_fd=5, name=name)


def test_filters_are_deleted_all_or_by_priority_or_one():
    assert body(requests.del_filter(2, "it", parent="root")) == ((0, 2, 0, 0, 0), {})
    one = requests.del_filter(2, "it", parent="1:", protocol="ip", priority=7, kind="u32", handle_=0x80000800)
    assert body(one) == ((0, 2, 0x80000800, 0x10000, 7 << 16 | socket.htons(0x0800)), {"kind": "u32"})


@pytest.mark.parametrize("options", [{"protocol": "ip"}, {"kind": "u32"}, {"handle_": 7}], ids=repr)
def test_only_with_a_priority_is_it_one_filter(options):
    """The kernel says ENOENT to these, which would pass for a filter that is gone already."""
    assert "expected priority" in refused(requests.del_filter, 2, "it", parent="root", missing_ok=True, **options)


def test_lists_are_of_a_link_where_the_kernel_has_it_so():
    assert body(requests.list_classes(7)).header.ifindex == body(requests.list_filters(7, "1:")).header.ifindex == 7
    assert body(requests.list_qdiscs()).header.ifindex == 0


def test_the_class_for_the_rest_of_an_htb_may_be_written_as_its_name():
    def defcls(default):
        options = {"default": default}
        return rtnl.TC_BODY.decode(requests.add_qdisc(2, "it", "htb", options=options).payload).attrs["options"]["init"].defcls
    assert defcls("1:30") == defcls(0x30) == 0x30


def test_a_latency_beyond_what_the_kernel_can_hold_is_refused():
    """400 for 400 ms would otherwise become the 34 s that 4 GiB last."""
    options = {"rate": 125_000_000, "burst": 10_000, "latency": 400}
    assert "34.4 seconds" in refused(requests.add_qdisc, 2, "it", "tbf", options=options)

"""One batch as pure state: which answer belongs to which request, what it means, and when the talk is over."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ack, done, fed, refused

from nsnet import rtnl
from nsnet.errors import (AlreadyExists, NetlinkError, NoSuchObject, NotPermitted, NotSupported, ProtocolError)
from nsnet.exchange import Exchange, Request, raise_errors
from nsnet.wire import encode_attribute, encode_message, messages

LAST_SEQ = 2**32 - 1


def link(type=rtnl.RTM_NEWLINK, flags=0, words="add it", tolerate=(), **attrs):
    return Request(type, flags, rtnl.LINK_BODY.encode(({}, attrs)), words, frozenset(tolerate))


ADD, SET = link(ifname="br0", linkinfo={"kind": "bridge"}), link(rtnl.RTM_SETLINK, words="set it", mtu=1400)
DELETE = link(rtnl.RTM_DELLINK, words="delete it", tolerate={errno.ENODEV})
LIST = link(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, words="list links")


def one_link(seq, flags=rtnl.NLM_F_MULTI, ifname="br0"):
    """A line of a dump."""
    return encode_message(rtnl.RTM_NEWLINK, flags, seq, rtnl.LINK_BODY.encode(({}, {"ifname": ifname})))


def error_of(exchange, position=0):
    return exchange.outcomes[position].error


def offset_of(request, tail):
    """Where `tail` begins in a request, as the kernel counts: from the beginning of its nlmsghdr."""
    return 16 + request.payload.index(tail)


# --- what is sent ---

def test_sequence_numbers_count_up_and_only_the_last_message_asks_for_an_answer():
    sent = list(messages(Exchange([ADD, SET, DELETE], 7).data))
    assert [message.seq for message in sent] == [7, 8, 9]
    assert [bool(message.flags & rtnl.NLM_F_ACK) for message in sent] == [False, False, True]
    assert all(message.flags & rtnl.NLM_F_REQUEST for message in sent)
    assert [(message.type, message.payload) for message in sent] == [
             (one.type, one.payload) for one in (ADD, SET, DELETE)]


def test_a_dump_at_the_end_asks_for_no_acknowledgement():
    *_, last = messages(Exchange([SET, LIST], 1).data)
    assert last.flags == rtnl.NLM_F_REQUEST | rtnl.NLM_F_DUMP


def test_the_bits_of_dump_mean_replace_and_exclusive_in_a_new_message():
    request = link(rtnl.RTM_NEWLINK, rtnl.NLM_F_REPLACE | rtnl.NLM_F_EXCL)
    assert not request.is_dump and LIST.is_dump
    assert not link(rtnl.RTM_GETLINK, rtnl.NLM_F_ROOT).is_dump
    (sent,) = messages(Exchange([request], 1).data)
    assert sent.flags & rtnl.NLM_F_ACK


def test_sequence_numbers_wrap():
    exchange = Exchange([ADD, SET, DELETE], LAST_SEQ)
    assert [message.seq for message in messages(exchange.data)] == [LAST_SEQ, 0, 1]
    assert exchange.last_seq == 1
    exchange.feed(ack(LAST_SEQ, errno.EEXIST) + ack(0, errno.EPERM))
    assert not exchange.done
    exchange.feed(ack(1))
    assert exchange.done
    assert [type(outcome.error) for outcome in exchange.outcomes] == [AlreadyExists, NotPermitted, type(None)]


def test_an_empty_batch_is_refused():
    assert "at least one request" in refused(Exchange, [], 1)


# --- acknowledgements and errors ---

def test_the_last_acknowledgement_ends_the_talk():
    exchange = Exchange([ADD, SET], 1)
    assert not exchange.done
    exchange.feed(ack(2))
    assert exchange.done
    raise_errors(exchange.outcomes)             # none


def test_an_error_of_an_earlier_request_does_not_end_it():
    exchange = fed([ADD, SET], ack(1, errno.EEXIST))
    assert not exchange.done
    exchange.feed(ack(2))
    assert exchange.done and error_of(exchange, 1) is None
    with pytest.raises(AlreadyExists, match=r"add it: File exists \(EEXIST\)"):
        raise_errors(exchange.outcomes)


def test_an_error_of_the_last_request_ends_it():
    exchange = fed([ADD, SET], ack(2, errno.EPERM))
    assert exchange.done and isinstance(error_of(exchange, 1), NotPermitted)


@pytest.mark.parametrize("number, kind", [
    (errno.EEXIST, AlreadyExists), (errno.EPERM, NotPermitted), (errno.EACCES, NotPermitted),
    (errno.ENODEV, NoSuchObject), (errno.ENOENT, NoSuchObject), (errno.ESRCH, NoSuchObject),
    (errno.EADDRNOTAVAIL, NoSuchObject), (errno.EBUSY, NetlinkError)])
def test_an_errno_has_its_class(number, kind):
    error = error_of(fed([ADD], ack(1, number)))
    assert type(error) is kind and error.errno == number and error.request == "add it"


def test_several_errors_are_one_with_the_others_in_also():
    exchange = fed([ADD, SET, DELETE], ack(1, errno.EEXIST), ack(2, errno.EPERM) + ack(3, errno.EBUSY))
    with pytest.raises(AlreadyExists) as caught:
        raise_errors(exchange.outcomes)
    assert [(type(error), error.request) for error in caught.value.also] == [
        (NotPermitted, "set it"), (NetlinkError, "delete it")]
    assert caught.value.also[0].also == []


def test_what_is_tolerated_is_success_and_is_told():
    exchange = fed([DELETE], ack(1, errno.ENODEV))
    assert exchange.done and error_of(exchange) is None and exchange.outcomes[0].tolerated == errno.ENODEV
    raise_errors(exchange.outcomes)


def test_only_what_is_tolerated_is_success():
    exchange = fed([DELETE, ADD], ack(1, errno.EPERM), ack(2, errno.ENODEV))
    assert isinstance(error_of(exchange, 0), NotPermitted) and isinstance(error_of(exchange, 1), NoSuchObject)
    assert [outcome.tolerated for outcome in exchange.outcomes] == [0, 0]


@pytest.mark.parametrize("number", [-1, 4096, -2**31 + 1, 2**31])
def test_an_errno_that_cannot_be_one_is_a_protocol_error(number):
    payload = struct.pack("=i", -number) + bytes(16)
    with pytest.raises(ProtocolError, match="errno"):
        fed([ADD], encode_message(rtnl.NLMSG_ERROR, 0, 1, payload))


def test_a_short_error_is_a_protocol_error():
    with pytest.raises(ProtocolError):
        fed([ADD], encode_message(rtnl.NLMSG_ERROR, 0, 1, bytes(19)))


def test_an_overrun_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="lost"):
        fed([ADD], encode_message(rtnl.NLMSG_OVERRUN, 0, 1, b""))


# --- the kernel's words ---

def answered(request, capped, **attrs):
    """The error for a refused request, whose answer repeats the request or only its header."""
    whole = Exchange([request], 1).data
    return error_of(fed([request], ack(1, errno.EINVAL, whole, rtnl.NLM_F_CAPPED if capped else 0, attrs)))


both_ways = pytest.mark.parametrize("capped", [True, False], ids=["capped", "uncapped"])


@both_ways
def test_the_kernels_sentence_is_in_the_error(capped):
    error = answered(ADD, capped, msg="Unknown device type")
    assert error.extack == "Unknown device type" and error.attribute is None
    assert str(error) == "add it: Invalid argument (EINVAL): Unknown device type"


@both_ways
def test_the_attribute_that_is_blamed_is_in_the_error(capped):
    request = link(linkinfo={"kind": "bridge", "data": {"stp_state": 1, "priority": 7}})
    error = answered(request, capped, msg="bad", offs=offset_of(request, struct.pack("=HHH", 6, 6, 7)))
    assert error.attribute == "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_PRIORITY"
    assert str(error) == ("add it: Invalid argument (EINVAL): bad, attribute "
                          "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_PRIORITY")


@both_ways
def test_a_request_whose_length_is_no_multiple_of_four_is_stepped_over(capped):
    request = Request(rtnl.RTM_NEWLINK, 0, rtnl.IFINFOMSG.encode() + encode_attribute(3, b"a")[:5], "add it")
    assert answered(request, capped, msg="said").extack == "said"


def test_an_offset_outside_of_all_attributes_blames_none():
    for offset in (0, 16, 31, 4096, 2**32 - 1):
        assert answered(ADD, True, msg="bad", offs=offset).attribute is None


def test_an_empty_sentence_is_none():
    error = answered(ADD, True, msg="")
    assert error.extack is None and str(error) == "add it: Invalid argument (EINVAL)"


def test_a_missing_attribute_is_named():
    assert answered(ADD, True, miss_type=3).attribute == "IFLA_IFNAME (missing)"
    assert answered(ADD, True, miss_type=9999).attribute == "type 9999 (missing)"


def test_a_missing_attribute_is_named_with_the_nest_that_lacks_it():
    nest = offset_of(ADD, struct.pack("=HH", 4 + 4 + 8, 18))        # IFLA_LINKINFO, with 8 bytes for "bridge"
    assert answered(ADD, True, miss_type=2, miss_nest=nest).attribute == "IFLA_LINKINFO.IFLA_INFO_DATA (missing)"
    assert answered(ADD, True, miss_type=3, miss_nest=0).attribute == "IFLA_IFNAME (missing)"


def test_a_request_without_a_layout_blames_no_attribute():
    request = Request(126, 0, b"", "do it")                         # nothing that rtnl has a layout for
    error = answered(request, True, msg="no", offs=20, miss_type=1)
    assert error.attribute is None and error.extack == "no"


def test_a_request_that_no_table_understands_gets_the_kernels_error_all_the_same():
    request = Request(rtnl.RTM_NEWLINK, 0, rtnl.IFINFOMSG.encode() + b"\1\0\3\0", "do it")
    error = answered(request, True, msg="invalid length", offs=32, miss_type=3, miss_nest=32)
    assert error.extack == "invalid length" and error.attribute is None


def test_a_cookie_is_kept_for_programs_and_not_shown_to_people():
    error = answered(ADD, True, cookie=b"abc", policy={})
    assert str(error) == "add it: Invalid argument (EINVAL)" and error.cookie == b"abc"
    exchange = fed([ADD], ack(1, attrs={"cookie": b"xyz"}))
    assert exchange.outcomes[0].cookie == b"xyz" and exchange.outcomes[0].error is None
    assert fed([ADD], ack(1)).outcomes[0].cookie is None


@pytest.mark.parametrize("number, words, kind", [
    (errno.EOPNOTSUPP, "Unknown device type", "dummy"), (errno.EOPNOTSUPP, "", "vlan"),
    (errno.ENOENT, "Specified qdisc kind is unknown", "netem"), (errno.ENOENT, "TC classifier not found", "flower"),
    (errno.ENOENT, "Failed to load TC action module", "u32")])
def test_a_kind_that_the_kernel_lacks_is_not_supported_and_named(number, words, kind):
    request = ADD._replace(kind=kind)
    error = error_of(fed([request], ack(1, number, flags=rtnl.NLM_F_CAPPED, attrs={"msg": words})))
    assert type(error) is NotSupported and error.errno == number
    assert ("this kernel has no " if words else "or something that was asked of it") in str(error)
    assert ("such action" if "action" in words else repr(kind)) in str(error)


def test_what_is_missing_for_another_reason_is_no_lack_of_a_kind():
    request = ADD._replace(kind="htb")
    error = error_of(fed([request], ack(1, errno.ENOENT, flags=rtnl.NLM_F_CAPPED, attrs={"msg": "Failed to find qdisc"})))
    assert type(error) is NoSuchObject
    assert type(error_of(fed([ADD], ack(1, errno.EOPNOTSUPP)))) is NotSupported     # of no kind in particular


def test_words_with_an_acknowledgement_are_a_warning_and_no_error():
    exchange = fed([ADD], ack(1, 0, flags=rtnl.NLM_F_CAPPED, attrs={"msg": "deprecated"}))
    assert exchange.done and error_of(exchange) is None and exchange.outcomes[0].warning == "deprecated"


def test_attributes_are_read_only_where_the_flag_says_that_there_are_some():
    (message,) = messages(ack(1, errno.EINVAL, flags=rtnl.NLM_F_CAPPED, attrs={"msg": "said"}))
    assert error_of(fed([ADD], message.encode())).extack == "said"
    unflagged = message._replace(flags=rtnl.NLM_F_CAPPED)
    assert error_of(fed([ADD], unflagged.encode())).extack is None


def test_malformed_attributes_are_a_protocol_error():
    payload = struct.pack("=i", -errno.EINVAL) + bytes(16) + \
                          encode_attribute(2, b"\1")     # NLMSGERR_ATTR_OFFS of a byte
    with pytest.raises(ProtocolError):
        fed([ADD], encode_message(rtnl.NLMSG_ERROR, rtnl.NLM_F_CAPPED | rtnl.NLM_F_ACK_TLVS, 1, payload))


def test_a_request_longer_than_the_answer_leaves_no_room_for_words():
    payload = struct.pack("=iIHHII", -errno.EINVAL, 0xFFFFFFFF, rtnl.RTM_NEWLINK, 0, 1, 0)
    assert error_of(fed([ADD], encode_message(rtnl.NLMSG_ERROR, rtnl.NLM_F_ACK_TLVS, 1, payload))).extack is None


# --- dumps ---

def test_a_dump_is_gathered_until_done():
    exchange = fed([LIST], one_link(1, ifname="a") + one_link(1, ifname="b"), one_link(1, ifname="c"))
    assert not exchange.done
    exchange.feed(done(1))
    assert exchange.done and not exchange.outcomes[0].interrupted
    names = [rtnl.LINK_BODY.decode(reply.payload).attrs["ifname"] for reply in exchange.outcomes[0].replies]
    assert names == ["a", "b", "c"]


def test_a_dump_may_end_with_an_error():
    exchange = fed([LIST], one_link(1), done(1, -errno.EINVAL, {"msg": "Unsupported attribute in link dump request"}))
    assert exchange.done
    with pytest.raises(NetlinkError, match=r"list links: Invalid argument \(EINVAL\): Unsupported attribute"):
        raise_errors(exchange.outcomes)


def test_a_dump_that_ends_with_an_error_blames_an_attribute():
    request = link(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, words="list links", mtu=5)
    exchange = fed([request], done(1, -errno.EINVAL, {"msg": "no", "offs": 32}))
    assert error_of(exchange).attribute == "IFLA_MTU"


def test_a_dump_may_be_refused_at_once():
    exchange = fed([LIST], ack(1, errno.EPERM))
    assert exchange.done and isinstance(error_of(exchange), NotPermitted)


def test_a_dump_without_a_status_is_well():
    exchange = fed([LIST], encode_message(rtnl.NLMSG_DONE, rtnl.NLM_F_MULTI, 1, b""))
    assert exchange.done and error_of(exchange) is None


def test_a_dump_may_end_with_what_is_tolerated():
    request = link(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, tolerate={errno.ENODEV})
    exchange = fed([request], done(1, -errno.ENODEV))
    assert error_of(exchange) is None and exchange.outcomes[0].tolerated == errno.ENODEV


@pytest.mark.parametrize("where", ["line", "done"])
def test_an_inconsistent_dump_is_told(where):
    flag = rtnl.NLM_F_MULTI | rtnl.NLM_F_DUMP_INTR
    line = one_link(1, flag if where == "line" else rtnl.NLM_F_MULTI)
    end = encode_message(rtnl.NLMSG_DONE, flag if where == "done" else rtnl.NLM_F_MULTI, 1, bytes(4))
    exchange = fed([LIST], line + end)
    assert exchange.done and exchange.outcomes[0].interrupted and error_of(exchange) is None


def test_an_impossible_status_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="errno 4096"):
        fed([LIST], done(1, -4096))


def test_a_dump_may_be_the_end_of_a_batch():
    exchange = fed([ADD, LIST], ack(1, errno.EEXIST), one_link(2), done(2))
    assert exchange.done and isinstance(error_of(exchange, 0), AlreadyExists)
    assert len(exchange.outcomes[1].replies) == 1 and not exchange.outcomes[0].replies


# --- what is not for us ---

def test_answers_to_nobody_are_ignored():
    exchange = fed([ADD], ack(0, errno.EPERM), ack(2, errno.EPERM), done(LAST_SEQ), one_link(5))
    assert not exchange.done and error_of(exchange) is None and not exchange.outcomes[0].replies


def test_noop_is_ignored():
    exchange = fed([ADD], encode_message(rtnl.NLMSG_NOOP, 0, 1, b""))
    assert not exchange.done and not exchange.outcomes[0].replies


def test_answers_go_to_their_requests_in_any_order():
    exchange = fed([ADD, SET, DELETE], ack(2, errno.EPERM), ack(1, errno.EEXIST), ack(3))
    assert [type(outcome.error) for outcome in exchange.outcomes] == [AlreadyExists, NotPermitted, type(None)]


@given(st.integers(0, LAST_SEQ), st.lists(st.sampled_from([0, errno.EEXIST, errno.EPERM, errno.ENODEV]), min_size=1,
                                          max_size=8), st.data())
def test_every_outcome_is_its_own_whatever_the_datagrams(first_seq, errors, data):
    """Errors come in any grouping into datagrams, among answers to nobody; the last answer ends the talk."""
    exchange = Exchange([ADD] * len(errors), first_seq)
    answers = [ack((first_seq + position) & LAST_SEQ, number)
               for position, number in enumerate(errors) if number or position == len(errors) - 1]
    stray = ack((first_seq + len(errors) + data.draw(st.integers(0, 100))) & LAST_SEQ, errno.EIO)
    answers.insert(data.draw(st.integers(0, len(answers) - 1)), stray)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answers)), max_size=4)) | {len(answers)})
    for start, end in zip([0, *cuts], cuts):
        assert not exchange.done
        exchange.feed(b"".join(answers[start:end]))
    assert exchange.done
    assert [outcome.error.errno if outcome.error else 0 for outcome in exchange.outcomes] == errors


def test_the_first_error_of_a_batch_says_that_there_are_more():
    exchange = fed([ADD, ADD, ADD], ack(1, errno.EEXIST), ack(2, errno.EEXIST), ack(3))
    with pytest.raises(AlreadyExists, match=r"and 1 more of the same batch failed \(\.also\)") as raised:
        raise_errors(exchange.outcomes)
    assert len(raised.value.also) == 1 and "more" not in str(raised.value.also[0])
    assert "error=" in repr(exchange.outcomes[0]) and repr(exchange.outcomes[2]) == "<Outcome: 0 replies>"

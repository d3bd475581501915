"""What explain makes of a real kernel's words: refusals marked at the attribute that is blamed, traces, and captures.

A capture needs an nlmon device. Where the kernel has none (CONFIG_NLMON), what is read is written by the test around
the bytes that a socket carried.
"""

import errno
import json
import os
import re
import socket
import struct
import sys
import time

import pytest

import nsnet
from live_helpers import environment, ifnames, inside, nsnet_argv, run_nsnet
from nsnet import rtnl
from nsnet.exchange import Request
from nsnet.explainer import TracedExchange
from nsnet.wire import encode_attribute, messages

ADD = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
NAME = encode_attribute(3, b"nsnet-x\0")
REFUSED = "Attribute failed policy validation"


def traced(netns, *requests):
    """(what was said, the outcomes) of requests sent together."""
    said = []
    exchange = netns.socket_of_rtnl.talk(lambda first_seq: TracedExchange(requests, first_seq, said.append))
    return "".join(said), exchange.outcomes


def link(payload, flags=ADD, type=rtnl.RTM_NEWLINK):
    return Request(type, flags, rtnl.IFINFOMSG.encode() + payload, "made by hand")


def info(kind, data=b""):
    return encode_attribute(18, encode_attribute(1, kind) + (encode_attribute(2, data) if data else b""))


def the_mark(text):
    """(the name of the attribute above the mark, the mark's words): there is one mark, as long as the name."""
    lines = text.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.strip().startswith("^")]
    arrow, _, words = lines[at].strip().partition(" ")
    name = lines[at - 1].split()[0]
    assert lines[at].index("^") == lines[at - 1].index(name) and len(arrow) == len(name)
    return name, words


# --- refusals ---

MTU_OF_TWO_BYTES = link(NAME + encode_attribute(4, b"\5\0") + info(b"bridge"))


@pytest.mark.parametrize("request_, name, words, path", [
    (MTU_OF_TWO_BYTES, "IFLA_MTU", f"{REFUSED}; it wants U32 0..4294967295", "IFLA_MTU"),
    (link(encode_attribute(3, b"a-name-of-17-bytes\0") + info(b"bridge")), "IFLA_IFNAME",
     f"{REFUSED}; it wants STRING of at most 15 bytes", "IFLA_IFNAME"),
    (link(NAME + info(b"bridge", encode_attribute(5, bytes(4)) + encode_attribute(6, b"\0"))), "IFLA_BR_PRIORITY",
     f"{REFUSED}; it wants U16 0..65535", "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_PRIORITY"),
    (Request(rtnl.RTM_NEWROUTE, ADD, rtnl.RTMSG.encode(family=2, dst_len=24, table=254, type=1)
             + encode_attribute(1, b"\1\2\3"), "made by hand"), "RTA_DST", None, "RTA_DST"),
    (link(encode_attribute(0x8000 | 300, encode_attribute(1, b"a")), 0, rtnl.RTM_GETLINK), "IFLA(300)",
     "Unknown attribute type", "IFLA(300)"),
], ids=["number", "text", "nested", "address", "unknown and nested"])
def test_a_refused_attribute_is_marked(host, request_, name, words, path):
    text, (outcome,) = traced(host, request_)
    marked, said = the_mark(text)
    assert marked == name and (words is None or said == words)
    assert outcome.error.attribute == path and said.startswith(outcome.error.extack)
    assert ifnames(host) == ["lo"]


@pytest.mark.parametrize("request_, number", [
    (link(NAME + encode_attribute(4, struct.pack("=I", 10**7)) + info(b"bridge")), errno.EINVAL),
    (link(NAME + info(b"nosuchkind")), errno.EOPNOTSUPP),
    (Request(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, rtnl.IFINFOMSG.encode(index=1), "made by hand"), errno.EINVAL),
], ids=["too large", "kind", "dump"])
def test_a_refusal_that_blames_no_attribute_has_the_kernels_words_and_no_mark(host, request_, number):
    text, (outcome,) = traced(host, request_)
    assert outcome.error.errno == number and f"NLMSGERR_ATTR_MSG {outcome.error.extack!r}" in text
    assert "^" not in text and f"error {number} " in text


def test_of_a_batch_the_refused_request_is_shown_once_more_and_no_other(host):
    text, _ = traced(host, link(encode_attribute(3, b"br7\0") + info(b"bridge")), MTU_OF_TWO_BYTES,
                     Request(rtnl.RTM_DELLINK, 0, rtnl.IFINFOMSG.encode() + encode_attribute(3, b"br7\0"), "undo"))
    assert text.count("'br7'") == 2 and text.count("'nsnet-x'") == 2 and the_mark(text)[0] == "IFLA_MTU"
    arrows = [line.split()[:2] for line in text.splitlines() if not line.startswith(" ")]
    assert arrows == [["->", "RTM_NEWLINK"], ["->", "RTM_NEWLINK"], ["->", "RTM_DELLINK"], ["<-", "NLMSG_ERROR"],
                      ["<-", "NLMSG_ERROR"]]


def test_what_the_kernel_says_of_its_links_is_explained_without_a_complaint(playground):
    """Real lists, read by nobody but the tables; names as /proc/net/dev has them."""
    left, right = playground.add_veth("left", peer="right")
    bridge = playground.add_bridge("br0", up=True)
    playground.set_link(left, master=bridge, up=True)
    playground.set_link(right, up=True)
    playground.add_address(bridge, "10.0.0.1/24")
    playground.add_route("10.1.0.0/16", via="10.0.0.9")
    for type, layout in ((rtnl.RTM_GETLINK, rtnl.LINK_BODY), (rtnl.RTM_GETADDR, rtnl.ADDR_BODY),
                         (rtnl.RTM_GETROUTE, rtnl.ROUTE_BODY), (rtnl.RTM_GETNEIGH, rtnl.NEIGH_BODY),
                         (rtnl.RTM_GETRULE, rtnl.RULE_BODY), (rtnl.RTM_GETQDISC, rtnl.TC_BODY)):
        text, (outcome,) = traced(playground, Request(type, rtnl.NLM_F_DUMP, layout.encode(({}, {})), "list"))
        assert outcome.error is None
        assert not [line for line in text.splitlines() if line.strip().startswith("!") or " ! " in line]
        if type == rtnl.RTM_GETLINK:
            assert all(f"IFLA_IFNAME {name!r}" in text for name in ifnames(playground))


# --- NSNET_TRACE ---

TRACED = """
import nsnet, sys
from nsnet import rtnl
from nsnet.exchange import Request
with nsnet.Netns.current() as here:
    here.link("lo")
    try:
        here.perform([Request(rtnl.RTM_NEWLINK, 0x600, bytes.fromhex(sys.argv[1]), "made by hand")])
    except nsnet.NetlinkError as error:
        print(error.attribute)
"""


@pytest.mark.parametrize("value, shown", [("1", True), ("0", False), ("", False)], ids=["1", "0", "empty"])
def test_nsnet_trace_shows_what_is_said_and_marks_what_is_refused(host, state, value, shown):
    done = inside(host, [sys.executable, "-c", TRACED, MTU_OF_TWO_BYTES.payload.hex()],
                  env=environment(state, NSNET_TRACE=value))
    assert (done.returncode, done.stdout) == (0, "IFLA_MTU\n")
    if not shown:
        assert done.stderr == ""
        return
    assert [line.split()[:2] for line in done.stderr.splitlines() if not line.startswith(" ")] == [
        ["->", "RTM_GETLINK"], ["<-", "RTM_NEWLINK"], ["<-", "NLMSG_ERROR"],
        ["->", "RTM_NEWLINK"], ["<-", "NLMSG_ERROR"]]
    assert the_mark(done.stderr) == ("IFLA_MTU", f"{REFUSED}; it wants U32 0..4294967295")


WATCHED = """
import nsnet
with nsnet.Netns.current() as here, here.monitor("link") as monitor:
    here.del_link(here.add_ifb("nsnet-it0"))
    while monitor.read(20).action != "del":
        pass
"""


def test_nsnet_trace_2_shows_the_bytes_of_each_message_as_well(host, state):
    """Those of events too; and explained once more they are the same."""
    words, bytes_too = (inside(host, [sys.executable, "-c", WATCHED], env=environment(state, NSNET_TRACE=level))
                        for level in "12")
    assert words.returncode == bytes_too.returncode == 0 and not re.search("^ +([0-9a-f]{2})+$", words.stderr, re.M)
    told = re.split("^(?=[-<])", bytes_too.stderr, flags=re.M)[1:]
    assert {"-> RTM_NEWLINK", "-> RTM_DELLINK", "<- RTM_NEWLINK", "<- RTM_DELLINK", "<- NLMSG_ERROR"} <= {
        " ".join(one.split()[:2]) for one in told}
    for one in told:
        lines, digits = one.splitlines(), []
        while re.fullmatch("     ([0-9a-f]{2}){1,32}", lines[-1]):
            digits.insert(0, lines.pop())
        again = nsnet.explain(bytes.fromhex("".join(digits))).splitlines()
        assert [lines[0][3:], *(line[3:] for line in lines[1:])][:len(again)] == again


# --- captures ---

def write_capture(path, packets):
    """pcap-savefile(5) and tcpdump.org's LINKTYPE_NETLINK. `packets`: (ns, packet type, netlink family, bytes)."""
    with open(path, "wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 253))
        for time_ns, kind, family, data in packets:
            data = struct.pack("!HH10xH", kind, 824, family) + data
            file.write(struct.pack("=IIII", time_ns // 10**9, time_ns % 10**9, len(data), len(data)) + data)
    return path


def has_nlmon(netns):
    """Make an nlmon device that is up, if the kernel has them: nobody but the kernel can say."""
    try:
        netns.add_link("nlmon", "nlmon0", up=True)
    except nsnet.NotSupported as error:
        assert "no 'nlmon'" in str(error)
        return False
    return True


def captured(tap, until_seq):
    """The packets up to the acknowledgement of a sequence number."""
    found = []
    while True:
        data, (_, family, kind, hardware, _) = tap.recvfrom(1 << 17)
        assert hardware == 824
        found.append((time.time_ns(), kind, family, data))
        if family == 0 and any(one.type == rtnl.NLMSG_ERROR and one.seq == until_seq for one in messages(data)):
            return found


def test_what_a_real_nlmon_captured_is_explained(playground, state, tmp_path):
    if not has_nlmon(playground):
        return                              # and that was said in words; captures of the other kind are read below
    with playground.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
        tap.bind(("nlmon0", 3))                                 # ETH_P_ALL
        tap.settimeout(20)
        _, (outcome,) = traced(playground, MTU_OF_TWO_BYTES)
        found = captured(tap, playground.socket_of_rtnl._next_seq - 1)
    assert {kind for _, kind, _, _ in found} <= {4, 6, 7}
    done = run_nsnet(playground, state, "explain", write_capture(tmp_path / "nlmon.pcap", found))
    assert (done.returncode, done.stderr) == (0, "") and the_mark(done.stdout)[0] == outcome.error.attribute
    heads = [line.split()[1:3] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert heads[-2:] == [["->", "RTM_NEWLINK"], ["<-", "NLMSG_ERROR"]]


class Recorded(TracedExchange):
    """Keeps what it sends and receives, as an nlmon device would see it."""

    def __init__(self, *args):
        self.packets = []
        super().__init__(*args)
        self.packets.append((time.time_ns(), 4, 0, self.data))

    def feed(self, data):
        self.packets.append((time.time_ns(), 4, 0, data))
        super().feed(data)


@pytest.fixture
def capture(host, tmp_path):
    """A capture of a chat with the kernel in which one of two requests is refused."""
    requests = [MTU_OF_TWO_BYTES, Request(rtnl.RTM_GETLINK, 0, rtnl.IFINFOMSG.encode(index=1), "get lo")]
    exchange = host.socket_of_rtnl.talk(lambda first_seq: Recorded(requests, first_seq, lambda text: None))
    return write_capture(tmp_path / "chat.pcap", exchange.packets)


def test_a_capture_is_explained_as_it_was_traced(host, state, capture):
    done = run_nsnet(host, state, "explain", capture)
    assert (done.returncode, done.stderr) == (0, "")
    assert the_mark(done.stdout) == ("IFLA_MTU", f"{REFUSED}; it wants U32 0..4294967295")
    assert "IFLA_IFNAME 'lo'" in done.stdout
    arrows = [line.split()[1] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert arrows[:2] == ["->", "->"] and set(arrows[2:]) == {"<-"}


def test_a_capture_through_a_pipe_as_json(host, state, capture):
    with open(capture, "rb") as file:
        done = inside(host, nsnet_argv("explain", "--json"), env=environment(state), stdin=file)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert [one["blames"] for one in found if "blames" in one] == [["IFLA_MTU"]]
    answers = [one for one in found if one["direction"] == "<-"]
    assert [one["attributes"]["IFLA_IFNAME"] for one in answers if one["type"] == "RTM_NEWLINK"] == ["lo"]


@pytest.mark.parametrize("times", [1, 3000], ids=["at the end", "in the middle"])
@pytest.mark.parametrize("option", [[], ["--json"]], ids=["text", "json"])
def test_a_reader_that_goes_away_is_no_error_of_ours(host, state, capture, times, option):
    """explain | head -1: quiet, whether the pipe breaks while it is written or when all is done."""
    whole = capture.read_bytes()
    capture.write_bytes(whole[:24] + whole[24:] * times)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = inside(host, nsnet_argv("explain", *option, capture), env=environment(state), stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")

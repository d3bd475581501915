"""Bytes from values and values from bytes, without a kernel: nsnet beside pyroute2.

Knows the same requests in both vocabularies, on two levels: a message from values that are ready, and the verb with all
that it checks and fills in. Each pair is decoded and compared before it is timed; where the bytes differ though they
mean the same, a note says how. A request that nsnet would remember from the last time is made anew.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from bench.contest import OURS, Contest, Task, entry, hold
from bench.measure import Plan, disturbance
from bench.peers import roll_call
from nsnet import kernel, requests, rtnl, values
from nsnet.exchange import Request
from nsnet.objects import Link
from nsnet.tables import Layout
from nsnet.wire import NLMSG_HEADER, encode_message, messages

CALLS = 500                 # of ours, a round
PEER_CALLS = 50             # of a peer's
BUSY = 1.5                  # the load that the rounds make themselves is 1
CREATE = rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK | rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
REPLY = Path(__file__).resolve().parent.parent / "tests" / "unit" / "golden" / "reply_links.hex"


def anew(verb: Callable[..., Request]) -> Callable[..., Request]:
    """The verb itself, behind what remembers its last requests."""
    return verb.__wrapped__


class Theirs(NamedTuple):
    """A request as pyroute2 has it: `mode` and `words` of its verb, and the message that this makes."""

    message: str                        # a class in the module of that name in pyroute2.netlink.rtnl
    fields: Dict[str, int]
    attrs: List[Any]
    mode: str
    words: Dict[str, Any]


class Case(NamedTuple):
    """One request, in the words of both. `differs`: why the bytes do, if they do."""

    name: str
    type: int
    layout: Layout
    header: Dict[str, int]
    attrs: Dict[str, Any]
    verb: Callable[[], Request]
    how: str
    theirs: Theirs
    differs: str


CASES = (
    Case("veth with peer, master, group", rtnl.RTM_NEWLINK, rtnl.LINK_BODY, {"index": 8, "flags": 1, "change": 1},
         {"ifname": "veth0", "group": 4711, "master": 7,
          "linkinfo": {"kind": "veth", "data": {"peer": ({}, {"ifname": "eth0", "group": 4711})}}},
         lambda: requests.add_veth("veth0", "eth0", index=8, group=4711, master=7, up=True), "requests.add_veth",
         Theirs("ifinfmsg", {"index": 8, "flags": 1, "change": 1},
                [["IFLA_IFNAME", "veth0"], ["IFLA_GROUP", 4711], ["IFLA_MASTER", 7], ["IFLA_LINKINFO", {"attrs": [
                    ["IFLA_INFO_KIND", "veth"], ["IFLA_INFO_DATA", {"attrs": [["VETH_INFO_PEER", {"attrs": [
                        ["IFLA_IFNAME", "eth0"], ["IFLA_GROUP", 4711]]}]]}]]}]],
                "link", {"ifname": "veth0", "group": 4711, "master": 7, "kind": "veth", "index": 8, "state": "up",
                         "peer": {"ifname": "eth0", "group": 4711}}),
         "its IFLA_INFO_KIND ends with a NUL"),
    Case("address", rtnl.RTM_NEWADDR, rtnl.ADDR_BODY, {"family": rtnl.AF_INET, "prefixlen": 24, "index": 8},
         {"local": "10.0.0.1", "address": "10.0.0.1"},
         lambda: requests.add_address(8, values.host_address("10.0.0.1/24"), "veth0"), "requests.add_address",
         Theirs("ifaddrmsg", {"family": rtnl.AF_INET, "prefixlen": 24, "index": 8},
                [["IFA_LOCAL", "10.0.0.1"], ["IFA_ADDRESS", "10.0.0.1"]],
                "addr", {"index": 8, "address": "10.0.0.1", "prefixlen": 24}),
         "IFA_ADDRESS comes first"),
    Case("default route", rtnl.RTM_NEWROUTE, rtnl.ROUTE_BODY,
         {"family": rtnl.AF_INET, "table": rtnl.RT_TABLE_MAIN, "protocol": rtnl.RTPROT_BOOT, "type": rtnl.RTN_UNICAST},
         {"gateway": "10.0.0.1"}, lambda: anew(requests.add_route)("default", via="10.0.0.1"), "requests.add_route",
         Theirs("rtmsg", {"family": rtnl.AF_INET, "table": rtnl.RT_TABLE_MAIN, "proto": rtnl.RTPROT_BOOT,
                          "type": rtnl.RTN_UNICAST}, [["RTA_GATEWAY", "10.0.0.1"]],
                "route", {"dst": "default", "gateway": "10.0.0.1", "proto": "boot", "type": "unicast"}),
         ""),
)


# --- ours ---

def our_message(case: Case) -> bytes:
    return encode_message(case.type, CREATE, 1, case.layout.encode((case.header, case.attrs)))


def our_verb(case: Case) -> bytes:
    request = case.verb()
    return encode_message(request.type, CREATE, 1, request.payload)


def sample_link() -> bytes:
    """A veth that is a bridge's port, as a kernel reported it."""
    data = bytes.fromhex("".join(REPLY.read_text().splitlines()[1:]))
    for message in messages(data):
        if message.type == rtnl.RTM_NEWLINK and "master" in rtnl.LINK_BODY.decode(message.payload).attrs:
            return message.encode()
    raise ValueError(f"{REPLY}: no link with a master")


def five(link: Link) -> tuple:
    return link.index, link.ifname, link.operstate, link.lladdr, link.master


# --- theirs ---

class Pyroute2:
    """The parts of pyroute2 that make and read messages, without the socket and the event loop.

    `verb` does what IPRoute.link("add", ...) does up to the point of sending: arguments through its filters, into a
    NetlinkRequest, encoded. These parts are not its public interface: another error than ours says that they moved.
    """

    def __init__(self) -> None:
        from pyroute2.common import AddrPool
        from pyroute2.iproute import linux
        from pyroute2.netlink.nlsocket import NetlinkRequest
        from pyroute2.netlink.rtnl import ifaddrmsg, ifinfmsg, rtmsg
        self._classes = {"ifinfmsg": ifinfmsg.ifinfmsg, "ifaddrmsg": ifaddrmsg.ifaddrmsg, "rtmsg": rtmsg.rtmsg}
        self._arguments, self._dump_filter = linux.get_arguments_processor, linux.get_dump_filter
        self._request = NetlinkRequest
        self._sequence = AddrPool(minaddr=0xFF, maxaddr=0xFFFF)
        self._socket = SimpleNamespace(addr_pool=self._sequence, status={"nlm_echo": False}, epid=1, marshal=None)

    def message(self, case: Case) -> bytes:
        made = self._classes[case.theirs.message]()
        made["header"].update(type=case.type, flags=CREATE, sequence_number=1, pid=0)
        made.update(case.theirs.fields)
        made["attrs"] = case.theirs.attrs
        made.encode()
        return made.data

    def verb(self, case: Case) -> bytes:
        mode = case.theirs.mode
        parameters = {"strict_check": False} if mode == "route" else None
        dump_filter, words = self._dump_filter(mode, "add", dict(case.theirs.words), parameters)
        arguments = self._arguments(mode, "add", words, parameters)
        request = self._request(self._socket, self._classes[case.theirs.message](), "add",
                                {"add": (case.type, "create")}, dump_filter, arguments)
        request.msg.encode()
        self._sequence.free(request.msg_seq, ban=0xFF)
        return request.msg.data

    def five(self, data: bytes) -> tuple:
        link = self._classes["ifinfmsg"](data)
        link.decode()
        return (link["index"], link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_OPERSTATE").lower(),
                link.get_attr("IFLA_ADDRESS"), link.get_attr("IFLA_MASTER"))

    def whole(self, data: bytes) -> Dict[str, Any]:
        link = self._classes["ifinfmsg"](data)
        link.decode()
        return link.dump()              # every attribute is decoded here


# --- the contest ---

def codec(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Encoding and decoding, in turns; pyroute2 is the only peer that can be asked without a kernel."""
    present, missing = roll_call(plan.peers, ("pyroute2",))
    theirs: Optional[Pyroute2] = None
    if present:
        try:
            theirs = Pyroute2()
        except (ImportError, AttributeError, TypeError) as error:
            missing["pyroute2"] = f"is built otherwise than 0.9: {error}"
    tasks: List[Task] = []
    notes: List[str] = []
    for case in CASES:
        tasks += _encoding(case, theirs, notes)
    tasks += _decoding(theirs)
    contest = hold("codec: one message, no kernel", tasks, plan, missing)
    notes += disturbance(contest.spread_of(OURS), "nsnet's first row", BUSY)
    return {"codec": contest._replace(notes=notes)}


def _encoding(case: Case, theirs: Optional[Pyroute2], notes: List[str]) -> List[Task]:
    """Two tasks: the message from values that are ready, and the verb."""
    message = [entry(OURS, "Layout.encode, encode_message", lambda: our_message(case), CALLS, _meaning)]
    verb = [entry(OURS, case.how, lambda: our_verb(case), CALLS, _meaning)]
    if theirs is not None:
        message.append(entry("pyroute2", f"{case.theirs.message}.encode", lambda: theirs.message(case), PEER_CALLS,
                             _meaning))
        verb.append(entry("pyroute2", f'{case.theirs.mode}("add", ...), unsent', lambda: theirs.verb(case), PEER_CALLS,
                          _meaning))
        for level, ours, other in (("message", our_message(case), theirs.message(case)),
                                   ("verb", our_verb(case), theirs.verb(case))):
            notes.append(f"{case.name}, {level}: {_compared(ours, bytes(other), case.differs)}")
    return [Task(f"encode {case.name}: the message alone", message), Task(f"encode {case.name}: the verb", verb)]


def _meaning(data: bytes) -> List[Any]:
    """The type, flags, header and attributes of one message, in whatever order they stand there."""
    (message,) = messages(bytes(data))
    header, attrs = rtnl.LAYOUTS[message.type].decode(message.payload)
    return [message.type, message.flags, tuple(header), attrs]


def _compared(ours: bytes, theirs: bytes, why: str) -> str:
    start = NLMSG_HEADER.size           # sequence number and port are not the codec's
    if ours[start:] == theirs[start:]:
        return f"both make the same {len(ours)} bytes"
    return f"nsnet makes {len(ours)} bytes, pyroute2 {len(theirs)} that mean the same: {why or 'it is not known why'}"


def _decoding(theirs: Optional[Pyroute2]) -> List[Task]:
    data = sample_link()
    (message,) = messages(data)
    payload, layout, index = message.payload, rtnl.LINK_BODY, kernel.index_attributes
    some = [
        entry(OURS, "Layout.view with the C index", lambda: five(layout.view(payload, 0, index, Link)), CALLS),
        entry(OURS, "Layout.view without it", lambda: five(layout.view(payload, 0, None, Link)), CALLS)]
    every = [entry(OURS, "Layout.decode", lambda: layout.decode(payload), CALLS, lambda body: len(body.attrs))]
    if theirs is not None:
        some.append(entry("pyroute2", "decode, get_attr()", lambda: theirs.five(data), PEER_CALLS))
        every.append(entry("pyroute2", "decode, dump()", lambda: theirs.whole(data), PEER_CALLS,
                           lambda link: len(link["attrs"])))
    return [Task(f"decode a link of {len(data)} bytes: five fields", some),
            Task(f"decode a link of {len(data)} bytes: everything", every)]

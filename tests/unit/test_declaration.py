"""What a network may be declared to be: every key taken and refused, how they fit together, and hostile files."""

import json
import math
import os
import re
import resource
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ANY_TEXT, ROOT, of_many, one_line, refused

from nsnet import declaration, documents, idmap, job, kinds, values
from nsnet.declaration import ATTACHMENT, NETWORK, ROUTE, AttachmentSpec, NetworkSpec, RouteSpec
from nsnet.errors import KernelError, UsageError

NET = {"bridge": "br0", "address": ["10.0.0.1/24", "fd00::1/64"]}
PLAIN = declaration.network(NET)
NO_RANGE = ("expected a range such as 10.0.0.10-10.0.0.20, the lower one first, a network such as 10.0.0.32/28, or an"
            " address")
NO_KEY = "expected a key below net, such as net.ipv4.ip_forward or net/ipv4/conf/eth0.100/forwarding"
NO_VALUE = "expected an int of 64 bits, a bool, or one line of text of at most 4094 bytes"
IFNAME_LINE = ("expected 1 to 15 of A-Z a-z 0-9 _ . - beginning with a letter or digit, and none of 'all', 'default',"
               " 'lo'")
needs_toml = pytest.mark.skipif(documents.toml_parser() is None, reason="neither tomllib (Python 3.11) nor tomli")


def of_network(key, value, **more):
    """A field of a network that is declared with one key more."""
    field = next(row.field or row.name for row in NETWORK if row.name == key)
    return getattr(declaration.network({**NET, key: value, **more}), field)


def attached(key, value, **more):
    """A field of an attachment that is declared with one key more."""
    command = {} if {"command", "pid", "netns", "pin"} & {key, *more} else {"command": ["true"]}
    field = next(row.field or row.name for row in ATTACHMENT if row.name == key)
    return getattr(declaration.attachment({"address": "10.0.0.2/24", **command, key: value, **more}, PLAIN), field)


def texts(addresses):
    return [str(item) for item in addresses]


# --- the keys of a network ---

@pytest.mark.parametrize("key, value, found", [
    ("bridge", "web.0", "web.0"),
    ("lladdr", "02:00:00:00:00:AB", "02:00:00:00:00:ab"), ("lladdr", None, None),
    ("mtu", 68, 68), ("mtu", 65535, 65535), ("mtu", None, None),
    ("stp", True, True), ("stp", False, False), ("stp", None, None),
    ("ageing_time", 0, 0), ("ageing_time", 0.5, 0.5), ("ageing_time", 42949672, 42949672), ("ageing_time", None, None),
    ("lifetime", "process", "process"), ("lifetime", "declared", "declared"),
    ("lifetime", "attachments", "attachments"),
    ("lifetime", "owner", "owner"), ("lifetime", None, "process"),
    ("adopt", True, True), ("adopt", None, False),
    ("forward", ["eth0", "wlan0"], ("eth0", "wlan0")), ("forward", [], ()), ("forward", ("eth0",), ("eth0",)),
    ("ranges", ["10.0.0.10-10.0.0.20", "10.0.0.32/28", "10.0.0.9"],
     ("10.0.0.10-10.0.0.20", "10.0.0.32/28", "10.0.0.9")),
    ("ranges", ["fd00:0::5-fd00::0:9", "fd00::/80"], ("fd00::5-fd00::9", "fd00::/80")),
    ("exclude", ["10.0.0.1-10.0.0.1"], ("10.0.0.1-10.0.0.1",)), ("exclude", [], ()),
    ("attachments", [], ()),
])
def test_a_network_takes(key, value, found):
    assert of_network(key, value) == found


def test_a_network_has_one_address_or_several():
    assert texts(declaration.network({**NET, "address": "10.0.0.1/24"}).addresses) == ["10.0.0.1/24"]
    assert texts(PLAIN.addresses) == NET["address"]
    assert declaration.network({**NET, "address": values.addresses(NET["address"])}) == PLAIN


@pytest.mark.parametrize("key, value, line", [
    ("bridge", "-rf", f"bridge '-rf': {IFNAME_LINE}"),
    ("bridge", None, "bridge: there is none; expected the name of the bridge"),
    ("bridge", {}, "bridge: expected the name of a link, not a table"),
    ("bridge", ["br0"], "bridge: expected the name of a link, not a list"),
    ("address", "10.0.0.300/24",
     "bridge address '10.0.0.300/24': expected an address with a prefix, such as 10.0.0.2/24"),
    ("address", "10.0.0.0/24",
     "bridge address '10.0.0.0/24': it is the network itself; expected the address of one host"),
    ("address", ["10.0.0.1/24", "10.0.0.1/8"], "bridge address '10.0.0.1/8': it stands twice"),
    ("address", [], "bridge address: expected at least one"),
    ("address", "auto", "bridge address 'auto': expected an address with a prefix, such as 10.0.0.2/24"),
    ("address", {}, "bridge address: expected an address or a list of them, not a table"),
    ("address", [["10.0.0.1/24"]],
     "bridge address: expected an address with a prefix, such as 10.0.0.2/24, not a list"),
    ("address", None, "bridge address: there is none; expected the bridge's, with prefix; one, or several for IPv4 and"
     " IPv6"),
    ("lladdr", "03:00:00:00:00:00", "lladdr '03:00:00:00:00:00': expected a unicast address that is not zero"),
    ("lladdr", 2, "lladdr 2: expected six bytes such as 02:00:00:00:00:01"),
    ("mtu", 67, "mtu 67: expected 68 to 65535 bytes"), ("mtu", True, "mtu True: expected 68 to 65535 bytes"),
    ("mtu", 1500.0, "mtu 1500.0: expected 68 to 65535 bytes"),
    ("mtu", "1500", "mtu '1500': expected 68 to 65535 bytes"),
    ("stp", 1, "stp 1: expected true or false"), ("stp", "yes", "stp 'yes': expected true or false"),
    ("ageing_time", -1, "ageing_time -1: expected seconds from 0 to 42949673"),
    ("ageing_time", True, "ageing_time True: expected seconds from 0 to 42949673"),
    ("ageing_time", math.nan, "ageing_time nan: expected seconds from 0 to 42949673"),
    ("ageing_time", "300", "ageing_time '300': expected seconds from 0 to 42949673"),
    ("lifetime", "forever", "lifetime 'forever': expected one of process, declared, attachments, owner"),
    ("lifetime", "", "lifetime '': expected one of process, declared, attachments, owner"),
    ("lifetime", 0, "lifetime 0: expected one of process, declared, attachments, owner"),
    ("adopt", "true", "adopt 'true': expected true or false"),
    ("forward", "eth0", "forward 'eth0': expected a list of links"),
    ("forward", ["eth0", "eth0"], "forward 'eth0': it stands twice"),
    ("forward", ["lo"], f"forward 'lo': {IFNAME_LINE}"),
    ("forward", ["br0"], "forward 'br0': it is the bridge itself"),
    ("ranges", "10.0.0.9", "ranges '10.0.0.9': expected a list of addresses"),
    ("ranges", [9], "ranges 9: expected text"),
    ("ranges", ["a-b"], f"ranges 'a-b': {NO_RANGE}"),
    ("ranges", ["10.0.0.9-"], f"ranges '10.0.0.9-': {NO_RANGE}"),
    ("ranges", [""], f"ranges '': {NO_RANGE}"),
    ("ranges", ["10.0.0.0/24-10.0.0.9"],
     "ranges '10.0.0.0/24-10.0.0.9': expected a prefix of /0 to /32 behind the address"),
    ("ranges", ["10.0.0.33/28"], "ranges '10.0.0.33/28': expected a network; bits behind the prefix are set"),
    ("ranges", ["10.0.0.9-10.0.0.8"],
     f"ranges '10.0.0.9-10.0.0.8': {NO_RANGE}"),
    ("ranges", ["10.0.0.9-fd00::9"],
     f"ranges '10.0.0.9-fd00::9': {NO_RANGE}"),
    ("ranges", ["10.0.0.9-10.0.1.9"],
     "ranges '10.0.0.9-10.0.1.9': expected addresses within one of 10.0.0.0/24, fd00::/64"),
    ("ranges", ["10.0.0.9"] * 1025, "ranges: expected at most 1024, not 1025"),
    ("address", [f"10.0.{n}.1/24" for n in range(65)], "bridge address: expected at most 64, not 65"),
    ("exclude", ["10.0.0.0/16"],
     "exclude '10.0.0.0/16': expected addresses within one of 10.0.0.0/24, fd00::/64"),
    ("exclude", ["10.0.0.9", "10.0.0.9"], "exclude '10.0.0.9': it stands twice"),
    ("exclude", ["fd00::9", "fd00:0::9"], "exclude 'fd00:0::9': it stands twice"),
    ("attachments", {}, "attachments: expected a list of tables, not a table"),
    ("attachments", [5], "attachments[0] 5: expected a table"),
    ("attachments", [{}] * 1024, "attachments: expected at most 1023, the ports of a bridge, not 1024"),
])
def test_a_network_refuses(key, value, line):
    assert refused(declaration.network, {**NET, key: value}) == line


def test_a_number_that_python_would_not_print_is_refused():
    said = "not a number of 16610 bits"
    assert refused(of_network, "mtu", 10**5000) == f"mtu: expected 68 to 65535 bytes, {said}"
    assert refused(of_network, "address", 10**5000).endswith(said)
    assert refused(of_network, "bridge", 10**5000).endswith(said)
    assert refused(attached, "sysctls", {"net.x": 10**5000}).startswith("sysctls 'net.x': of type int: expected an int of")
    assert refused(attached, "uid_map", [[0, 0, 10**5000]]).endswith(said)


@pytest.mark.parametrize("given, line", [
    ({"brigde": "br0"}, "key 'brigde': there is none of that name; did you mean 'bridge'?"),
    ({7: 1}, "key 7: there is none of that name; expected one of bridge, address, lladdr, mtu, stp, ageing_time,"
     " lifetime, adopt, forward, ranges, exclude, attachments"),
    ([], "what is declared: expected a table, not a list"), (None, "what is declared None: expected a table"),
])
def test_what_is_no_network_is_refused(given, line):
    assert refused(declaration.network, given) == line


# --- the keys of an attachment ---

@pytest.mark.parametrize("key, value, found", [
    ("name", "a.b-c_1", "a.b-c_1"), ("name", "x" * 64, "x" * 64), ("name", None, "n0"),
    ("command", ["sleep", "60"], ("sleep", "60")), ("pid", 1, 1), ("netns", "/proc/1/ns/net", "/proc/1/ns/net"),
    ("pin", "blue", "blue"),
    ("ifname", "net0", "net0"), ("ifname", None, "eth0"), ("host_ifname", "veth7", "veth7"),
    ("host_ifname", None, None),
    ("lladdr", "02:00:00:00:00:0A", "02:00:00:00:00:0a"), ("lladdr", None, None), ("mtu", 9000, 9000), ("queues", 1, 1), ("queues", 4096, 4096),
    ("default_route", False, False), ("default_route", None, True),
    ("routes", [{"dst": "10.1.0.0/16", "via": "10.0.0.7", "metric": 5}], (RouteSpec("10.1.0.0/16", "10.0.0.7", 5),)),
    ("routes", [{"dst": "10.1.0.7"}, {"dst": "fd01:0::/32", "via": "fe80::1"}],
     (RouteSpec("10.1.0.7/32"), RouteSpec("fd01::/32", "fe80::1"))),
    ("routes", [{"dst": "default", "via": "10.0.0.7", "metric": 5}], (RouteSpec("default", "10.0.0.7", 5),)),
    ("routes", [], ()),
    ("sysctls", {"net.ipv4.conf.eth0.rp_filter": 1, "net/ipv4/conf/eth0.1/forwarding": True, "net.core.x": "1\t2"},
     (("net.ipv4.conf.eth0.rp_filter", "1"), ("net/ipv4/conf/eth0.1/forwarding", "1"), ("net.core.x", "1\t2"))),
    ("sysctls", {}, ()),
    ("capabilities", ["CAP_NET_RAW", "chown", "chown"], ("chown", "net_raw")), ("capabilities", {"kill"}, ("kill",)),
    ("env", {"A": "1", "B": ""}, (("A", "1"), ("B", ""))), ("cwd", "/srv", "/srv"),
    ("user", 0, 0), ("user", "www", "www"), ("group", 2**32 - 2, 2**32 - 2), ("groups", [1, "adm"], (1, "adm")),
    ("groups", [], ()), ("groups", None, None),
    ("new", ["user", "net", "pid"], ("net", "pid", "user")), ("new", {"net"}, ("net",)), ("new", None, ("net", "user")),
    ("uid_map", "0:1000:1,1:100000:65536", ((0, 1000, 1), (1, 100000, 65536))), ("gid_map", [[0, 7, 1]], ((0, 7, 1),)),
    ("uid_map", {0: 65534}, ((0, 65534, 1),)), ("uid_map", iter([(0, 65534, 1)]), ((0, 65534, 1),)),
    ("stdin", "null", None), ("stdout", "./null", "./null"), ("stderr", "/var/log/x", "/var/log/x"),
    ("umask", 0o27, 0o27), ("umask", "027", 0o27), ("umask", "0777", 0o777), ("umask", "0", 0),
    ("oom_score_adj", -1000, -1000), ("cgroup", "/sys/fs/cgroup/x", "/sys/fs/cgroup/x"), ("no_new_privs", False, False),
    ("rlimits", {"nofile": [64, 128], "core": 0, "nproc": "unlimited", "stack": [1, "unlimited"]},
     (("nofile", 64, 128), ("core", 0, 0), ("nproc", 2**64 - 1, 2**64 - 1), ("stack", 1, 2**64 - 1))),
])
def test_an_attachment_takes(key, value, found):
    assert attached(key, value) == found


def test_an_attachment_takes_a_hostname_where_it_has_one_of_its_own():
    assert attached("hostname", "é" * 32, new=["net", "uts"]) == "é" * 32


@pytest.mark.parametrize("key, value, line", [
    ("name", "", "name '': expected 1 to 64 of A-Z a-z 0-9 _ . - beginning with a letter or digit"),
    ("name", "x" * 65, f"name '{'x' * 65}': expected 1 to 64 of A-Z a-z 0-9 _ . - beginning with a letter or digit"),
    ("name", "a\n", r"name 'a\n': expected 1 to 64 of A-Z a-z 0-9 _ . - beginning with a letter or digit"),
    ("command", [], "command []: expected at least the name of a program"),
    ("command", "sleep 60", "command 'sleep 60': expected a list of words"),
    ("command", ["sleep", 60], "command 60: expected words of text"),
    ("command", ["a\0b"], r"command 'a\x00b': expected no NUL"),
    ("command", ["\ud800"], r"command '\ud800': expected text that stands for bytes"),
    ("pid", 0, "pid 0: expected a number from 1 to 2147483647"),
    ("pid", True, "pid True: expected a number from 1 to 2147483647"),
    ("pid", "1", "pid '1': expected a number from 1 to 2147483647"),
    ("netns", "", "netns '': expected a path"), ("netns", 4, "netns 4: expected a path"),
    ("netns", "/a\0", r"netns '/a\x00': expected no NUL"),
    ("pin", "../x", "pin '../x': expected 1 to 255 of A-Z a-z 0-9 _ . - beginning with a letter or digit"),
    ("address", "10.0.0.300/24", "address '10.0.0.300/24': expected an address with a prefix, such as 10.0.0.2/24"),
    ("address", 5, "address '5': expected an address with a prefix, such as 10.0.0.2/24"),
    ("address", [], "address: expected at least one"),
    ("address", {}, "address: expected an address or a list of them, not a"
                                                        " table"),
    ("address", ["auto", "10.0.0.2/24"], "address 'auto': expected it alone, or addresses without it"),
    ("address", ["auto", "auto"], "address 'auto': expected it alone, or addresses without it"),
    ("ifname", "a/b", f"ifname 'a/b': {IFNAME_LINE}"), ("host_ifname", "lo", f"host_ifname 'lo': {IFNAME_LINE}"),
    ("lladdr", "x", "lladdr 'x': expected six bytes such as 02:00:00:00:00:01"),
    ("mtu", 0, "mtu 0: expected 68 to 65535 bytes"),
    ("queues", 0, "queues 0: expected a number from 1 to 4096"), ("queues", 4097, "queues 4097: expected a number from 1 to 4096"),
    ("queues", True, "queues True: expected a number from 1 to 4096"),
    ("default_route", "no", "default_route 'no': expected true or false"),
    ("routes", {}, "routes: expected a list of tables, not a table"), ("routes", [1], "routes[0] 1: expected a table"),
    ("routes", [{}], 'routes[0].dst: there is none; expected "default", or a network with its prefix'),
    ("routes", [{"dst": "10.1.0.1/16"}],
     "routes[0].dst '10.1.0.1/16': expected a network; bits behind the prefix are set"),
    ("routes", [{"dst": "x"}], "routes[0].dst 'x': expected a network such as 10.0.0.0/24"),
    ("routes", [{"dst": []}], 'routes[0].dst: expected "default" or a network such as 10.1.0.0/16, not a list'),
    ("routes", [{"dst": "default"}],
     "routes[0].via: expected the gateway of a default route, or 0.0.0.0/0 or ::/0 for dst"),
    ("routes", [{"dst": "10.1.0.0/16", "via": "10.0.0.1/24"}],
     "routes[0].via '10.0.0.1/24': expected an IP without prefix"),
    ("routes", [{"dst": "10.1.0.0/16", "via": "224.0.0.1"}],
     "routes[0].via '224.0.0.1/32': expected a unicast address"),
    ("routes", [{"dst": "10.1.0.0/16", "via": "fd00::1"}],
     "routes[0].via 'fd00::1': expected an IP of the family of 10.1.0.0/16"),
    ("routes", [{"dst": "10.1.0.0/16", "metric": -1}], "routes[0].metric -1: expected a number from 0 to 4294967295"),
    ("routes", [{"dst": "10.1.0.0/16"}, {"dst": "10.1.0.0/16", "via": "10.0.0.9"}],
     "routes[1].dst '10.1.0.0/16': it stands twice with that metric"),
    ("routes", [{"dst": "default", "via": "10.0.0.9"}],
     "routes[0].dst 'default': expected default_route to be false, or a metric"),
    ("routes", [{"dst": "fd01::/32"}, {"dst": "fd01::/32", "metric": 1024}],
     "routes[1].dst 'fd01::/32': it stands twice with that metric"),
    ("routes", [{"dst": "0.0.0.0/0"}], "routes[0].dst '0.0.0.0/0': expected default_route to be false, or a metric"),
    ("routes", [{"dst": "default", "gw": "10.0.0.9"}],
     "routes[0]: key 'gw': there is none of that name; expected one of dst, via, metric"),
    ("sysctls", [], "sysctls: expected a table, not a list"),
    ("sysctls", {"kernel.x": 1}, f"sysctls 'kernel.x': {NO_KEY}"),
    ("sysctls", {"net/../kernel": 1}, f"sysctls 'net/../kernel': {NO_KEY}"),
    ("sysctls", {"net.x": 1.5}, f"sysctls 'net.x': 1.5: {NO_VALUE}"),
    ("sysctls", {"net.x": [1]}, f"sysctls 'net.x': [1]: {NO_VALUE}"),
    ("sysctls", {"net.x": "1\n2"}, rf"sysctls 'net.x': '1\n2': {NO_VALUE}"),
    ("capabilities", "chown", "capabilities 'chown': expected a list of names"),
    ("capabilities", ["x"], "capabilities 'x': expected a name from capabilities(7), such as net_bind_service"),
    ("capabilities", [["x"]], "capabilities: expected a name from capabilities(7), not a list"),
    ("env", ["A=1"], "env: expected a table, not a list"), ("env", {"A": 1}, "env 'A': 1: expected text"),
    ("env", {"": "1"}, "env '': expected a name without ="),
    ("env", {"A=": "1"}, "env 'A=': expected a name without ="),
    ("env", {"A": "\0"}, r"env 'A': '\x00': expected no NUL"),
    ("env", {"A": {}}, "env 'A': expected text, not a table"),
    ("cwd", "", "cwd '': expected a path"), ("cgroup", 3, "cgroup 3: expected a path"),
    ("user", -1, "user -1: expected a number from 0 to 4294967294, or a name"),
    ("user", True, "user True: expected a number from 0 to 4294967294, or a name"),
    ("user", "", "user '': expected a number, or a name"),
    ("group", 2**32 - 1, "group 4294967295: expected a number from 0 to 4294967294, or a name"),
    ("groups", 5, "groups 5: expected a list of numbers or names"), ("groups", [5, 5], "groups 5: it stands twice"),
    ("groups", [[]], "groups: expected a number from 0 to 4294967294, or a name, not a list"),
    ("hostname", "box", "hostname 'box': expected 'uts' in new; else the name of this machine would change"),
    ("hostname", "", "hostname '': expected 1 to 64 bytes"),
    ("hostname", "é" * 33, f"hostname '{'é' * 33}': expected 1 to 64 bytes"),
    ("new", "net", "new 'net': expected a list of kinds of namespaces"),
    ("new", ["user"], "new ['user']: expected 'net' among them"), ("new", [], "new []: expected 'net' among them"),
    ("new", ["net", "x"], "new 'x': expected one of cgroup, ipc, mnt, net, pid, time, user, uts"),
    ("uid_map", "0:0", "uid_map '0:0': expected INSIDE:OUTSIDE:COUNT, several separated by commas"),
    ("uid_map", [[0, 0]], "uid_map (0, 0): expected (inside, outside, count)"),
    ("uid_map", [0], "uid_map (0,): expected {inside: outside} or (inside, outside, count) tuples"),
    ("uid_map", 0, "uid_map 0: expected a list of [inside, outside, count]"),
    ("gid_map", [[0, 2**70, 1]], "gid_map: expected whole numbers from 0 to 4294967294, not a number of 71 bits"),
    ("gid_map", [[0, 0, 0]], "gid_map (0, 0, 0): expected a count of at least 1 that ends at 4294967294 at the latest"),
    ("stdin", "", "stdin '': expected \"null\" or a path"), ("stdout", 1, "stdout 1: expected \"null\" or a path"),
    ("stderr", ["x"], "stderr: expected \"null\" or a path, not a list"),
    ("umask", 0o1000, "umask 512: expected a number from 0 to 511, or octal digits such as \"022\""),
    ("umask", "8", "umask '8': expected a number from 0 to 511, or octal digits such as \"022\""),
    ("umask", True, "umask True: expected a number from 0 to 511, or octal digits such as \"022\""),
    ("oom_score_adj", 1001, "oom_score_adj 1001: expected a number from -1000 to 1000"),
    ("no_new_privs", 1, "no_new_privs 1: expected true or false"),
    ("rlimits", [], "rlimits: expected a table, not a list"),
    ("rlimits", {"nofile": [2, 1]}, "rlimits 'nofile': expected SOFT, 2, to be no more than HARD, 1"),
    ("rlimits", {"nofile": -1}, "rlimits 'nofile': -1: expected a number or \"unlimited\", or [soft, hard] of them"),
    ("rlimits", {"nofile": [1]},
     "rlimits 'nofile': expected a number or \"unlimited\", or [soft, hard] of them, not a list"),
    ("rlimits", {"x": 1}, "rlimits 'x': expected one of " + ", ".join(kinds.LIMITS)),
])
def test_an_attachment_refuses(key, value, line):
    assert refused(attached, key, value) == line


def test_every_key_is_tried_both_ways():
    for keys, takes, refuses in ((NETWORK, test_a_network_takes, test_a_network_refuses),
                                 (ATTACHMENT, test_an_attachment_takes, test_an_attachment_refuses)):
        for test, but in ((takes, {"address", "hostname"}), (refuses, set())):
            tried = {case[0] for mark in test.pytestmark for case in mark.args[1]}
            assert {key.name for key in keys} - but <= tried


# --- what an attachment is of ---

def test_an_attachment_is_of_one_thing():
    line = "expected one of command, pid, netns, pin"
    assert refused(declaration.attachment, {"address": "auto"}, PLAIN) == line
    both = {"address": "auto", "pid": 1, "pin": "x"}
    assert refused(declaration.attachment, both, PLAIN) == f"{line}, not both pid and pin"
    found = declaration.attachment({"address": "auto"}, PLAIN, needs_target=False)
    assert (found.command, found.pid, found.netns, found.pin) == (None,) * 4
    assert declaration.attachment({"address": "auto", "pid": 1}, PLAIN, needs_target=False).pid == 1


@pytest.mark.parametrize("key", [key.name for key in ATTACHMENT if key.of_command])
def test_what_a_command_is_given_stands_beside_a_command(key):
    value = {"capabilities": [], "env": {}, "groups": [], "new": ["net"], "uid_map": "0:0:1", "gid_map": "0:0:1",
             "no_new_privs": True, "rlimits": {}, "umask": 0, "oom_score_adj": 0, "user": 0, "group": 0}.get(key, "x")
    assert refused(attached, key, value, pid=1) == f"{key}: expected it beside a command only"


@pytest.mark.parametrize("key", ["uid_map", "gid_map"])
def test_a_map_needs_a_user_namespace(key):
    assert refused(attached, key, "0:0:1", new=["net"]) == (
        f"{key}: expected 'user' in new; there is no user namespace to map")


def test_an_attachment_without_a_name_is_called_by_its_link_or_its_place():
    tables = [{"pid": 1, "address": "auto"}, {"pid": 2, "address": "auto", "host_ifname": "veth0"},
              {"pid": 3, "address": "auto", "name": "n3"}, {"pid": 4, "address": "auto"}]
    found = declaration.network({**NET, "attachments": tables})
    assert [item.name for item in found.attachments] == ["n0", "veth0", "n3", "n4"]
    assert declaration.attachment({"pid": 5, "address": "auto"}, found).name == "n5"     # n4 is the fourth's


# --- addresses and gateways ---

def addressed(*addresses, **more):
    return declaration.attachment({"pid": 1, "address": addresses, **more}, PLAIN)


def test_default_routes_are_via_the_bridge_of_each_family():
    assert addressed("10.0.0.2/24").gateways == ("10.0.0.1",)
    assert addressed("fd00::2/64", "10.0.0.2/24").gateways == ("fd00::1", "10.0.0.1")
    assert addressed("10.0.0.2/24", default_route=False).gateways == ()
    assert addressed("auto").auto and not addressed("10.0.0.2/24").auto
    assert addressed("auto").gateways == ("10.0.0.1", "fd00::1") and addressed("auto").addresses == ()
    assert addressed("auto", default_route=False).gateways == ()


def test_the_gateway_is_the_first_in_the_subnet_of_the_address():
    net = declaration.network({"bridge": "br0", "address": ["10.0.0.1/8", "10.1.0.1/16", "10.1.0.9/16"]})
    gateway = lambda text: declaration.attachment({"pid": 1, "address": text}, net).gateways      # noqa: E731
    assert gateway("10.1.0.2/16") == ("10.1.0.1",) and gateway("10.1.0.2/8") == ("10.0.0.1",)
    assert gateway(["10.1.0.2/16", "10.7.0.2/8"]) == ("10.1.0.1",) and gateway("auto") == ("10.0.0.1",)


@pytest.mark.parametrize("address, line", [
    ("10.0.1.2/24", "address '10.0.1.2/24': expected one in the subnet of the bridge, 10.0.0.1/24 or fd00::1/64"),
    ("10.0.0.2/16", "address '10.0.0.2/16': expected the subnet's prefix, /24"),
    ("10.0.0.1/24", "address '10.0.0.1/24': it is the bridge's own"),
    ("10.0.0.7/24", "address '10.0.0.7/24': web has it"),
    ("10.0.0.255/24", "address '10.0.0.255/24': it is the broadcast address; expected the address of one host"),
])
def test_an_address_must_be_a_free_one_of_the_network(address, line):
    net = declaration.network({**NET, "attachments": [{"name": "web", "pid": 1, "address": "10.0.0.7/24"}]})
    assert refused(declaration.attachment, {"pid": 2, "address": address}, net) == line
    assert refused(declaration.attachment, {"pid": 2, "address": ["fd00::7/64", address]}, net) == line
    assert refused(declaration.attachment, {"pid": 2, "address": address}, net, "FILE: network[1].attachments[3]") == (
        f"FILE: network[1].attachments[3].{line}")


@pytest.mark.parametrize("given, line", [
    ({"name": "web"}, "name 'web': it stands for two attachments"),
    ({"host_ifname": "br0"}, "host_ifname 'br0': it stands for two links"),
    ({"host_ifname": "veth0"}, "host_ifname 'veth0': it stands for two links"),
    ({"lladdr": "02:00:00:00:00:01"}, "lladdr '02:00:00:00:00:01': br0 has it"),
    ({"lladdr": "02:00:00:00:00:02"}, "lladdr '02:00:00:00:00:02': web has it"),
    ({"pin": "blue"}, "ifname 'eth0': web has it in that namespace"),
    ({"netns": "/run/netns/blue"}, "ifname 'eth0': web has it in that namespace"),
])
def test_what_there_is_once_is_given_once(given, line):
    net = declaration.network({**NET, "lladdr": "02:00:00:00:00:01", "attachments": [
        {"name": "web", "pin": "blue", "address": "auto", "host_ifname": "veth0", "lladdr": "02:00:00:00:00:02"}]})
    given = {"address": "auto", **({} if {"pin", "netns"} & set(given) else {"pid": 7}), **given}
    assert refused(declaration.attachment, given, net) == line
    assert refused(declaration.network, {**declaration.as_dict(net),
                                         "attachments": [*map(declaration.as_dict, net.attachments), given]}) == (
        f"attachments[1].{line}")
    assert declaration.attachment({"address": "auto", "pin": "blue", "ifname": "eth1"}, net).name == "n1"


# --- a network as a whole ---

def test_forwarding_is_recorded_on_disk():
    assert refused(of_network, "forward", ["eth0"], lifetime="owner") == (
        "forward ['eth0']: expected a lifetime other than 'owner', for the sysctls that it changes are recorded on disk"
    )
    for lifetime in ("process", "declared", "attachments"):
        assert of_network("forward", ["eth0"], lifetime=lifetime) == ("eth0",)


@pytest.mark.parametrize("key, value", [("lladdr", "02:00:00:00:00:01"), ("mtu", 1500), ("stp", False),
                                        ("ageing_time", 0)])
def test_an_adopted_bridge_is_left_as_it_is(key, value):
    assert refused(of_network, key, value, adopt=True) == (
        f"{key} {value!r}: expected none with adopt; the bridge is the user's")
    assert of_network(key, None, adopt=True) is None


def apart(*networks):
    return declaration.loads(json.dumps({"network": networks}), "FILE")


@pytest.mark.parametrize("networks, line", [
    ([{"bridge": "a", "address": "10.0.0.1/24"}, {"bridge": "a", "address": "10.0.1.1/24"}],
     "FILE: network[1].bridge 'a': it stands for two links"),
    ([{"bridge": "a", "address": "10.0.0.1/24"}, {"bridge": "b", "address": ["fd00::1/64", "10.0.0.9/16"]}],
     "FILE: network[1].address '10.0.0.9/16': expected a subnet apart from '10.0.0.1/24' of a"),
    ([{"bridge": "a", "address": ["10.0.0.1/8", "10.0.0.2/24"]}, {"bridge": "b", "address": "10.0.1.1/24"}],
     "FILE: network[1].address '10.0.1.1/24': expected a subnet apart from '10.0.0.1/8' of a"),
    ([{"bridge": "a", "address": "10.0.0.1/24"}, {"bridge": "b", "address": "10.0.0.1/24"}],
     "FILE: network[1].address '10.0.0.1/24': expected a subnet apart from '10.0.0.1/24' of a"),
    ([{"bridge": "a", "address": "10.0.0.1/24"},
      {"bridge": "b", "address": "10.0.1.1/24", "attachments": [{"pid": 1, "address": "auto", "host_ifname": "a"}]}],
     "FILE: network[1].attachments[0].host_ifname 'a': it stands for two links"),
    ([{"bridge": "a", "address": "10.0.0.1/24", "attachments": [{"pin": "x", "address": "auto"}]},
      {"bridge": "b", "address": "10.0.1.1/24", "attachments": [{"pin": "x", "address": "auto"}]}],
     "FILE: network[1].attachments[0].ifname 'eth0': n0 has it in that namespace"),
    ([{"bridge": "a", "address": "10.0.0.1/24"}, {"address": "10.0.1.1/24"}],
     "FILE: network[1].bridge: there is none; expected the name of the bridge"),
    ([{"bridge": "a", "address": "10.0.0.1/24"}, 5], "FILE: network[1] 5: expected a table"),
    ([], "FILE: network: expected a list of at least one, [[network]] in TOML"),
])
def test_networks_of_one_file_are_apart(networks, line):
    assert refused(apart, *networks) == line


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 4)), min_size=2, max_size=5))
@of_many
def test_subnets_are_apart_as_a_look_at_each_pair_says(drawn):
    """10.0.0.0 in networks of 2 to 16 addresses; as many as are drawn, all in networks of their own."""
    subnets = [values.address(f"10.0.0.{(place * 16 >> bits << bits) + 1}/{32 - bits}") for place, bits in drawn]
    if any(not 0 < item.host < item.broadcast for item in subnets if item.prefixlen < 31):
        return
    overlap = any(one in other or other in one for index, one in enumerate(subnets) for other in subnets[:index])
    networks = [{"bridge": f"b{index}", "address": str(item)} for index, item in enumerate(subnets)]
    if overlap:
        assert "expected a subnet apart from" in refused(apart, *networks)
    else:
        assert len(apart(*networks)) == len(subnets)


# --- files ---

TABLE = {"bridge": "br0", "address": "10.0.0.1/24"}


def test_a_file_is_one_network_or_several(tmp_path):
    for document in (TABLE, {"version": 1, **TABLE}, {"network": [TABLE]}, {"version": 1, "network": [TABLE]}):
        path = tmp_path / "net.json"
        path.write_text(json.dumps(document))
        assert declaration.load(path) == declaration.load(str(path)) == (
            declaration.network({**TABLE, "lifetime": "declared"}),)


def test_what_a_file_declares_is_there_until_it_is_taken_down():
    found = [declaration.loads(json.dumps({**TABLE, "lifetime": lifetime}), "x")[0].lifetime
             for lifetime in (None, "process", "owner")]
    assert found == ["declared", "process", "owner"]
    assert refused(declaration.loads, json.dumps({**TABLE, "lifetime": False}), "x") == (
        "x: lifetime False: expected one of process, declared, attachments, owner")


TOML = """\
version = 1
[[network]]
bridge = "br0"
address = ["10.0.0.1/24", "fd00::1/64"]
[[network.attachments]]
name = "web"
command = ["sleep", "60"]
address = "10.0.0.2/24"
umask = 0o027
sysctls = {"net.ipv4.conf.eth0.rp_filter" = 1}
rlimits.nofile = [64, 128]
[[network.attachments.routes]]
dst = "10.1.0.0/16"
via = "10.0.0.7"
[[network]]
bridge = "br1"
address = "10.0.1.1/24"
"""


@needs_toml
def test_a_toml_file_says_the_same_as_a_json_file(tmp_path):
    both = tmp_path / "net.toml", tmp_path / "net.JSON"
    both[0].write_text("\ufeff" + TOML.replace("\n", "\r\n"))
    networks = declaration.load(both[0])
    both[1].write_text(json.dumps({"network": [declaration.as_dict(item) for item in networks]}))
    assert declaration.load(both[1]) == networks and [item.bridge for item in networks] == ["br0", "br1"]
    web = networks[0].attachments[0]
    assert web.umask == 0o27 and web.rlimits == (("nofile", 64, 128),)
    assert web.sysctls == (("net.ipv4.conf.eth0.rp_filter", "1"),)
    assert web.routes == (RouteSpec("10.1.0.0/16", "10.0.0.7"),)


@needs_toml
def test_the_example_of_the_module_is_one():
    example = "\n".join(line[4:] for line in declaration.__doc__.splitlines() if line.startswith("    "))
    network, = declaration.loads(example, "example.toml")
    assert network.bridge == "web0" and network.attachments[0].capabilities == ("net_bind_service",)


@needs_toml
def test_a_file_is_json_by_its_name_or_its_first_character(tmp_path):
    for name, text, said in (("a.json", TOML, "line 1 column 1: Expecting value"),
                             ("a.toml", "{}", "line 1 column 1: Invalid"),
                             ("a", "\n [", "line 2:"), ("b", " \n{", "line 2 column 2: Expecting property name")):
        (tmp_path / name).write_text(text)
        assert refused(declaration.load, tmp_path / name).startswith(f"{tmp_path / name} {said}")


def test_standard_input_is_a_file(tmp_path):
    kept, (read, write) = os.dup(0), os.pipe()
    try:
        os.dup2(read, 0)
        os.write(write, json.dumps({**TABLE, "mtu": 1}).encode())
        os.close(write)
        assert refused(declaration.load, "-") == "standard input: mtu 1: expected 68 to 65535 bytes"
        os.fstat(0)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(read)


def test_what_cannot_be_read_is_said_by_the_kernel(tmp_path):
    with pytest.raises(KernelError, match="No such file") as caught:
        declaration.load(tmp_path / "absent.json")
    assert caught.value.step == f"read {tmp_path / 'absent.json'}"
    with pytest.raises(KernelError, match="EISDIR"):
        declaration.load(tmp_path)


@pytest.mark.parametrize("path", ["a\0b", "\ud800", None, 5])
def test_what_is_no_path_is_refused(path):
    assert refused(declaration.load, path) == f"file {path!r}: expected a path"


def test_a_name_that_would_break_the_line_is_quoted():
    assert refused(declaration.loads, "{", "a\nb").startswith(r"'a\nb' line 1 column 2: ")


def brief(value):
    return repr(value)[:40]


@pytest.mark.parametrize("text, line", ids=brief, argvalues=[
    ("[]", "F: expected a table, not a list"), ("5", "F: expected a table, not 5"),
    ("null", "F: expected a table, not None"),
    ("", "F line 1 column 1: Expecting value"), ("{}", "F: bridge: there is none; expected the name of the bridge"),
    ('{"a": 1,\n  }', None), ('{"a": 1} x', "F line 1 column 10: Extra data"), ("{'a': 1}", None),
    ('{"version": 2}', "F: version 2: expected 1"), ('{"version": true}', "F: version True: expected 1"),
    ('{"version": 1.0}', "F: version 1.0: expected 1"), ('{"version": "1"}', "F: version '1': expected 1"),
    ('{"network": {}}', "F: network: expected a list of at least one, [[network]] in TOML"),
    ('{"network": [{}], "bridge": "br0"}', "F: key 'bridge': expected it in a network, or no list of networks"),
    ('{"networks": []}', "F: key 'networks': there is none of that name; did you mean 'network'?"),
    ('{"bridge": "a", "bridge": "b"}', "F: key 'bridge': it stands twice in one object"),
    ('{"mtu": NaN}', "F: NaN: expected a finite number of 64 bits"),
    ('{"mtu": -Infinity}', "F: -Infinity: expected a finite number of 64 bits"),
    ('{"ageing_time": 1e999}', "F: ageing_time inf: expected a finite number"),
    ('{"mtu": 36893488147419103232}', "F: mtu: expected a number of 64 bits, not of 66"),
    ('{"mtu": ' + "9" * 5000 + "}", "F: 99999999999999999999...: expected a finite number of 64 bits"),
    ('{"a": ["b", "c\\u0000"]}', r"F: a[1] 'c\x00': expected no NUL"),
    ('{"a": {"\\u0000": 1}}', r"F: a: key '\x00': expected no NUL"),
    ('{"a\\u0000": 1}', r"F: key 'a\x00': expected no NUL"), ('{"a": "\0"}', None), ('{"a": "\n"}', None),
    ('{"a.b": {"c": ["\\u0000"]}}', r"F: 'a.b'.c[0] '\x00': expected no NUL"),
    ('{"a": ' * 17 + "1" + "}" * 17, "F: expected no more than 16 tables and lists in each other"),
    ("[" * 100000, "F: expected no more than 16 tables and lists in each other"),
    ('{"a":' * 100000, "F: expected no more than 16 tables and lists in each other"),
    (" " * (1 << 20) + "{}", "F: expected at most 1048576 bytes"),
    ('{"bridge": "br0", "address": "10.0.0.1/24", "attachments": [{"adress": "auto"}]}',
     "F: attachments[0]: key 'adress': there is none of that name; did you mean 'address'?"),
])
def test_a_bad_json_file_is_refused_in_one_line(text, line):
    said = refused(declaration.loads, text, "F", "json")
    assert said == line if line else re.match(r"F line \d column \d+: ", said)


def test_bytes_that_are_no_utf8_are_refused():
    assert refused(declaration.loads, b'{"a": "\xff"}', "F") == "F: expected UTF-8, which byte 7 is not"


@needs_toml
@pytest.mark.parametrize("text, line", ids=brief, argvalues=[
    ("", "F: bridge: there is none; expected the name of the bridge"),
    ("a = \n", "F line 1 column 5: Invalid value"), ("a = 1\na = 2", None), ("a = 1\n\u00e9", None),
    ('x = 1\ny = """', None), ("ageing_time = nan", "F: ageing_time nan: expected a finite number"),
    ("ageing_time = 1e999", "F: ageing_time inf: expected a finite number"),
    ("mtu = 0x" + "f" * 5000, "F: mtu: expected a number of 64 bits, not of 20000"),
    ('a = "\\u0000"', r"F: a '\x00': expected no NUL"),
    ("bridge = 2020-01-01", "F: bridge datetime.date(2020, 1, 1): " + IFNAME_LINE),
    ("a." * 64 + "a = 1", "F: expected keys of less than 64 parts"),
    ("[" + "'a' . " * 64 + "a]", "F: expected keys of less than 64 parts"),
    ("a." * 20 + "a = 1", "F: expected no more than 16 tables and lists in each other"),
    ("a = " + "[" * 100000, "F: expected no more than 16 tables and lists in each other"),
    ("a = " + "{a=" * 100000, "F: expected no more than 16 tables and lists in each other"),
    ("[network]\nbridge = 'br0'", "F: network: expected a list of at least one, [[network]] in TOML"),
])
def test_a_bad_toml_file_is_refused_in_one_line(text, line):
    said = refused(declaration.loads, text, "F", "toml")
    assert said == line if line else re.match(r"F line \d(?: column \d+)?: ", said)


def test_a_python_without_toml_says_where_to_get_it(monkeypatch):
    for module in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, module, None)
    assert refused(declaration.loads, TOML, "F") == (
        "F: expected JSON; for TOML, Python 3.11 or newer, or pip install 'nsnet[toml]'")
    assert declaration.loads(json.dumps(TABLE), "F")


# --- whatever is given ---

NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True).filter(
    lambda name: name not in ("all", "default", "lo"))
TEXTS = st.sampled_from(["x", "/a/b", "é", "\udcff", "a b\t"])
RLIMIT = st.one_of(st.integers(0, 2**63 - 1), st.just("unlimited"))
ID = st.one_of(st.integers(0, idmap.MAX_ID), TEXTS)
MAP = st.one_of(st.just("0:1000:1"), st.just([[0, 1000, 1], [1, 5000, 100]]))
LLADDR = st.binary(min_size=5, max_size=5).map(lambda data: (b"\2" + data).hex(":"))
MTU = st.integers(68, 65535)
OF_COMMAND = st.fixed_dictionaries({
    "new": st.sets(st.sampled_from(["pid", "mnt", "time"])).map(lambda more: [*sorted(more), "net", "user", "uts"]),
}, optional={
    "capabilities": st.lists(st.sampled_from(values.CAPABILITIES), max_size=3),
    "env": st.dictionaries(TEXTS, TEXTS, max_size=2), "cwd": TEXTS, "user": ID, "group": ID,
    "groups": st.lists(ID, max_size=3, unique=True), "hostname": TEXTS, "uid_map": MAP, "gid_map": MAP,
    "stdin": TEXTS, "stdout": st.one_of(TEXTS, st.just("null")), "stderr": TEXTS, "umask": st.integers(0, 0o777),
    "oom_score_adj": st.integers(-1000, 1000), "cgroup": TEXTS, "no_new_privs": st.booleans(),
    "rlimits": st.dictionaries(st.sampled_from(sorted(kinds.LIMITS)), RLIMIT, max_size=2),
})
ROUTES = st.lists(st.fixed_dictionaries({"dst": st.integers(0, 255).map(lambda n: f"10.{n}.0.0/16")}, optional={
    "via": st.integers(2, 250).map(lambda n: f"10.0.0.{n}"), "metric": st.integers(1, 9)}), max_size=2,
    unique_by=lambda route: route["dst"])


@st.composite
def attachments(draw, index):
    """One that meets no other: what there is only once has its place in it."""
    table = draw(st.fixed_dictionaries({}, optional={
        "name": st.just(f"web{index}"), "ifname": NAMES, "host_ifname": st.just(f"veth{index}"),
        "lladdr": st.just(f"02:00:00:00:00:{index:02x}"), "mtu": MTU, "default_route": st.booleans(), "routes": ROUTES,
        "sysctls": st.dictionaries(st.sampled_from(["net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/rp_filter"]),
                                   st.one_of(st.integers(0, 9), st.booleans(), st.just("1 2")))}))
    table["address"] = draw(st.sampled_from(["auto", f"10.0.0.{index + 2}/24",
                                             [f"fd00::{index + 2:x}/64", f"10.0.0.{index + 2}/24"]]))
    target = draw(st.sampled_from(["command", "pid", "netns", "pin"]))
    table[target] = {"command": ["true", "é", ""], "pid": index + 1, "netns": f"/ns/{index}",
                     "pin": f"p{index}"}[target]
    if target == "command":
        table.update(draw(OF_COMMAND))
    return table


@st.composite
def networks(draw):
    table = draw(st.fixed_dictionaries({"bridge": NAMES.map(lambda name: f"b{name}"[:15])}, optional={
        "stp": st.booleans(), "lladdr": st.just("02:00:00:00:01:00"), "mtu": MTU,
        "ageing_time": st.one_of(st.integers(0, 10**6), st.floats(0, 10**6)), "exclude": st.just(["fd00::1:0:0:0/80"]),
        "lifetime": st.sampled_from(["process", "declared", "attachments"]),
        "forward": st.lists(st.sampled_from(["eth0", "wlan0"]), unique=True),
        "ranges": st.lists(st.sampled_from(["10.0.0.9", "10.0.0.10-10.0.0.20", "fd00:0::/80"]), unique=True)}))
    several = [draw(attachments(index)) for index in range(draw(st.integers(0, 3)))]
    return {**table, "address": ["10.0.0.1/24", "fd00::1/64"], "attachments": several}


@given(networks())
def test_a_spec_comes_back_from_its_dict(table):
    spec = declaration.network(table)
    plain = json.loads(json.dumps(declaration.as_dict(spec)))
    assert declaration.network(plain) == spec and hash(declaration.network(plain)) == hash(spec)
    assert declaration.as_dict(declaration.network(plain)) == declaration.as_dict(spec)
    assert declaration.loads(json.dumps({"network": [plain]}), "F") == (spec,)
    alone = spec._replace(attachments=())
    for item in spec.attachments:
        assert declaration.attachment(declaration.as_dict(item), alone) == item


def test_a_dict_has_what_differs_from_the_defaults():
    assert declaration.as_dict(PLAIN) == {**NET, "lifetime": "process"}
    found = declaration.attachment({"pid": 1, "address": ["auto"], "default_route": True, "ifname": "eth0"}, PLAIN)
    assert declaration.as_dict(found) == {"name": "n0", "pid": 1}
    assert declaration.as_dict(RouteSpec("default", "10.0.0.1")) == {"dst": "default", "via": "10.0.0.1"}
    assert attached("umask", 0o22) == 0o22
    one = declaration.attachment({"command": ["x"], "address": "auto", "umask": 0o22, "capabilities": ["CAP_KILL"],
                                  "rlimits": {"nofile": 5, "core": [0, "unlimited"]}}, PLAIN)
    assert declaration.as_dict(one) == {"name": "n0", "command": ["x"], "umask": "022", "capabilities": ["kill"],
                                        "rlimits": {"nofile": 5, "core": [0, "unlimited"]}}


WORDS = sorted({key.name for key in (*NETWORK, *ATTACHMENT, *ROUTE)} | {"network", "version", "networks"})
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2**70, 2**70), st.floats(), ANY_TEXT,
              st.sampled_from(["10.0.0.1/24", "10.0.0.2/24", "auto", "default", "br0", "declared", "0:0:1", 1, 0])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(
        st.one_of(st.sampled_from(WORDS), ANY_TEXT), inner, max_size=3)), max_leaves=12)


@given(table=st.dictionaries(st.sampled_from(WORDS), ANYTHING, max_size=4), good=networks(), inner=ANYTHING,
       key=st.sampled_from([key.name for key in ATTACHMENT]))
def test_any_value_is_a_network_or_a_usage_error(table, good, inner, key):
    tables = (table, {**good, **table},
              {**good, "attachments": [*good["attachments"], {"pid": 99, "address": "auto", key: inner}]},
              {**good, "attachments": [{"command": ["x"], "address": "auto", key: inner}]})
    for given_ in tables:
        try:
            spec = declaration.network(given_)
        except UsageError as error:
            assert one_line(str(error))
        else:
            assert isinstance(spec, NetworkSpec) and declaration.network(declaration.as_dict(spec)) == spec


@st.composite
def spoilt(draw, text):
    """Some bytes of a text lost, repeated or exchanged."""
    data = bytearray(text.encode())
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 6))
        data[at:at + length] = draw(st.one_of(st.binary(max_size=4), st.sampled_from(
            [b'"', b"[", b"]", b"{", b"}", b"[[", b".", b"=", b"\n", b"nan", b"0x", b"1e9", b"'''", b'"""', b"\\u0000",
             b","])))
    return bytes(data)


EXAMPLE = json.dumps({"network": [{**NET, "attachments": [
    {"command": ["x"], "address": "auto", "rlimits": {"core": 1}}]}]})


@given(data=st.one_of(st.binary(max_size=60), spoilt(EXAMPLE), spoilt(TOML), ANYTHING.map(json.dumps).map(str.encode)),
       kind=st.sampled_from(["json", "toml", None]))
def test_any_bytes_are_networks_or_a_usage_error(data, kind):
    try:
        found = declaration.loads(data, "F", kind)
    except UsageError as error:
        assert one_line(str(error)) and str(error).startswith("F")
    else:
        assert all(isinstance(item, NetworkSpec) for item in found)


# --- what it is for ---

def test_the_options_are_those_of_spawn(monkeypatch):
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", "SECRET": "x", "TERM": "vt100"})
    spec = declaration.attachment({
        "address": "auto", "command": ["x"], "capabilities": ["kill"], "env": {"A": "1", "TERM": "y"}, "cwd": "/",
        "user": 1, "group": "adm", "groups": [2], "hostname": "h", "umask": "022", "new": ["net", "user", "uts"],
        "uid_map": "0:7:9", "stdout": "/x", "cgroup": "/c", "oom_score_adj": 5, "no_new_privs": False,
        "rlimits": {"nofile": [1, 2]}}, PLAIN)
    assert declaration.options(spec) == {
        "capabilities": ("kill",), "env": {"PATH": "/bin", "TERM": "y", "A": "1"}, "cwd": "/", "user": 1,
        "group": "adm", "groups": (2,), "hostname": "h", "umask": 0o22, "new": ("net", "user", "uts"),
        "uid_map": ((0, 7, 9),), "cgroup": "/c", "oom_score_adj": 5, "no_new_privs": False,
        "rlimits": {resource.RLIMIT_NOFILE: (1, 2)}}
    plain = declaration.options(declaration.attachment({"address": "auto", "command": ["x"]}, PLAIN))
    assert plain == {"capabilities": (), "env": {"PATH": "/bin", "TERM": "vt100"}, "new": ("net", "user"),
                     "no_new_privs": True, "rlimits": {}}


def test_every_option_is_one_of_spawn():
    known = {*job.Job.__init__.__kwdefaults__, *job.Command.__init__.__kwdefaults__}
    assert {key.name for key in ATTACHMENT if key.of_command} <= known


def test_what_is_derived_is_always_the_same():
    assert declaration.derived_lladdr("br0", "web") == "02:1f:f7:61:ba:94"      # printf 'br0\\0web' | sha256sum
    assert declaration.derived_ifname("br0", "web") == "veth1ff761ba"


@given(st.lists(ANY_TEXT, max_size=3))
def test_what_is_derived_can_be_used(parts):
    lladdr, ifname = declaration.derived_lladdr(*parts), declaration.derived_ifname(*parts)
    assert values.lladdr(lladdr) == lladdr and lladdr.startswith("02:")
    assert values.ifname(ifname) == ifname and re.fullmatch("veth[0-9a-f]{8}", ifname)


def test_what_is_derived_keeps_the_parts_apart():
    assert declaration.derived_lladdr("ab", "c") != declaration.derived_lladdr("a", "bc")


# --- the schema ---

def fits(value, schema, root):
    """Whether JSON Schema takes a value: of draft 2020-12 what schema() uses, and nothing it does not know."""
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    def is_a(kind):
        return isinstance(value, types[kind]) and (kind == "boolean" or not isinstance(value, bool))
    def sub(key, one):
        return fits(value if key is None else value[key], one, root)
    length = len(value) if isinstance(value, (str, list)) else 0
    number = value if is_a("number") else None
    table, listed = (value if isinstance(value, kind) else () for kind in (dict, list))
    checks = {
        "$schema": lambda _: True, "$defs": lambda _: True, "title": lambda _: True, "description": lambda _: True,
        "default": lambda _: True, "$ref": lambda ref: sub(None, root["$defs"][ref.rpartition("/")[2]]),
        "type": lambda names: any(map(is_a, [names] if isinstance(names, str) else names)),
        "const": lambda one: value == one and type(value) is type(one), "enum": lambda several: value in several,
        "pattern": lambda text: not isinstance(value, str) or re.search(text, value) is not None,
        "minimum": lambda low: number is None or number >= low,
        "maximum": lambda high: number is None or number <= high,
        "minLength": lambda low: not isinstance(value, str) or length >= low,
        "maxLength": lambda high: not isinstance(value, str) or length <= high,
        "minItems": lambda low: not isinstance(value, list) or length >= low,
        "maxItems": lambda high: not isinstance(value, list) or length <= high,
        "uniqueItems": lambda _: len({json.dumps(item) for item in listed}) == len(listed),
        "items": lambda one: all(fits(item, one, root) for item in listed),
        "contains": lambda one: not isinstance(value, list) or any(fits(item, one, root) for item in listed),
        "properties": lambda rows: all(sub(key, rows[key]) for key in table if key in rows),
        "required": lambda keys: all(key in table for key in keys),
        "additionalProperties": lambda one: all(one and sub(key, one) for key in table
                                                if key not in schema.get("properties", ())),
        "propertyNames": lambda one: all(fits(key, one, root) for key in table),
        "dependentRequired": lambda rows: all(need in table for key in table for need in rows.get(key, ())),
        "anyOf": lambda several: any(sub(None, one) for one in several), "not": lambda one: not sub(None, one),
        "oneOf": lambda several: sum(sub(None, one) for one in several) == 1,
    }
    return all(checks[word](argument) for word, argument in schema.items())


@given(networks())
def test_the_schema_takes_what_is_taken(table):
    schema, plain = declaration.schema(), declaration.as_dict(declaration.network(table))
    for document in (table, plain, {"version": 1, **plain}, {"network": [plain, table]}):
        assert fits(json.loads(json.dumps(document)), schema, schema)


@pytest.mark.parametrize("document", [
    {}, {"network": []}, {**NET, "network": [NET]}, {**NET, "version": 2}, {**NET, "bridge": "lo"}, {**NET, "mtu": 1},
    {**NET, "brigde": "x"}, {"bridge": "br0"}, {**NET, "lifetime": "x"}, {**NET, "stp": 1}, {**NET, "ageing_time": -1},
    {**NET, "attachments": [{}]}, {**NET, "attachments": [{"pid": 0}]}, {**NET, "attachments": [{"address": "auto"}]},
    {**NET, "attachments": [{"address": "auto", "pid": 1, "pin": "x"}]},
    {**NET, "attachments": [{"address": "auto", "pid": 1, "env": {}}]},
    {**NET, "attachments": [{"address": "auto", "command": ["x"], "new": ["user"]}]},
    {**NET, "attachments": [{"address": "auto", "command": ["x"], "rlimits": {"x": 1}}]},
    {**NET, "attachments": [{"address": "auto", "command": ["x"], "rlimits": {"core": "many"}}]},
    {**NET, "attachments": [{"address": "auto", "pid": 1, "routes": [{"via": "10.0.0.1"}]}]},
])
def test_the_schema_refuses_what_is_refused(document):
    schema = declaration.schema()
    assert not fits(document, schema, schema)
    refused(declaration.loads, json.dumps(document), "F")


@pytest.mark.parametrize("keys", [NETWORK, ATTACHMENT, ROUTE], ids=["network", "attachment", "route"])
def test_every_key_is_described(keys):
    defined = declaration.schema()["$defs"]
    table = next(one for one in defined.values() if list(one["properties"]) == [key.name for key in keys])
    assert all(row["description"] and one_line(row["description"]) for row in table["properties"].values())
    assert json.loads(json.dumps(defined)) == defined


def test_the_fields_of_a_spec_are_its_keys():
    for spec, keys, more in ((NetworkSpec, NETWORK, []), (AttachmentSpec, ATTACHMENT, ["gateways"]),
                             (RouteSpec, ROUTE, [])):
        assert sorted(spec._fields) == sorted([key.field or key.name for key in keys] + more)


def test_the_examples_of_readme_are_declarations():
    text = (ROOT / "README.md").read_text()
    shown = textwrap.dedent(re.search(r"    \$ cat net.toml\n((?:    .*\n|\n)*?)    \$ ", text).group(1))
    (whole,) = re.findall(r"^```toml\n(.*?)^```$", text, re.M | re.S)
    pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    (short,), (long,) = (declaration.loads(one, "README.md", "toml") for one in (shown, whole))
    assert [one.name for one in short.attachments] == ["site"] and [one.pin for one in long.attachments] == [None, "blue"]


def test_readme_names_every_key():
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Declaring networks"):text.index("## Running commands")]
    named = set(re.findall(r"`([a-z_]+)`", section))
    assert {key.name for key in (*NETWORK, *ATTACHMENT)} <= named | {"metric"}

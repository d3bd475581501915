"""Each kind of thing broken with `ip`: what is wrong is named, nothing else is, and `up` mends that and nothing else.

What is sent is counted: requests of a NEW, DEL or SET type, and sysctls that are written.
"""

import json
import os
import re
import signal
import time

import pytest

import nsnet
from live_helpers import claims, has_ended, ifnames, ip_link, is_gone, links_of, needs, run_nsnet
from network_helpers import (BOTH, SLEEP, Writes, declared, entry, fd_path, leased, reaches, route_table, sh, strays,
                             sysctl, told)
from test_live_killed import traced

pytestmark = needs("ip")
KEYS = {"address": BOTH, "lladdr": "02:00:00:00:00:77", "mtu": 1400, "ageing_time": 100}
ROUTES = [{"dst": "192.0.2.0/24", "via": "10.0.0.9", "metric": 7}, {"dst": "fd01::/64", "via": "fd00::9"}]


class Site:
    """A host with an uplink, a container `box`, an attached namespace `one`, and the network of both, up."""

    def __init__(self, host, one, network):
        self.host, self.one, self.network = host, one, network

    def listener(self):
        return reaches(self.host, self.one, "10.0.0.2", "fd00::2")

    def faults(self):
        return [str(fault) for fault in self.network.faults()]


@pytest.fixture
def site(host, monkeypatch):
    with nsnet.Netns.new(beside=host) as one:
        host.add_veth("up0", peer="up1")
        host.set_link("up0", up=True, link_local=False)
        network = declared(
            host, {"name": "box", "command": SLEEP, "address": ["10.0.0.3/24", "fd00::3/64"], "host_ifname": "v0"},
            {"name": "one", "netns": fd_path(one), "address": ["10.0.0.2/24", "fd00::2/64"], "host_ifname": "v1",
             "lladdr": "02:00:00:00:00:05", "routes": ROUTES, "sysctls": {"net.ipv4.conf.eth0.rp_filter": 1}},
            forward=["up0"], **KEYS)
        network.up()
        try:
            assert network.faults() == []
            made = Site(host, one, network)
            assert made.listener()
            made.writes = Writes(monkeypatch)
            yield made
        finally:
            network.down()
            host.del_link("up0")


# The v6 addresses and routes of a link that is set down go, and its v4 routes; what is left to say follows from that.
DOWN_6 = ["no address fd00::2/64", "no route to fd01::/64 via fd00::9", "no route to default via fd00::1"]
DOWN_4 = ["no route to 192.0.2.0/24 via 10.0.0.9", "no route to default via 10.0.0.1"]
BROKEN = [  # where, command, faults, how many changes that takes
    ("host", "link set br0 down", ["br0: no address fd00::1/64", "br0: down"], 2),
    ("host", "address delete 10.0.0.1/24 dev br0", ["br0: no address 10.0.0.1/24"], 1),
    ("host", "address delete fd00::1/64 dev br0", ["br0: no address fd00::1/64"], 1),
    ("host", "link set br0 address 02:00:00:00:00:99", ["br0: MAC 02:00:00:00:00:99, expected 02:00:00:00:00:77"], 1),
    ("host", "link set br0 mtu 1300", ["br0: MTU 1300, expected 1400"], 1),
    ("host", "link set br0 type bridge ageing_time 5000", ["br0: ageing_time 5000, expected 10000"], 1),
    ("host", "link set v1 nomaster", ["one: v1: no port of the bridge"], 1),
    ("host", "link set v1 down", ["one: v1: down"], 1),
    ("host", "link set v1 mtu 1280", ["one: v1: MTU 1280, expected 1400"], 1),
    ("one", "link set lo down", ["one: lo: down"], 1),
    ("one", "link set eth0 down", [f"one: eth0: {what}" for what in (
        DOWN_6[0], "down", DOWN_4[0], DOWN_6[1], DOWN_4[1], DOWN_6[2])], 6),
    ("one", "address delete 10.0.0.2/24 dev eth0", [
        f"one: eth0: {what}" for what in ("no address 10.0.0.2/24", *DOWN_4)], 3),
    ("one", "address delete fd00::2/64 dev eth0", ["one: eth0: no address fd00::2/64"], 1),
    ("one", "route delete default", ["one: eth0: no route to default via 10.0.0.1"], 1),
    ("one", "-6 route delete default", ["one: eth0: no route to default via fd00::1"], 1),
    ("one", "route delete 192.0.2.0/24", ["one: eth0: no route to 192.0.2.0/24 via 10.0.0.9"], 1),
    ("one", "-6 route delete fd01::/64", ["one: eth0: no route to fd01::/64 via fd00::9"], 1),
    ("one", "link set eth0 address 02:00:00:00:00:06", [
        "one: eth0: MAC 02:00:00:00:00:06, expected 02:00:00:00:00:05"], 1),
    ("one", "link set eth0 mtu 1290", ["one: eth0: MTU 1290, expected 1400"], 1),
]


@pytest.mark.parametrize("where, command, faults, changes", BROKEN, ids=[f"{row[0]}: {row[1]}" for row in BROKEN])
def test_what_is_broken_is_named_and_mended_alone(site, where, command, faults, changes):
    sh(getattr(site, where), command)
    assert site.faults() == faults
    assert site.writes.taken() == []                        # to look is not to touch
    before = {name: index for netns in (site.host, site.one) for name, index in links_of(netns).items()}
    assert [str(fault) for fault in site.network.up()] == faults
    assert len(site.writes.taken()) == changes
    assert site.faults() == [] == site.network.up() and site.writes.taken() == []
    assert {name: index for netns in (site.host, site.one) for name, index in links_of(netns).items()} == before
    assert site.listener()


def test_the_bridge_deleted(site):
    """Its ports are left without one; the container's process and both veth pairs stay."""
    pid, index = entry(site.network, "box")["pid"], links_of(site.host)["v1"]
    sh(site.host, "link delete br0")
    faults = ["br0: no bridge", "box: v0: no port of the bridge", "one: v1: no port of the bridge",
              "br0: no forwarding to up0"]
    assert site.faults() == faults
    assert [str(fault) for fault in site.network.up()] == faults
    assert site.faults() == [] and not is_gone(pid) and links_of(site.host)["v1"] == index
    assert site.listener()
    for key in ("ipv4/conf/br0/forwarding", "ipv6/conf/br0/force_forwarding"):
        assert sysctl(site.host, f"net/{key}") == "1"


@pytest.mark.parametrize("where, command, fault", [
    ("host", "link delete v1", "one: no v1"), ("one", "link delete eth0", "one: no v1"),
    ("one", "link set eth0 name lan9", "one: no eth0 in it")])
def test_a_pair_that_is_no_more_is_made_anew(site, where, command, fault):
    pid, index = entry(site.network, "box")["pid"], links_of(site.host)["v0"]
    sh(getattr(site, where), command)
    assert site.faults() == [fault]
    assert [str(one) for one in site.network.up()] == [fault]
    words = site.writes.taken()
    assert not any("v0" in word for word in words), words
    assert site.faults() == [] and not is_gone(pid) and links_of(site.host)["v0"] == index
    assert ifnames(site.one) == ["eth0", "lo"] and ip_link(site.one, "eth0")["address"] == "02:00:00:00:00:05"
    assert site.listener()


def test_the_hosts_end_renamed(site):
    index = links_of(site.host)["v1"]
    sh(site.host, "link set v1 name v9")
    assert site.faults() == ["one: v1: its name is v9, expected v1"]
    site.network.up()
    assert len(site.writes.taken()) == 1
    assert site.faults() == [] and links_of(site.host)["v1"] == index and site.listener()


@pytest.mark.parametrize("key, value", [("net/ipv4/conf/eth0/rp_filter", "0")])
def test_a_sysctl_changed(site, key, value):
    nsnet.sysctls.write(site.one, {key: value})
    site.writes.taken()
    assert site.faults() == [f"one: {key.replace('/', '.')} is {value}, expected 1"]
    site.network.up()
    assert site.writes.taken() == [f"sysctl {key.replace('/', '.')}"]
    assert site.faults() == [] and sysctl(site.one, key) == "1" and site.listener()


def test_the_command_killed(site):
    was = entry(site.network, "box")
    pidfd = os.pidfd_open(was["pid"])
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert has_ended(pidfd)
    finally:
        os.close(pidfd)
    assert site.faults() == [f"box: process {was['pid']} has ended"]
    index = links_of(site.host)["v1"]
    site.network.up()
    now = entry(site.network, "box")
    assert now["pid"] != was["pid"] and not is_gone(now["pid"]) and now["addresses"] == was["addresses"]
    assert site.faults() == [] and links_of(site.host)["v1"] == index and site.listener()


@pytest.mark.parametrize("key, what", [
    ("net.ipv4.conf.up0.forwarding", "IPv4 on up0"), ("net.ipv4.conf.br0.forwarding", "IPv4 on br0"),
    ("net.ipv6.conf.br0.force_forwarding", "IPv6 on br0"), ("net.ipv6.conf.up0.force_forwarding", "IPv6 on up0")])
def test_forwarding_switched_off(site, key, what):
    nsnet.sysctls.write(site.host, {key: 0})
    site.writes.taken()
    assert site.faults() == [f"br0: no forwarding of {what}"]
    site.network.up()
    assert len(site.writes.taken()) == 1
    assert site.faults() == [] and sysctl(site.host, key.replace(".", "/")) == "1"


def test_several_things_at_once(site):
    """Each of them in its own place; what is whole is not touched."""
    sh(site.host, "link set br0 mtu 1300")
    sh(site.host, "link set v0 nomaster")
    sh(site.one, "route delete default")
    faults = ["br0: MTU 1300, expected 1400", "box: v0: no port of the bridge",
              "one: eth0: no route to default via 10.0.0.1"]
    assert site.faults() == faults
    assert [str(fault) for fault in site.network.up()] == faults
    assert len(site.writes.taken()) == 3 and site.faults() == [] and site.listener()


def test_what_is_there_beyond_what_was_declared_is_left_alone(site):
    sh(site.host, "address add 192.0.2.1/24 dev br0")
    sh(site.one, "address add 192.0.2.2/24 dev eth0")
    sh(site.one, "route add 203.0.113.0/24 via 10.0.0.1")
    sh(site.host, "link add theirs type veth peer theirs1")
    sh(site.host, "link set theirs master br0")
    assert site.faults() == [] == site.network.up() and site.writes.taken() == []
    assert "192.0.2.1/24" in told(site.host, "br0") and ip_link(site.host, "theirs")["master"] == "br0"
    sh(site.host, "link delete theirs")


def test_a_namespace_that_is_gone(host, state):
    """Nothing can be mended there until it is back."""
    other = nsnet.Netns.new(beside=host)
    network = declared(host, {"name": "a", "netns": fd_path(other), "address": "10.0.0.2/24", "host_ifname": "v0"})
    network.up()
    other.close()
    host.del_link("v0", missing_ok=True)                    # it goes with its namespace, but late
    (fault,) = network.faults()
    assert str(fault).startswith("a: its network namespace cannot be reached: open /proc/")
    with pytest.raises(nsnet.NsnetError):
        network.up()
    network.down()
    assert strays(host) == [] and claims(state) == []


# --- another declaration ---

def attached(name, netns, **more):
    return {"name": name, "netns": fd_path(netns), "ifname": name, "host_ifname": f"v{name}",
            "default_route": False, **more}


@pytest.fixture
def other(host):
    with nsnet.Netns.new(beside=host) as netns:
        yield netns


class Change:
    """A network up by one declaration, and then by another."""

    def __init__(self, host, first, second, monkeypatch):
        self.before = declared(host, *first.pop("attachments"), **first)
        self.after = declared(host, *second.pop("attachments"), **second)
        self.before.up()
        assert self.before.faults() == []
        self.writes = Writes(monkeypatch)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.after.down()
        self.before.down()


def test_an_attachment_less(host, other, monkeypatch):
    a, b = attached("a", other, address="10.0.0.2/24"), attached("b", other, address="10.0.0.3/24")
    with Change(host, {"attachments": [a, b]}, {"attachments": [b]}, monkeypatch) as change:
        index = links_of(host)["vb"]
        assert [str(fault) for fault in change.after.faults()] == ["a: it is not declared any more"]
        assert [str(fault) for fault in change.after.up()] == ["a: it is not declared any more"]
        assert len(change.writes.taken()) == 1
        assert ifnames(other) == ["b", "lo"] and links_of(host)["vb"] == index and change.after.faults() == []


def test_an_attachment_more(host, other, monkeypatch):
    a, b = attached("a", other, address="10.0.0.2/24"), attached("b", other, address="10.0.0.3/24")
    with Change(host, {"attachments": [b]}, {"attachments": [a, b]}, monkeypatch) as change:
        index = links_of(host)["vb"]
        assert [str(fault) for fault in change.after.up()] == ["a: it is not attached"]
        assert not [words for words in change.writes.taken() if "vb" in words or " b " in words]
        assert ifnames(other) == ["a", "b", "lo"] and links_of(host)["vb"] == index and change.after.faults() == []


def test_an_attachment_changed(host, other, monkeypatch):
    a, b = attached("a", other, address="10.0.0.2/24"), attached("b", other, address="10.0.0.3/24")
    with Change(host, {"attachments": [a, b]}, {"attachments": [{**a, "address": "10.0.0.4/24"}, b]},
                monkeypatch) as change:
        index = links_of(host)["vb"]
        assert [str(fault) for fault in change.after.up()] == ["a: it was declared differently"]
        assert "10.0.0.4/24" in told(other, "a") and "10.0.0.2/24" not in told(other, "a")
        assert links_of(host)["vb"] == index and change.after.faults() == []


def test_a_command_changed(host, monkeypatch):
    one = {"name": "box", "command": SLEEP, "address": "auto"}
    with Change(host, {"attachments": [one]}, {"attachments": [{**one, "command": ["/bin/sleep", "2000"]}]},
                monkeypatch) as change:
        was = entry(change.before, "box")
        change.after.up()
        now = entry(change.after, "box")
        assert is_gone(was["pid"]) and now["addresses"] == was["addresses"]
        with open(f"/proc/{now['pid']}/cmdline", "rb") as file:
            assert file.read().split(b"\0")[1] == b"2000"
        assert change.after.faults() == []


def test_what_was_attached_by_hand_is_left_alone(host, other, monkeypatch):
    a = attached("a", other, address="10.0.0.2/24")
    with Change(host, {"attachments": [a]}, {"attachments": []}, monkeypatch) as change:
        change.before.attach(other, name="hand", ifname="hand", address="10.0.0.9/24", default_route=False)
        change.after.up()
        assert ifnames(other) == ["hand", "lo"] and change.after.faults() == []
        assert [one["name"] for one in change.after.entries()] == ["hand"]


def test_the_bridge_has_another_address_in_its_subnet(host, other, monkeypatch):
    """The default route of what is attached goes another way, too."""
    a = {**attached("a", other, address="10.0.0.2/24"), "default_route": True}
    with Change(host, {"attachments": [a]}, {"attachments": [a], "address": "10.0.0.254/24"}, monkeypatch) as change:
        change.after.up()
        assert set(told(host, "br0")) == {"10.0.0.254/24"}
        assert route_table(other, "-4") == {("default", "10.0.0.254", "a", None)}
        assert change.after.faults() == [] and reaches(host, other, "10.0.0.2")


def test_the_bridge_has_fewer_addresses(host, monkeypatch):
    """With the first of a subnet the kernel would take the others."""
    first = {"attachments": [], "address": ["10.0.0.1/24", "10.0.0.5/24", "10.0.0.9/24"]}
    with Change(host, first, {"attachments": [], "address": ["10.0.0.5/24", "10.0.0.7/24"]}, monkeypatch) as change:
        assert len(change.after.up()) == 3
        assert set(told(host, "br0")) == {"10.0.0.5/24", "10.0.0.7/24"} and change.after.faults() == []


def test_the_bridge_has_another_subnet(host, other, monkeypatch):
    a = attached("a", other, address="10.0.0.2/24")
    b = {"name": "b", "command": SLEEP, "address": "auto"}
    with Change(host, {"attachments": [a, b]}, {"attachments": [{**a, "address": "10.5.0.2/16"}, b],
                                                "address": "10.5.0.1/16"}, monkeypatch) as change:
        change.after.up()
        assert set(told(host, "br0")) == {"10.5.0.1/16"} and set(told(other, "a")) >= {"10.5.0.2/16"}
        assert entry(change.after, "b")["addresses"][0].endswith("/16")
        assert change.after.faults() == [] and reaches(host, other, "10.5.0.2")


def test_the_bridge_has_another_mtu(host, other, monkeypatch):
    """And so has what is attached, where it was not given its own."""
    a = attached("a", other, address="10.0.0.2/24")
    with Change(host, {"attachments": [a], "mtu": 1400}, {"attachments": [a], "mtu": 1300}, monkeypatch) as change:
        change.after.up()
        assert [ip_link(host, "br0")["mtu"], ip_link(host, "va")["mtu"], ip_link(other, "a")["mtu"]] == [1300] * 3
        assert change.after.faults() == []


def test_another_lifetime(host, other, monkeypatch):
    a = attached("a", other, address="10.0.0.2/24")
    with Change(host, {"attachments": [a]}, {"attachments": [a], "lifetime": "attachments"}, monkeypatch) as change:
        change.after.up()
        assert change.after.faults() == [] and change.writes.taken() == []
        change.after.detach_many(["a"])
        assert strays(host) == [] and not change.after.is_up


def test_another_uplink(host, monkeypatch):
    host.add_veth("up0", peer="up1")
    keys = [("ipv4", "forwarding", "up0"), ("ipv4", "forwarding", "up1")]
    with Change(host, {"attachments": [], "forward": ["up0"]}, {"attachments": [], "forward": ["up1"]},
                monkeypatch) as change:
        assert [sysctl(host, f"net/{ip}/conf/{name}/{key}") for ip, key, name in keys] == ["1", "0"]
        change.after.up()
        assert [sysctl(host, f"net/{ip}/conf/{name}/{key}") for ip, key, name in keys] == ["0", "1"]
    assert [sysctl(host, f"net/{ip}/conf/{name}/{key}") for ip, key, name in keys] == ["0", "0"]
    host.del_link("up0")


# --- a large file, by the command ---

def tree(directory):
    """{path: (inode, when it was changed, content)} of all of a state directory, itself too."""
    found = {}
    for place, _, names in os.walk(directory):
        for path in [place, *(os.path.join(place, name) for name in names)]:
            seen = os.stat(path)
            content = b"" if path == place else open(path, "rb").read()
            found[path] = seen.st_ino, seen.st_mtime_ns, content
    return found


NUMBERS = {16: "NEWLINK", 18: "GETLINK", 19: "SETLINK", 20: "NEWADDR", 22: "GETADDR", 24: "NEWROUTE", 26: "GETROUTE"}


def changes_in(log):
    """(netlink requests that change something, calls that change a file of nsnet's) that strace has seen."""
    text = log.read_text(errors="replace")
    # Of a socket of another network namespace strace does not know the protocol: there it has the number alone.
    kinds = [name or NUMBERS.get(int(number, 16), number) for line in text.splitlines() if line.startswith("send")
             for name, number in re.findall(r"nlmsg_type=(?:RTM_(\w+)|(0x[0-9a-f]+))", line)]
    sent = [kind for kind in kinds if not kind.startswith("GET")]
    done = [line for line in text.splitlines() if " = -1 E" not in line and "/dev/null" not in line]
    return sent, [line for line in done if re.match(r"rename|unlink|mkdir|link|truncate|fsync|openat.*O_(WRONLY|TRUNC)", line)]


FILTERS = ("-v", "-s", "100", "-e", "trace=sendto,sendmsg,openat,rename,unlink,unlinkat,mkdir,link,truncate,fsync")


@needs("strace")
def test_a_file_of_three_networks_and_fifty_attachments(host, state, tmp_path):
    file = tmp_path / "nets.json"
    file.write_text(json.dumps({"network": [
        {"bridge": f"br{number}", "address": [f"10.{number}.0.1/24", f"fd0{number}::1/64"], "attachments": [
            {"name": f"c{number}-{one}", "command": SLEEP, "host_ifname": f"v{number}-{one}", "address": "auto"}
            for one in range(count)]} for number, count in enumerate((20, 20, 10))]}))

    def nsnet_does(*words, code=0):
        done = run_nsnet(host, state, *words, timeout=120)
        assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
        return done.stdout

    started = time.monotonic()
    assert nsnet_does("up", file) == "br0: up, 20 attached\nbr1: up, 20 attached\nbr2: up, 10 attached\n"
    seconds = time.monotonic() - started
    try:
        assert len(strays(host)) == 53
        before, log = tree(state), tmp_path / "again.log"
        assert traced(host, state, ["up", str(file)], log, *FILTERS) == 0
        assert changes_in(log) == ([], []) and tree(state) == before
        assert log.read_text().count("nlmsg_type=RTM_GET") >= 53        # it did look, and strace did see it
        assert nsnet_does("up", file) == "".join(f"br{number}: it is as declared\n" for number in range(3))

        pids = {one["name"]: one["pid"] for number in range(3)
                for one in json.loads(nsnet_does("show", f"br{number}", "--json"))["attachments"]}
        assert len(pids) == 50 and not any(map(is_gone, pids.values()))
        sh(host, "address delete 10.0.0.1/24 dev br0")
        sh(host, "link set v1-7 nomaster")
        with nsnet.Netns.of_pid(pids["c2-3"]) as inner:
            sh(inner, "route delete default")
        shown = [re.findall("  not so      (.*)\n", nsnet_does("show", f"br{number}", code=1)) for number in range(3)]
        faults = ["br0: no address 10.0.0.1/24", "c1-7: v1-7: no port of the bridge",
                  "c2-3: eth0: no route to default via 10.2.0.1"]
        assert shown == [[fault] for fault in faults]
        log = tmp_path / "repair.log"
        assert traced(host, state, ["up", str(file)], log, *FILTERS) == 0
        sent, files = changes_in(log)
        assert sorted(sent) == ["NEWADDR", "NEWROUTE", "SETLINK"] and files == []
        assert nsnet_does("up", file) == "".join(f"br{number}: it is as declared\n" for number in range(3))
        assert {one["name"]: one["pid"] for number in range(3)
                for one in json.loads(nsnet_does("show", f"br{number}", "--json"))["attachments"]} == pids
    finally:
        started_down = time.monotonic()
        nsnet_does("down", file)
        print(f"50 attachments in 3 networks: up {seconds:.2f} s, down {time.monotonic() - started_down:.2f} s")
    assert strays(host) == [] and claims(state) == [] and leased(state) == [] and all(map(is_gone, pids.values()))

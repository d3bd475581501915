"""Networks as they are declared: every key does on the kernel what it says, and every lifetime ends as it says.

What is there is read back with `ip -j`, from inside by nsenter's way, and from what the commands themselves say.
"""

import os
import signal
import sys

import pytest

import nsnet
from live_helpers import (children, claims, environment, has_ended, ifnames, inside, ip_link, is_gone, needs,
                          needs_root, which)
from network_helpers import (BOTH, OWN, SLEEP, V4, declared, entry, fd_path, leased, reaches, route_table, sh, strays,
                             sysctl, told, up)
from nsnet import collection
from nsnet.network import take_down
from test_live_pins import in_a_run_of_its_own

pytestmark = needs("ip")


def ended(pid):
    """Wait for the end of a command of a network of ours."""
    pidfd = os.pidfd_open(pid)
    try:
        return has_ended(pidfd)
    finally:
        os.close(pidfd)


@pytest.fixture
def other(host):
    """A namespace to be attached, of whoever owns the host."""
    with nsnet.Netns.new(beside=host) as netns:
        yield netns


# --- the bridge ---

def test_every_key_of_a_bridge(host):
    keys = {"lladdr": "02:00:00:00:00:77", "mtu": 1400, "stp": True, "ageing_time": 12.5}
    with up(host, address=["10.0.0.1/24", "10.9.0.1/16", "fd00::1/64"], **keys) as network:
        link = ip_link(host, "br0")
        data = link["linkinfo"]["info_data"]
        assert (link["address"], link["mtu"], data["stp_state"], data["ageing_time"]) == (
            "02:00:00:00:00:77", 1400, 1, 1250)
        assert "UP" in link["flags"]
        found = told(host, "br0")
        assert {"10.0.0.1/24", "10.9.0.1/16", "fd00::1/64"} <= set(found)
        assert not found["fd00::1/64"].get("tentative") and found["fd00::1/64"]["scope"] == "global"
        for address in ("10.0.0.1", "10.9.0.1", "fd00::1"):         # bind(2) refuses a tentative one
            assert reaches(host, host, address)
        assert network.faults() == []


def test_what_is_not_declared_of_a_bridge_is_the_kernels_default(host):
    inside(host, [which("ip"), "link", "add", "plain", "type", "bridge"], check=True)
    plain = ip_link(host, "plain")
    sh(host, "link delete plain")
    with up(host):
        link = ip_link(host, "br0")
        assert link["mtu"] == plain["mtu"]
        for key in ("stp_state", "ageing_time", "forward_delay", "vlan_filtering", "priority"):
            assert link["linkinfo"]["info_data"][key] == plain["linkinfo"]["info_data"][key], key


def test_a_derived_mac_is_the_same_each_time_and_another_for_another_name(host):
    def mac(bridge, address=V4):
        with up(host, bridge=bridge, address=address):
            return ip_link(host, bridge)["address"]
    first = mac("br0")
    assert int(first[:2], 16) & 3 == 2                      # administered locally, of one station
    assert mac("br0", "10.3.0.1/16") == first != mac("br1")


# --- a command ---

SAYS = """
pwd; umask; ulimit -Sn; ulimit -Hn; id -u; id -g; cat /proc/sys/kernel/hostname /proc/self/oom_score_adj
grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs):' /proc/self/status; cat; echo "$GIVEN.$SECRET"; echo complaint >&2
"""


def test_every_key_of_a_command(host, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "not for a container")
    (tmp_path / "in").write_text("what it reads\n")
    (tmp_path / "out").write_text("what was there\n")
    one = {"name": "says", "command": ["/bin/sh", "-c", SAYS], "env": {"GIVEN": "word"}, "cwd": "/usr",
           "capabilities": ["net_bind_service"], "stdin": str(tmp_path / "in"), "stdout": str(tmp_path / "out"),
           "stderr": str(tmp_path / "err"), "umask": "027", "rlimits": {"nofile": [32, 64]}, "user": 0, "group": 0,
           "hostname": "inside", "new": ["net", "user", "uts"], "oom_score_adj": 500, "no_new_privs": True, **OWN}
    with up(host, one) as network:
        assert ended(entry(network, "says")["pid"])
    said = (tmp_path / "out").read_text().splitlines()
    limits = ["/usr", "0027", "32", "64", "0", "0", "inside", "500"]
    capabilities = [*(f"Cap{which}:\t{1 << 10:016x}" for which in ("Prm", "Eff", "Bnd")), "NoNewPrivs:\t1"]
    assert said == ["what was there", *limits, *capabilities, "what it reads", "word."]
    assert (tmp_path / "err").read_text() == "complaint\n"


@needs_root
def test_a_command_as_another_user_of_its_own_map(host, tmp_path):
    one = {"command": ["/bin/sh", "-c", "id -u; id -g; id -G; cat /proc/self/uid_map"], "stdout": str(tmp_path / "out"),
           "uid_map": [[0, 200000, 10]], "gid_map": [[0, 300000, 20]], "user": 5, "group": 7, "groups": [7, 11],
           "cwd": "/"}
    with up(host, {"name": "a", **one}) as network:
        assert ended(entry(network, "a")["pid"])
    uid, gid, groups, uid_map = (tmp_path / "out").read_text().splitlines()
    assert (uid, gid, groups.split(), uid_map.split()) == ("5", "7", ["7", "11"], ["0", "200000", "10"])


def test_a_command_has_nothing_of_ours(host, tmp_path):
    """No terminal, no descriptor, no capability, no variable but four; nothing to read."""
    show = ("ls /proc/self/fd; cut -d' ' -f7 /proc/self/stat; grep CapEff /proc/self/status; env; cat;"
            " ls -l /proc/self/fd/0")
    with up(host, {"name": "a", "command": ["/bin/sh", "-c", show], "stdout": str(tmp_path / "out"), **OWN}) as network:
        assert ended(entry(network, "a")["pid"])
    said = (tmp_path / "out").read_text().splitlines()
    assert said[:4] == ["0", "1", "2", "3"]                         # 3: that of ls itself
    assert said[4:6] == ["0", "CapEff:\t0000000000000000"]
    names = {line.partition("=")[0] for line in said[6:-1]}
    assert names <= {"PATH", "TERM", "LANG", "TZ", "PWD", "SHLVL", "_", "OLDPWD"}, names
    assert said[-1].endswith("/dev/null")


def test_a_file_that_cannot_be_opened_is_told_before_anything_is_made(host, state):
    before = strays(host)
    network = declared(host, {"name": "a", "command": SLEEP, "stdout": "/proc/none/out"})
    with pytest.raises(nsnet.KernelError) as failed:
        network.up()
    assert failed.value.step == "stdout /proc/none/out"
    assert strays(host) == before and children() == set() and claims(state) == []
    del failed


def test_a_command_that_is_not_there_undoes_all(host, state):
    network = declared(host, {"name": "good", "command": SLEEP, "address": "auto"},
                       {"name": "bad", "command": ["/nonexistent/command"], "address": "auto"})
    with pytest.raises(nsnet.KernelError) as failed:
        network.up()
    assert failed.value.step == "execve"
    assert strays(host) == [] and children() == set() and claims(state) == [] and leased(state) == []
    del failed


# --- what is there already ---

@pytest.mark.parametrize("kind", ["pid", "netns"])
def test_attaching_what_is_there(host, other, kind):
    join = {"net": other, **({} if host.userns_fd is None else {"user": host.userns_fd})}
    with nsnet.spawn(SLEEP, join=join) as box:
        target = {"pid": box.pid} if kind == "pid" else {"netns": fd_path(other)}
        try:
            with up(host, {"name": "a", "address": "10.0.0.2/24", "host_ifname": "v0", "ifname": "lan0",
                           **target}) as network:
                assert "10.0.0.2/24" in told(other, "lan0") and ip_link(host, "v0")["master"] == "br0"
                assert reaches(host, other, "10.0.0.2") and reaches(other, host, "10.0.0.1")
                assert entry(network, "a") == {
                    "name": "a", "host_ifname": "v0", "ifname": "lan0", "addresses": ["10.0.0.2/24"], "declared": True,
                    "pid": box.pid if kind == "pid" else None}
                assert network.faults() == [] == network.up()
            assert box.poll() is None                               # it was not launched by the network
        finally:
            box.kill()
            box.wait()
    assert ifnames(other) == ["lo"]


def test_attaching_what_has_a_name():
    in_a_run_of_its_own("""
        os.environ["NSNET_STATE_DIR"] = "/run/nsnet-state"
        with nsnet.Netns.new() as blue:
            blue.pin("blue")
        network = nsnet.Network("br0", address="10.0.0.1/24", lifetime="declared",
                                attachments=[{"pin": "blue", "address": "10.0.0.2/24", "name": "a"}])
        network.up()
        assert " 10.0.0.2/24 " in ip("-n", "blue", "address", "show", "eth0").stdout
        assert network.faults() == []
        assert ip("-n", "blue", "link", "set", "eth0", "down").returncode == 0
        assert [fault.where for fault in network.faults()] == ["a", "a"], network.faults()
        network.up()
        assert network.faults() == []
        nsnet.Netns.unpin("blue")
        (fault,) = network.faults()
        assert "cannot be reached" in str(fault) and "/run/netns/blue" in str(fault), fault
        network.down()
        assert os.listdir("/run/nsnet-state") == [], os.listdir("/run/nsnet-state")
    """)


@pytest.mark.parametrize("given, what", [
    ({"pid": 2**31 - 1}, "2147483647"), ({"netns": "/nonexistent/ns"}, "/nonexistent/ns"),
    ({"pin": "no-such-pin"}, "no-such-pin"),
])
def test_a_target_that_is_not_there_is_named(host, state, given, what):
    network = declared(host, {"name": "good", "command": SLEEP}, {"name": "a", **given})
    with pytest.raises(nsnet.NsnetError) as failed:
        network.up()
    assert what in str(failed.value) and "\n" not in str(failed.value)
    assert strays(host) == [] and claims(state) == [] and leased(state) == [] and children() == set()
    del failed


# --- the ends ---

def test_every_key_of_an_end(host, other):
    one = {"name": "a", "netns": fd_path(other), "address": ["10.0.0.2/24", "10.0.0.3/24", "fd00::2/64"],
           "ifname": "lan0", "host_ifname": "v0", "lladdr": "02:00:00:00:00:05", "mtu": 1300,
           "routes": [{"dst": "192.0.2.0/24", "via": "10.0.0.9", "metric": 7}, {"dst": "198.51.100.0/24"},
                      {"dst": "fd01::/64", "via": "fd00::9"}],
           "sysctls": {"net.ipv4.conf.lan0.rp_filter": 1, "net.ipv4.ip_unprivileged_port_start": 80}}
    with up(host, one, address=BOTH, mtu=1400) as network:
        end, port = ip_link(other, "lan0"), ip_link(host, "v0")
        assert (end["address"], end["mtu"], port["mtu"], port["master"]) == ("02:00:00:00:00:05", 1300, 1300, "br0")
        assert "UP" in end["flags"] and "UP" in port["flags"] and "UP" in ip_link(other, "lo")["flags"]
        found = told(other, "lan0")
        assert set(one["address"]) <= set(found) and not found["fd00::2/64"].get("tentative")
        assert {route for route in route_table(other) if not route[0].startswith("fe80")} == {
            ("default", "10.0.0.1", "lan0", None), ("192.0.2.0/24", "10.0.0.9", "lan0", 7),
            ("198.51.100.0/24", None, "lan0", None), ("default", "fd00::1", "lan0", 1024),
            ("fd01::/64", "fd00::9", "lan0", 1024)}
        assert sysctl(other, "net/ipv4/conf/lan0/rp_filter") == "1"
        assert sysctl(other, "net/ipv4/ip_unprivileged_port_start") == "80"
        assert reaches(host, other, "10.0.0.2", "10.0.0.3", "fd00::2")
        assert network.faults() == []


def test_the_mtu_of_the_network_is_that_of_its_ends(host, other):
    with up(host, {"netns": fd_path(other), "address": "10.0.0.2/24", "host_ifname": "v0"}, mtu=1400):
        assert {ip_link(host, "br0")["mtu"], ip_link(host, "v0")["mtu"], ip_link(other, "eth0")["mtu"]} == {1400}


def test_sysctls_are_in_force_before_the_link_is_up(host, other):
    """A link that comes up makes a link-local address, unless it has been told not to by then."""
    one = {"name": "a", "netns": fd_path(other), "address": "fd00::2/64"}
    with up(host, one, address="fd00::1/64"):
        assert {text for text in told(other, "eth0") if text.startswith("fe80")}
    one["sysctls"] = {"net.ipv6.conf.eth0.addr_gen_mode": 1}        # IN6_ADDR_GEN_MODE_NONE
    with up(host, one, address="fd00::1/64"):
        assert set(told(other, "eth0")) == {"fd00::2/64"}


def test_a_sysctl_that_the_kernel_refuses_undoes_all(host, state, other):
    network = declared(host, {"netns": fd_path(other), "address": "auto", "sysctls": {"net.ipv4.no_such_setting": 1}})
    with pytest.raises(nsnet.KernelError) as failed:
        network.up()
    assert failed.value.step == "sysctl net.ipv4.no_such_setting"
    assert strays(host) == [] and ifnames(other) == ["lo"] and claims(state) == [] and leased(state) == []
    del failed


def test_without_its_default_route(host, other):
    one = {"netns": fd_path(other), "address": ["10.0.0.2/24", "fd00::2/64"], "default_route": False,
           "routes": [{"dst": "default", "via": "10.0.0.77", "metric": 5}]}
    with up(host, one, address=BOTH) as network:
        assert route_table(other) == {("default", "10.0.0.77", "eth0", 5)}
        assert network.faults() == []


def test_a_derived_mac_of_an_end_is_the_same_each_time(host, other):
    def macs(*names):
        given = [{"name": name, "netns": fd_path(other), "ifname": f"eth{number}", "default_route": False}
                 for number, name in enumerate(names)]
        with up(host, *given):
            return [ip_link(other, f"eth{number}")["address"] for number in range(len(names))]
    a, b = macs("a", "b")
    assert a != b and macs("b", "a") == [b, a] and int(a[:2], 16) & 3 == 2


def test_a_derived_host_ifname_is_the_same_each_time(host, other):
    names = []
    for _ in range(2):
        with up(host, {"name": "a", "netns": fd_path(other)}) as network:
            names.append(entry(network, "a")["host_ifname"])
            assert names[-1] in ifnames(host)
    assert names[0] == names[1]


# --- addresses that are found ---

def many(other, *names, **more):
    return [{"name": name, "netns": fd_path(other), "ifname": name, "address": "auto", "default_route": False, **more}
            for name in names]


def addresses_of(network):
    return {one["name"]: one["addresses"] for one in network.entries()}


def test_auto_is_one_of_each_family_in_the_ranges(host, other, state):
    pool = {"address": BOTH, "ranges": ["10.0.0.10-10.0.0.13", "fd00::100/126"], "exclude": ["10.0.0.11", "fd00::101"]}
    with up(host, *many(other, "a", "b"), **pool) as network:
        given = addresses_of(network)
        found = [address for addresses in given.values() for address in addresses]
        assert {text for text in found if ":" not in text} <= {"10.0.0.10/24", "10.0.0.12/24", "10.0.0.13/24"}
        assert {text for text in found if ":" in text} <= {"fd00::100/64", "fd00::102/64", "fd00::103/64"}
        assert len(set(found)) == 4 == len(leased(state))
        for name in ("a", "b"):
            assert set(given[name]) <= set(told(other, name))
        assert network.faults() == []
    assert leased(state) == []


STICKY = """
def addresses(*names):
    made = nsnet.Network("br0", address=["10.0.0.1/24", "fd00::1/64"], lifetime="declared",
                         ranges=["10.0.0.10-10.0.0.19"],
                         attachments=[{"name": name, "command": ["/bin/sleep", "1000"]} for name in names])
    made.up()
    try:
        return {one["name"]: one["addresses"] for one in made.entries()}
    finally:
        made.down()
first, again = addresses("a", "b"), addresses("c", "b", "a")
assert (first["a"], first["b"]) == (again["a"], again["b"]), (first, again)
assert not {*first["a"], *first["b"]} & {*again["c"]}, (first, again)
print("same")
"""


def test_auto_stays_with_the_name(host, state):
    """Over down and up, in another order, beside a third: on a host that is there as long as the machine."""
    assert in_another_process(host, state, STICKY) == ["same"]


def test_no_address_is_left(host, other, state):
    pool = {"ranges": ["10.0.0.10-10.0.0.12"], "exclude": ["10.0.0.11"]}
    network = declared(host, *many(other, "a", "b", "c"), **pool)
    with pytest.raises(nsnet.NoFreeAddress) as failed:
        network.up()
    text = str(failed.value)
    assert "10.0.0.0/24" in text or "br0" in text
    assert "2" in text and "\n" not in text, text
    assert strays(host) == [] and ifnames(other) == ["lo"] and claims(state) == [] and leased(state) == []
    del failed
    with up(host, *many(other, "a", "b"), **pool) as network:
        for attempt in (lambda: network.attach(other, ifname="c", default_route=False), lambda: network.launch(SLEEP)):
            with pytest.raises(nsnet.NoFreeAddress):
                attempt()
        assert len(network.entries()) == 2 and children() == set() and network.faults() == []
        network.detach_many(["a"])
        network.attach(other, ifname="c", name="c", default_route=False)        # what was given back is given again
        assert addresses_of(network)["c"][0] in ("10.0.0.10/24", "10.0.0.12/24")


def test_auto_leaves_out_what_is_given_by_hand(host, other):
    by_hand = {"name": "b", "netns": fd_path(other), "ifname": "b", "address": "10.0.0.10/24",
               "default_route": False}
    with up(host, by_hand, *many(other, "a"), ranges=["10.0.0.10-10.0.0.11"]) as network:
        assert addresses_of(network) == {"b": ["10.0.0.10/24"], "a": ["10.0.0.11/24"]}


def test_auto_leaves_out_what_is_given_by_hand_further_down(host, other):
    by_hand = {"name": "b", "netns": fd_path(other), "ifname": "b", "address": "10.0.0.10/24",
               "default_route": False}
    with up(host, *many(other, "a"), by_hand, ranges=["10.0.0.10-10.0.0.11"]) as network:
        assert addresses_of(network) == {"b": ["10.0.0.10/24"], "a": ["10.0.0.11/24"]}
        assert network.faults() == []


# --- lifetimes ---

def in_another_process(host, state, body, *words):
    """Run Python with `nsnet` and `network` in the host namespace, to its end; what it prints."""
    done = inside(host, [sys.executable, "-c", "import os, sys, nsnet\n" + body, *words], env=environment(state))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


MAKE = "network = nsnet.Network('br0', address='10.0.0.1/24', lifetime={!r})\n"
CAT_AND_DIE = """
network.up()
box = network.launch(["/bin/sleep", "1000"], address="10.0.0.2/24", host_ifname="v0", name="box", stdin=nsnet.DEVNULL,
                     stdout=nsnet.DEVNULL, stderr=nsnet.DEVNULL)
print(box.pid)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("lifetime", ["process", "declared", "attachments", "owner"])
def test_what_becomes_of_it_when_its_process_ends(host, state, lifetime):
    (pid,) = map(int, in_another_process(host, state, MAKE.format(lifetime) + CAT_AND_DIE))
    pidfd = os.pidfd_open(pid)
    try:
        there = declared(host, lifetime=lifetime if lifetime in ("declared", "attachments") else "declared")
        assert {"br0", "v0"} <= set(ifnames(host)) and not is_gone(pid)
        assert claims(state) == [] if lifetime == "owner" else len(claims(state)) == 2
        found = collection.collect(host)
        assert found.failed == [] and found.alive == []
        if lifetime in ("process", "owner"):
            assert has_ended(pidfd) and {"br0", f"process {pid}"} <= set(found.removed)     # v0 may go with the process
            assert not {"br0", "v0"} & set(ifnames(host))
        else:
            assert len(found.kept) == 1 and found.removed == [] and not is_gone(pid) and there.is_up
            assert [one["name"] for one in there.entries()] == ["box"] and there.faults() == []
            there.detach_many(["box"])
            assert has_ended(pidfd) and "v0" not in ifnames(host)
            assert there.is_up == ("br0" in ifnames(host)) == (lifetime == "declared")
            there.down()
        assert strays(host) == [] and claims(state) == []
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("lifetime", ["declared", "attachments"])
def test_gc_detaches_what_has_ended(host, state, lifetime):
    (pid,) = map(int, in_another_process(host, state, MAKE.format(lifetime) + CAT_AND_DIE))
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert has_ended(pidfd)
    finally:
        os.close(pidfd)
    found = collection.collect(host)
    assert found.failed == []
    if lifetime == "declared":
        network = declared(host)
        assert len(found.kept) == 1 and network.is_up and network.entries() == [] and network.faults() == []
        network.down()
    assert strays(host) == [] and claims(state) == [] and leased(state) == []


@pytest.mark.parametrize("lifetime", ["process", "owner"])
def test_of_a_process_it_belongs_to_nobody_else(host, state, lifetime):
    """Another object, another process and a fork of its own cannot have it."""
    with up(host, lifetime=lifetime) as network:
        with pytest.raises(nsnet.AlreadyExists):
            declared(host, lifetime=lifetime).up()
        with pytest.raises(nsnet.AlreadyExists):
            declared(host, lifetime="declared").up()
        found = collection.collect(host)
        assert len(found.alive) == 1 and not any([found.removed, found.kept, found.elsewhere, found.failed])
        with pytest.raises(nsnet.AlreadyExists) as failed:
            take_down("br0", netns=host)
        assert (f"process {os.getpid()} has it up (this one)" if lifetime == "process"
                else "keeps nothing on disk") in str(failed.value)
        del failed
        pid = os.fork()
        if pid == 0:
            try:
                network.down()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert network.is_up and "br0" in ifnames(host) and network.faults() == []
    assert strays(host) == []


def test_of_an_owner_nothing_is_on_disk(host, state):
    with up(host, lifetime="owner") as network:
        with network.launch(SLEEP, name="a"):
            assert claims(state) == [] and leased(state) == []
            assert network.faults() == []
            sh(host, "link set br0 down")
            assert [str(fault) for fault in network.up()] == ["br0: down"] and network.faults() == []
    assert not state.exists() or os.listdir(state) == []


@pytest.mark.parametrize("lifetime", ["declared", "attachments"])
def test_a_shared_network_is_everybodys(host, state, other, lifetime):
    """One process attaches, another detaches, and a third takes it down."""
    first, second = declared(host, lifetime=lifetime), declared(host, lifetime=lifetime)
    first.attach(other, address="10.0.0.2/24", name="a", ifname="a")
    second.attach(other, address="10.0.0.3/24", name="b", ifname="b", default_route=False)
    for network in (first, second):
        assert [one["name"] for one in network.entries()] == ["a", "b"] and network.is_up
        with pytest.raises(nsnet.UsageError):
            network.attach(other, address="10.0.0.3/24", name="c", ifname="c")
        with pytest.raises(nsnet.UsageError):
            network.attach(other, address="10.0.0.4/24", name="a", ifname="c")
    second.detach_many(["a"])
    assert ifnames(other) == ["b", "lo"] and [one["name"] for one in first.entries()] == ["b"]
    for attachment in first.attachments:
        attachment.detach()                                 # somebody else was quicker
    assert first.attachments == []
    in_another_process(host, state, f"nsnet.Network('br0', address='10.0.0.1/24', lifetime={lifetime!r}).down()")
    assert strays(host) == [] and claims(state) == [] and not first.is_up and not second.is_up
    second.down()
    assert second.attachments == []


@pytest.mark.parametrize("lifetime", ["process", "declared", "attachments", "owner"])
def test_with_blocks(host, other, lifetime):
    network = declared(host, lifetime=lifetime)
    shared = lifetime in ("declared", "attachments")
    with network as same:
        assert same is network and network.is_up
        network.attach(other, address="10.0.0.2/24")
        box = network.launch(SLEEP, address="10.0.0.3/24")
        assert "eth0" in ifnames(other)
    assert is_gone(box.pid) and ifnames(other) == ["lo"] and network.attachments == []
    # With its last attachment it goes; who was up before stays.
    assert ("br0" in ifnames(host)) == network.is_up == (lifetime == "declared")
    network.down()
    if shared:
        with up(host, lifetime=lifetime) as before:
            before.attach(other, address="10.0.0.2/24", name="before")
            with declared(host, lifetime=lifetime) as again:
                again.launch(SLEEP, address="10.0.0.3/24")
            assert [one["name"] for one in before.entries()] == ["before"] and before.faults() == []


def test_a_network_that_nothing_was_attached_to_outlives_its_with_block(host):
    """An "attachments" one goes with its last attachment; without any it waits for its first."""
    with declared(host, lifetime="attachments") as network:
        pass
    assert network.is_up
    network.down()


@pytest.mark.parametrize("lifetime", ["process", "declared", "attachments", "owner"])
def test_down_without_waiting(host, other, state, lifetime):
    network = declared(host, lifetime=lifetime)
    network.attach(other, address="10.0.0.2/24")
    network.down(wait=False)
    network.settle()
    assert strays(host) == [] and ifnames(other) == ["lo"] and claims(state) == []
    network.attach(other, address="10.0.0.2/24").detach(wait=False)
    network.attach(other, address="10.0.0.2/24")            # what waits for its removal is removed first
    network.down()
    network.settle()


# --- adopting ---

@pytest.fixture
def theirs(host):
    """A bridge of the user's."""
    sh(host, "link add br0 type bridge ageing_time 1234")
    sh(host, "address add 10.0.0.1/24 dev br0")
    sh(host, "link set br0 up")
    host.sync_carrier("br0")
    yield
    sh(host, "link delete br0")


def looks(host):
    """What of it may not change: all but what the kernel counts, and the MAC that it takes from its ports."""
    link = ip_link(host, "br0")
    data = {key: value for key, value in link["linkinfo"]["info_data"].items()
            if not key.endswith(("_timer", "_detected", "_id")) and key != "topology_change"}
    return ({name: link[name] for name in ("ifindex", "group", "mtu", "inet6_addr_gen_mode")}, data,
            link.get("ifalias"), "UP" in link["flags"], [text for text in told(host, "br0") if ":" not in text])


@pytest.mark.parametrize("lifetime", ["process", "declared", "attachments", "owner"])
def test_an_adopted_bridge_is_never_changed_and_never_deleted(host, other, state, theirs, lifetime):
    before = looks(host)
    with up(host, {"name": "a", "netns": fd_path(other), "address": "10.0.0.2/24", "host_ifname": "v0"}, adopt=True,
            lifetime=lifetime) as network:
        assert reaches(host, other, "10.0.0.2") and looks(host) == before
        assert network.faults() == [] and ip_link(host, "v0")["master"] == "br0"
        for command, back, fault in (("link set br0 down", "link set br0 up", "br0: it is down"),
                                     ("address delete 10.0.0.1/24 dev br0", "address add 10.0.0.1/24 dev br0",
                                      "br0: it has no address 10.0.0.1/24")):
            sh(host, command)
            (found,) = network.faults()
            assert (str(found), found.kind) == (fault, "beyond")
            with pytest.raises(nsnet.NoSuchObject):
                network.up()
            sh(host, back)
            assert network.faults() == [] == network.up()
        sh(host, "link set v0 nomaster")
        assert [str(fault) for fault in network.up()] == ["a: v0: no port of the bridge"]
    assert looks(host) == before and strays(host) == ["br0"] and claims(state) == []


def test_what_cannot_be_adopted(host, state, theirs):
    for given, text in (({"address": "10.0.5.1/24"}, "it has no address 10.0.5.1/24"),
                        ({"bridge": "br7"}, "it is not there")):
        with pytest.raises(nsnet.NoSuchObject) as failed:
            declared(host, {"name": "a", "command": SLEEP}, adopt=True, **given).up()
        assert text in str(failed.value)
        assert strays(host) == ["br0"] and claims(state) == [] and children() == set()
        del failed
    with pytest.raises(nsnet.AlreadyExists) as failed:
        declared(host).up()
    assert "adopt it" in str(failed.value)
    del failed


def test_an_adopted_bridge_that_was_deleted_meanwhile(host, other, state):
    sh(host, "link add br0 type bridge")
    sh(host, "address add 10.0.0.1/24 dev br0")
    sh(host, "link set br0 up")
    network = declared(host, {"name": "a", "netns": fd_path(other), "address": "10.0.0.2/24", "host_ifname": "v0"},
                       adopt=True)
    network.up()
    sh(host, "link delete br0")
    found = network.faults()
    assert [str(fault) for fault in found] == ["br0: the bridge that was adopted is gone",
                                               "a: v0: no port of the bridge"]
    with pytest.raises(nsnet.NoSuchObject):
        network.up()
    network.down()
    assert strays(host) == [] and ifnames(other) == ["lo"] and claims(state) == []


# --- several at once ---

@pytest.mark.parametrize("lifetime", ["process", "declared", "attachments", "owner"])
def test_several_at_once_all_or_none(host, other, state, lifetime):
    with nsnet.Netns.new(beside=host) as second, up(host, lifetime=lifetime) as network:
        second.add_bridge("eth0")                           # in the way
        before = strays(host)
        wanted = [{"netns": other, "ifname": "a"}, {"netns": other, "ifname": "b", "default_route": False},
                  {"netns": second}]
        with pytest.raises(nsnet.AlreadyExists):
            network.attach_many(wanted)
        with pytest.raises(nsnet.KernelError):
            network.launch_many([{"argv": SLEEP}, {"argv": SLEEP}, {"argv": ["/nonexistent/command"]}])
        assert strays(host) == before and ifnames(other) == ["lo"] and children() == set() and leased(state) == []
        assert network.attachments == [] == network.entries() and network.faults() == []
        attached = network.attach_many(wanted[:2])
        launched = network.launch_many([{"argv": SLEEP, "name": f"box{number}"} for number in range(3)])
        assert len(network.entries()) == 5 and len(children()) == 3 and ifnames(other) == ["a", "b", "lo"]
        assert len({address for one in network.entries() for address in one["addresses"]}) == 5
        network.detach_many([attached[0], launched[1], "box2"])
        assert is_gone(launched[1].pid) and is_gone(launched[2].pid) and not is_gone(launched[0].pid)
        assert [one["name"] for one in network.entries()] == [attached[1].name, "box0"]
        assert ifnames(other) == ["b", "lo"]
        network.detach_many([attached[1], launched[0]], wait=False)
        network.settle()
        assert network.attachments == [] and children() == set() and leased(state) == []

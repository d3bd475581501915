"""Netns on a real kernel: where one comes from, what its verbs do, and what its lists say."""

import errno
import fcntl
import os
import socket
import struct
import subprocess
import threading

import pytest

import nsnet
from live_helpers import (IS_ROOT, PATIENCE, PYTHON, as_nobody, descriptors, go_inside, ifnames, inside, ip, ip_link,
                          namespace_of, needs, read_inside, which)


def inode(netns):
    return os.fstat(netns.fd).st_ino


# --- where it comes from ---

def test_current_is_the_namespace_of_this_process():
    with nsnet.Netns.current() as here:
        assert sorted(link.ifname for link in here.links()) == sorted(
            line.split(":")[0].strip() for line in open("/proc/net/dev").read().splitlines()[2:])
        assert not here.private


def test_new_is_another_namespace_with_nothing_but_lo():
    with nsnet.Netns.new() as made:
        assert inode(made) != namespace_of("self", "net")
        assert made.link("lo").index == 1 and not made.link("lo").up
        assert "lo" in ifnames(made)
        assert not any(link.kind in ("bridge", "veth") for link in made.links())


def test_making_a_namespace_moves_no_thread():
    before = namespace_of("self", "net"), namespace_of("self", "user")
    with nsnet.Netns.new():
        assert (namespace_of("self", "net"), namespace_of("self", "user")) == before
        assert os.stat("/proc/thread-self/ns/net").st_ino == before[0]


def test_a_namespace_beside_another_has_the_same_owner(host):
    with nsnet.Netns.new(beside=host) as beside:
        owners = [read_inside(netns, "/proc/self/uid_map") for netns in (host, beside)]
        assert owners[0] == owners[1]
        assert inode(beside) != inode(host)
        if host.userns_fd is not None:
            assert os.fstat(beside.userns_fd).st_ino == os.fstat(host.userns_fd).st_ino
            assert beside.userns_fd != host.userns_fd       # each closes its own


def test_a_namespace_is_opened_by_its_path(host):
    with nsnet.Netns.open(f"/proc/self/fd/{host.fd}") as again:
        assert again.identity == host.identity and inode(again) == inode(host)
        bridge = again.add_bridge("br0")
        assert host.link("br0").index == bridge.index
        again.del_link(bridge)


def test_opening_our_own_namespace_visits_nobody():
    with nsnet.Netns.open("/proc/self/ns/net") as opened, nsnet.Netns.current() as here:
        assert opened.identity == here.identity


def test_a_namespace_is_found_by_a_process_in_it(host):
    stay = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, preexec_fn=go_inside(host.fd))
    try:
        with nsnet.Netns.of_pid(stay.pid) as found:
            assert found.identity == host.identity
            assert [link.ifname for link in found.links()] == [link.ifname for link in host.links()]
    finally:
        stay.communicate()


def test_a_process_that_has_ended_has_no_namespace():
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    with pytest.raises(nsnet.KernelError) as refused:
        nsnet.Netns.of_pid(gone.pid)
    assert refused.value.errno == errno.ESRCH


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/ns/user", "/proc/self/status", "/"])
def test_what_is_no_network_namespace_is_refused_by_name(path):
    with pytest.raises(nsnet.UsageError) as refused:
        nsnet.Netns.open(path)
    assert path in str(refused.value)


def test_a_path_that_is_not_there_is_the_kernels_error():
    with pytest.raises(nsnet.KernelError) as refused:
        nsnet.Netns.open("/nonexistent/netns")
    assert refused.value.errno == errno.ENOENT and "/nonexistent/netns" in str(refused.value)


def test_host_is_the_callers_namespace_or_a_private_one():
    with nsnet.Netns.host() as found, nsnet.Netns.current() as here:
        if here.may_administer():
            assert not found.private and found.identity == here.identity
        else:
            assert found.private and found.identity != here.identity and found.link("lo").up


def test_an_ordinary_user_may_not_administer_its_own_namespace_but_may_a_new_one(host):
    assert host.may_administer()
    with nsnet.Netns.current() as here:
        assert here.may_administer() is IS_ROOT


def test_identities_differ_and_stay(host):
    with nsnet.Netns.new() as other:
        assert host.identity == host.identity != other.identity


def test_the_descriptor_is_the_namespace_and_closes_with_it():
    made = nsnet.Netns.new()
    before = descriptors()
    fd = made.fd
    assert made.fd == fd and os.readlink(f"/proc/self/fd/{fd}") == f"net:[{inode(made)}]"
    assert set(descriptors()) - set(before) <= {fd}
    made.close()
    assert fd not in descriptors() and made.closed
    made.close()


def test_a_closed_namespace_does_nothing():
    made = nsnet.Netns.new()
    made.close()
    with pytest.raises(ValueError):
        made.links()


def test_a_namespace_ends_with_its_last_holder():
    """Its veth's other end goes as well, and the kernel tells us: that is an event on a netlink socket."""
    with nsnet.Netns.new() as ours:
        theirs = nsnet.Netns.new(beside=ours)
        veth, _ = ours.add_veth("v0", peer="v1", peer_netns=theirs)
        events = ours.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        with events:
            events.settimeout(PATIENCE)
            events.bind((0, 1))                             # RTMGRP_LINK
            theirs.close()
            while int.from_bytes(events.recv(65536)[4:6], "little") != 17:      # RTM_DELLINK
                pass
        assert veth.ifname not in [link.ifname for link in ours.links()]


# --- verbs ---

def test_a_bridge_is_made_as_asked(host):
    made = host.add_bridge("br0", lladdr="02:00:00:00:00:07", mtu=1400, group=77, up=True, stp_state=0,
                           ageing_time=12300)
    seen = ip_link(host, "br0")
    assert seen["ifindex"] == made.index and seen["address"] == "02:00:00:00:00:07" and seen["mtu"] == 1400
    assert seen["group"] == "77" and "UP" in seen["flags"] and seen["linkinfo"]["info_kind"] == "bridge"
    assert seen["linkinfo"]["info_data"]["ageing_time"] == 12300
    link = host.link("br0")
    assert (link.kind, link.lladdr, link.mtu, link.group, link.up) == ("bridge", "02:00:00:00:00:07", 1400, 77, True)
    host.del_link(made)
    assert "br0" not in ifnames(host)


def test_a_veth_pair_is_born_in_two_namespaces(host):
    with nsnet.Netns.new(beside=host) as other:
        bridge = host.add_bridge("br0", up=True)
        left, right = host.add_veth("left", peer="right", peer_netns=other, lladdr="02:00:00:00:00:01",
                                    peer_lladdr="02:00:00:00:00:02", mtu=1300, group=9, master=bridge, up=True,
                                    queues=1)
        here, there = ip_link(host, "left"), ip_link(other, "right")
        assert (here["ifindex"], there["ifindex"]) == (left.index, right.index)
        assert (here["address"], there["address"]) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
        assert here["mtu"] == there["mtu"] == 1300
        assert here["num_tx_queues"] == here["num_rx_queues"] == there["num_tx_queues"] == there["num_rx_queues"] == 1
        assert here["master"] == "br0" and "UP" in here["flags"] and "UP" not in there["flags"]
        assert "right" not in ifnames(host) and "left" not in ifnames(other)
        assert host.link(left).peer_index == right.index and host.link(left).peer_netnsid is not None
        host.del_link(left)
        host.del_link(bridge)
        assert "right" not in ifnames(other)


def test_a_veth_pair_may_stay_in_one_namespace(host):
    left, right = host.add_veth("left", peer="right")
    assert host.link(left).peer_index == right.index and host.link(left).peer_netnsid is None
    host.del_link(right)
    assert not {"left", "right"} & set(ifnames(host))


@pytest.mark.parametrize("change, seen", [
    ({"up": True}, lambda link: "UP" in link["flags"]),
    ({"up": False}, lambda link: "UP" not in link["flags"]),
    ({"ifname": "renamed"}, lambda link: link["ifname"] == "renamed"),
    ({"lladdr": "02:00:00:00:00:99"}, lambda link: link["address"] == "02:00:00:00:00:99"),
    ({"mtu": 1280}, lambda link: link["mtu"] == 1280),
    ({"master": "br0"}, lambda link: link["master"] == "br0"),
    ({"group": 4711}, lambda link: link["group"] == "4711"),
    ({"ifalias": "of the house"}, lambda link: link["ifalias"] == "of the house"),
    ({"link_local": False}, lambda link: link["inet6_addr_gen_mode"] == "none"),
    ({"link_local": True}, lambda link: link["inet6_addr_gen_mode"] == "eui64"),
    ({"link_local": False, "up": True, "mtu": 1290},
     lambda link: link["inet6_addr_gen_mode"] == "none" and link["mtu"] == 1290 and "UP" in link["flags"]),
], ids=lambda value: "+".join(f"{name}={item}" for name, item in value.items()) if isinstance(value, dict) else "")
def test_set_link_sets(host, change, seen):
    bridge = host.add_bridge("br0")
    left, _ = host.add_veth("left", peer="right")
    host.set_link(left, **change)
    assert seen(ip_link(host, change.get("ifname", "left")))
    host.del_link(left)
    host.del_link(bridge)


def test_set_link_detaches_from_a_master(host):
    bridge = host.add_bridge("br0")
    left, _ = host.add_veth("left", peer="right", master=bridge)
    assert host.link(left).master == bridge.index
    host.set_link(left, nomaster=True)
    assert host.link(left).master is None and "master" not in ip_link(host, "left")
    host.del_link(left)
    host.del_link(bridge)


def test_set_link_moves_to_another_namespace(host):
    with nsnet.Netns.new(beside=host) as other:
        left, right = host.add_veth("left", peer="right")
        host.set_link(right, netns=other)
        assert "right" in ifnames(other) and "right" not in ifnames(host)
        host.del_link(left)


def test_no_link_local_address_comes_up_where_none_is_wanted(host):
    left, right = host.add_veth("left", peer="right")
    host.set_link(left, link_local=False, up=True)
    host.set_link(right, up=True)
    mine = [row for row in read_inside(host, "/proc/net/if_inet6").splitlines() if row.split()[-1] == "left"]
    others = [row for row in read_inside(host, "/proc/net/if_inet6").splitlines() if row.split()[-1] == "right"]
    assert mine == [] and len(others) == 1
    host.del_link(left)


@pytest.mark.parametrize("address, family", [("10.0.0.1/24", "inet"), ("192.0.2.7/31", "inet"), ("10.9.9.9/32", "inet"),
                                             ("fd00::1/64", "inet6"), ("fd00:1::5/128", "inet6")])
def test_an_address_is_added_and_taken_away(host, address, family):
    bridge = host.add_bridge("br0", up=True)
    host.add_address(bridge, address)
    (link,) = ip(host, "address", "show", "br0")
    found = [row for row in link["addr_info"] if f"{row['local']}/{row['prefixlen']}" == address]
    assert [row["family"] for row in found] == [family] and not found[0].get("tentative")
    assert address in [item.address for item in host.addresses() if item.index == bridge.index]
    host.del_address(bridge, address)
    (link,) = ip(host, "address", "show", "br0")
    assert address not in [f"{row['local']}/{row['prefixlen']}" for row in link["addr_info"]]
    host.del_link(bridge)


@pytest.mark.parametrize("options, family", [
    ({"dst": "default", "via": "10.0.0.254"}, "-4"),
    ({"dst": "10.5.0.0/16", "via": "10.0.0.254", "metric": 5}, "-4"),
    ({"dst": "10.6.0.0/16", "oif": "br0"}, "-4"),
    ({"dst": "default", "via": "fd00::fe"}, "-6"),
    ({"dst": "fd05::/32", "via": "fd00::fe", "metric": 7}, "-6"),
    ({"dst": "10.7.0.0/16", "via": "10.0.0.254", "table": 1000}, "-4"),
], ids=str)
def test_a_route_is_added_and_taken_away(host, options, family):
    bridge = host.add_bridge("br0", up=True)
    host.add_address(bridge, "10.0.0.1/24")
    host.add_address(bridge, "fd00::1/64")
    options = dict(options)
    dst = options.pop("dst")
    host.add_route(dst, **options)

    def listed():
        rows = ip(host, family, "route", "show", "table", str(options.get("table", 254)))
        return [row for row in rows if row["dst"] == dst]

    (row,) = listed()
    assert row.get("gateway") == options.get("via") and row["dev"] == "br0"
    assert "metric" not in options or row["metric"] == options["metric"]
    (route,) = [item for item in host.routes() if item.dst == dst and item.oif == bridge.index and item.family == (
        socket.AF_INET if family == "-4" else socket.AF_INET6)]
    assert route.via == options.get("via") and route.table == options.get("table", 254)
    host.del_route(dst, **options)
    assert listed() == []
    host.del_link(bridge)


def test_a_group_goes_in_one_go_and_takes_nobody_with_it(host):
    for number in range(5):
        host.add_bridge(f"ours{number}", group=12)
    stranger = host.add_bridge("stranger", group=13)
    host.del_group(12)
    assert [name for name in ifnames(host) if name.startswith(("ours", "stranger"))] == ["stranger"]
    host.del_group(12)                                      # nobody is left in it: nothing to complain about
    host.del_link(stranger)


def test_a_group_of_everybody_is_refused(host):
    with pytest.raises(nsnet.UsageError):
        host.del_group(0)


# --- an altname is not a name, unless it is too long for one ---

@needs("ip")
def test_an_altname_is_never_matched(host):
    """The kernel finds links by altname too; deleting br1 must not delete somebody's bridge that also answers to it."""
    bridge = host.add_bridge("br0")
    inside(host, [which("ip"), "link", "property", "add", "dev", "br0", "altname", "br1"], check=True)
    with pytest.raises(nsnet.NoSuchObject):
        host.link("br1")
    with pytest.raises(nsnet.NoSuchObject):
        host.del_link("br1")
    host.del_link("br1", missing_ok=True)
    assert "br0" in ifnames(host)
    host.del_link(bridge)


def test_the_kernel_itself_takes_a_short_altname_for_a_name(playground):
    """Why find() asks for the name of what it found: SIOCGIFINDEX, __dev_get_by_name()."""
    made = playground.add_ifb("it0")
    playground.add_altname(made, "fifteen-bytes--")
    with playground.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, 0x8933, struct.pack("16si20x", b"fifteen-bytes--", 0))
    assert struct.unpack("16si20x", answer) == (b"fifteen-bytes--\0", made.index)
    assert playground.find("fifteen-bytes--") == 0
    for ask in (playground.index_of, playground.link):
        with pytest.raises(nsnet.NoSuchObject):
            ask("fifteen-bytes--")


@pytest.mark.parametrize("altname", ["sixteen-bytes---", "n" * 127, "wlan-\u00e9-of-the-laptop"], ids=len)
def test_an_altname_that_is_too_long_for_a_name_stands_for_its_link(playground, altname):
    made, other = playground.add_ifb("it0"), playground.add_ifb("it1")
    with pytest.raises(nsnet.NoSuchObject) as missing:
        playground.index_of(altname)
    assert altname in str(missing.value) and missing.value.errno == errno.ENODEV
    if altname.isascii():
        playground.add_altname(made, altname)
    else:                                                   # somebody else's choice: the kernel takes what it is given
        inside(playground, [which("ip") or pytest.skip("ip is not installed"), "link", "property", "add", "dev", "it0",
                            "altname", altname], check=True)
    assert playground.index_of(altname) == made.index and playground.link(altname).ifname == "it0"
    playground.set_link(altname, link_local=False)
    playground.set_link(altname, up=True, mtu=1400)
    with playground.batch() as net:
        net.add_address(altname, "10.0.0.1/24")
    assert playground.link("it0").up and playground.link("it0").mtu == ip_link(playground, "it0")["mtu"] == 1400
    assert [one.address for one in playground.addresses(altname)] == ["10.0.0.1/24"]
    for way in (altname[:-1], altname + "x")[:2 if len(altname) < 127 else 1]:
        with pytest.raises(nsnet.NoSuchObject):
            playground.set_link(way, up=True)
    playground.del_link(altname)
    with pytest.raises(nsnet.NoSuchObject):
        playground.link(altname)
    assert set(ifnames(playground)) >= {"it1", "lo"} and "it0" not in ifnames(playground) and playground.link(other)


# --- lists, against an independent witness ---

def crowd(host, other):
    """A namespace with something of everything."""
    with host.batch() as net:
        bridge = net.add_bridge("br0", group=3)
        net.set_link(bridge, ifalias="the bridge")
        net.add_address(bridge, "10.0.0.1/24")
        net.add_address(bridge, "fd00::1/64")
        left, right = net.add_veth("left", peer="right", peer_netns=other, master=bridge, up=True)
        net.set_link(bridge, up=True)
        net.add_route("10.44.0.0/16", via="10.0.0.9")
        net.add_route("fd44::/32", via="fd00::9", metric=3)
    with other.batch() as net:
        net.set_link(right, up=True)
        net.add_address(right, "10.0.0.2/24")
    return bridge, left, right


def test_links_says_what_ip_says(playground):
    with nsnet.Netns.new(beside=playground) as other:
        bridge, left, right = crowd(playground, other)
        assert other.sync_carrier(right) and playground.sync_carrier(left) and playground.sync_carrier(bridge)
        told = {row["ifname"]: row for row in ip(playground, "link", "show")}
        links = playground.links()
        assert sorted(link.ifname for link in links) == sorted(told)
        for link in links:
            row = told[link.ifname]
            assert (link.index, link.mtu, link.up) == (row["ifindex"], row["mtu"], "UP" in row["flags"])
            assert link.operstate.lower() == row["operstate"].lower().replace("_", "")
            assert link.carrier == ("LOWER_UP" in row["flags"])
            assert link.kind == row.get("linkinfo", {}).get("info_kind")
            assert link.ifalias == row.get("ifalias")
            assert str(link.group) == row["group"].replace("default", "0")
            assert link.lladdr == row.get("address") or row["link_type"] != "ether"
            assert (link.master is None) == ("master" not in row)
            assert playground.link(link.index).as_dict() == link.as_dict()


def test_addresses_say_what_ip_says(playground):
    with nsnet.Netns.new(beside=playground) as other:
        crowd(playground, other)
        told = sorted((row["ifindex"], f"{item['local']}/{item['prefixlen']}")
                      for row in ip(playground, "address", "show") for item in row["addr_info"])
        assert sorted((item.index, item.address) for item in playground.addresses()) == told and len(told) >= 4


def test_routes_say_what_ip_says(playground):
    with nsnet.Netns.new(beside=playground) as other:
        crowd(playground, other)
        names = {link.index: link.ifname for link in playground.links()}
        for family, number in (("-4", socket.AF_INET), ("-6", socket.AF_INET6)):
            told = sorted((row["dst"].split("/")[0], row.get("gateway"), row["dev"])
                          for row in ip(playground, family, "route", "show", "table", "all"))
            assert sorted((item.dst.split("/")[0], item.via, names[item.oif])
                          for item in playground.routes() if item.family == number) == told


def test_neighbours_say_what_ip_says(playground):
    with nsnet.Netns.new(beside=playground) as other:
        bridge, _, right = crowd(playground, other)
        lladdr = other.link(right).lladdr
        with pytest.raises(ConnectionRefusedError):         # nobody listens; the answer itself makes them known
            playground.connect(("10.0.0.2", 9), PATIENCE)
        (mine,) = [item for item in playground.neighbours() if item.dst == "10.0.0.2"]
        assert (mine.index, mine.lladdr) == (bridge.index, lladdr)
        assert [(row["dst"], row["dev"], row["lladdr"]) for row in ip(playground, "-4", "neighbour", "show")
                if row.get("lladdr")] == [("10.0.0.2", "br0", lladdr)]


def test_a_long_list_is_complete(playground):
    """Some hundred links take many datagrams; each must be there once."""
    names = sorted(f"p{number}" for number in range(300))
    with playground.batch() as net:
        for left, right in zip(names[::2], names[1::2]):
            net.add_veth(left, peer=right, queues=1)
    found = sorted(link.ifname for link in playground.links() if link.kind == "veth")
    assert found == names == [name for name in ifnames(playground) if name.startswith("p")]


# --- reaching what is inside ---

def test_a_socket_of_a_namespace_is_a_socket_in_it(host):
    with host.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert f":{port:04X} " in read_inside(host, "/proc/net/tcp")
        assert f":{port:04X} 00000000:0000 0A" not in open("/proc/net/tcp").read()
        with host.connect(("127.0.0.1", port), PATIENCE) as connection, listener.accept()[0] as accepted:
            connection.sendall(b"through")
            assert accepted.recv(100) == b"through"


def test_a_connection_that_is_refused_leaves_no_descriptor(host):
    before = descriptors()
    host.fd                                                 # opened on first use, and kept
    with pytest.raises(ConnectionRefusedError):
        host.connect(("127.0.0.1", 1), PATIENCE)
    assert set(descriptors()) - set(before) <= {host.fd, host.userns_fd}


def test_the_namespace_of_somebody_more_powerful_is_out_of_reach():
    """A clear refusal, not a namespace: an ordinary user asks for PID 1's, root asks as nobody for that of root."""
    def ask(pid):
        try:
            nsnet.Netns.of_pid(pid).close()
        except nsnet.KernelError as error:
            return f"{errno.errorcode[error.errno]} {error}"
        return "let in"

    verdict = as_nobody(ask, os.getpid()) if IS_ROOT else ask(1)
    assert verdict.startswith(("EACCES", "EPERM")) and "/ns/net" in verdict


def test_many_threads_share_one_namespace(playground):
    """16 threads add, list, fail and delete over one socket; each gets the answers to its own questions."""
    problems = []
    gate = threading.Barrier(16)
    bridge = playground.add_bridge("br0")

    def work(number):
        try:
            gate.wait(PATIENCE)
            made = playground.add_bridge(f"t{number}")
            for turn in range(10):
                address = f"10.{number}.{turn}.1/24"
                with playground.batch() as net:
                    net.add_address(bridge, address)
                    net.set_link(made, mtu=1300 + turn)
                assert playground.link(f"t{number}").mtu == 1300 + turn
                assert address in [item.address for item in playground.addresses()]
                with pytest.raises(nsnet.AlreadyExists) as refused:
                    playground.add_address(bridge, address)
                assert address in str(refused.value)
                playground.del_address(bridge, address)
        except BaseException as error:                      # noqa: B902  reported by the main thread
            problems.append((number, error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert {f"t{number}" for number in range(16)} <= set(ifnames(playground))
    assert not any(item.index == bridge.index for item in playground.addresses())


def test_a_witness_that_is_not_nsnet_reaches_a_listener_of_ours(host):
    with host.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = [*PYTHON, "-c", "import socket, sys; print(socket.create_connection(('127.0.0.1', int(sys.argv[1])))"
                  ".recv(9).decode())", str(listener.getsockname()[1])]
        process = subprocess.Popen(client, stdout=subprocess.PIPE, text=True, preexec_fn=go_inside(host.fd))
        with listener.accept()[0] as accepted:
            accepted.sendall(b"from host")
        assert process.communicate(timeout=PATIENCE)[0] == "from host\n"

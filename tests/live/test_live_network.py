"""Network on a real kernel: the seed's state, packets through it, its undoing; nothing foreign is touched."""

import contextlib
import json
import os
import socket
import sys
import time

import pytest

import nsnet
from live_helpers import (CLIENT, PATIENCE, PYTHON, SERVER, children, claims, descriptors, has_ended, ifnames, inside,
                          ip, ip_link, is_gone, namespace_of, needs, wait_for_eof, which)

CAT = ["/bin/cat"]
BRIDGE, HOST_END, END = "nsnet-ex-bridge", "nsnet-ex-veth0", "nsnet-ex-veth1"
# Container root is whoever runs the tests: an interpreter below /root can be run by nobody else.
OWN = {"uid_map": {0: 0}, "gid_map": {0: 0}}


def network_on(host, **options):
    options.setdefault("address", "10.0.0.1/24")
    return nsnet.Network(BRIDGE, netns=host, **options)


def launch(network, argv=tuple(CAT), address="10.0.0.2/24", **options):
    """The seed's container: all its names and numbers."""
    options = {"ifname": END, "host_ifname": HOST_END, "lladdr": "00:00:6c:00:00:00", "stdin": nsnet.DEVNULL, **options}
    if list(argv) == CAT:
        options["stdin"] = nsnet.PIPE                       # it stays until its end of file
    return network.launch(list(argv), address=address, **options)


@contextlib.contextmanager
def listening(start, argv, **options):
    """A launched program that has said that it listens, by closing the descriptor it was given."""
    reader, writer = os.pipe()
    try:
        with start([*argv, str(writer)], pass_fds=[writer], **options) as container:
            os.close(writer)
            writer = -1
            wait_for_eof(reader)
            yield container
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def echo_server(network, **options):
    options = {"capabilities": {"net_bind_service"}, **OWN, **options}
    server = [*PYTHON, "-c", SERVER, "10.0.0.2", "80"]
    return listening(lambda argv, **more: launch(network, argv, **more), server, **options)


def said_back(connection, message):
    """What an echo listener returns for a message."""
    with connection:
        connection.settimeout(PATIENCE)
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        parts = iter(lambda: connection.recv(4096), b"")
        return b"".join(parts)


# --- the seed's state ---

def test_the_bridge_is_the_seeds(host):
    with network_on(host) as network:
        assert network.is_up and network.address == "10.0.0.1/24"
        (link,) = ip(host, "address", "show", BRIDGE)
        assert "UP" in link["flags"] and link["linkinfo"]["info_kind"] == "bridge"
        assert [(row["local"], row["prefixlen"]) for row in link["addr_info"]] == [("10.0.0.1", 24)]
        assert link["ifalias"].startswith("nsnet:") and link["group"] not in ("0", "default")
    assert not network.is_up and BRIDGE not in ifnames(host)


def test_both_ends_of_the_veth_are_the_seeds(host):
    with network_on(host) as network, launch(network) as container:
        bridge, here, there = ip_link(host, BRIDGE), ip_link(host, HOST_END), ip_link(container.netns, END)
        # the host's end: enslaved, up, marked as ours
        assert here["master"] == BRIDGE and "UP" in here["flags"] and "LOWER_UP" in here["flags"]
        assert here["linkinfo"]["info_kind"] == "veth" and here["linkinfo"]["info_slave_kind"] == "bridge"
        assert here["ifalias"] == bridge["ifalias"] and here["group"] == bridge["group"]
        assert here["num_tx_queues"] == here["num_rx_queues"] == 1
        assert here["linkinfo"]["info_slave_data"]["state"] == "forwarding"
        # the container's end: its MAC, up, and without a mark, for that namespace is not ours
        assert there["address"] == "00:00:6c:00:00:00" and "UP" in there["flags"] and "LOWER_UP" in there["flags"]
        assert there["group"] == "default" and "ifalias" not in there
        assert there["num_tx_queues"] == there["num_rx_queues"] == 1
        assert END not in ifnames(host)


def test_the_container_has_lo_its_address_and_its_route_and_nothing_more(host):
    with network_on(host) as network, launch(network) as container:
        assert namespace_of(container.pid, "net") == os.fstat(container.netns.fd).st_ino
        assert container.address == "10.0.0.2/24"
        lo = ip_link(container.netns, "lo")
        assert "UP" in lo["flags"]
        told = {row["ifname"]: [f"{item['local']}/{item['prefixlen']}" for item in row["addr_info"]]
                for row in ip(container.netns, "-4", "address", "show")}
        assert told == {"lo": ["127.0.0.1/8"], END: ["10.0.0.2/24"]}
        routes = [(row["dst"], row.get("gateway"), row["dev"]) for row in ip(container.netns, "-4", "route", "show")]
        assert sorted(routes) == [("10.0.0.0/24", None, END), ("default", "10.0.0.1", END)]
        # IPv6 that nobody asked for makes no link-local address, and floods nothing
        assert [row for row in ip(container.netns, "-6", "address", "show", "dev", END) if row.get("addr_info")] == []


def test_both_ends_have_the_mtu_of_the_network(host):
    with network_on(host, mtu=1400) as network, launch(network) as container:
        ends = (host, BRIDGE), (host, HOST_END), (container.netns, END)
        assert {ip_link(netns, ifname)["mtu"] for netns, ifname in ends} == {1400}


def test_both_ends_have_as_many_queues_as_were_asked_for(host):
    with network_on(host) as network, launch(network, queues=3) as container:
        for netns, ifname in ((host, HOST_END), (container.netns, END)):
            link = ip_link(netns, ifname)
            assert link["num_tx_queues"] == link["num_rx_queues"] == 3


def test_the_bridges_mac_stays_when_ports_come(host):
    with network_on(host, lladdr="02:00:00:00:00:01") as network:
        with launch(network):
            assert ip_link(host, BRIDGE)["address"] == "02:00:00:00:00:01"
        assert ip_link(host, BRIDGE)["address"] == "02:00:00:00:00:01"
    with network_on(host) as network:
        before = ip_link(host, BRIDGE)["address"]
        with launch(network):
            assert ip_link(host, BRIDGE)["address"] == before


def test_without_a_default_route_there_is_none(host):
    with network_on(host) as network, launch(network, default_route=False) as container:
        assert [row["dst"] for row in ip(container.netns, "-4", "route", "show")] == ["10.0.0.0/24"]


def test_the_process_has_exactly_the_capabilities_asked_for(host):
    with network_on(host) as network:
        with launch(network, ["/bin/cat", "/proc/self/status"], stdout=nsnet.PIPE,
                    capabilities={"net_bind_service"}) as container:
            lines = container.stdout.read().decode().splitlines()
            assert {line.split()[1] for line in lines if line.startswith("Cap")} == {f"{1 << 10:016x}"}


# --- packets ---

def test_an_echo_comes_back_right_after_launch_every_time(host):
    """Twenty fresh networks. A lost first packet shows: TCP and ARP try again only after a second."""
    slowest = 0.0
    for _ in range(20):
        with network_on(host) as network, echo_server(network):
            started = time.monotonic()
            assert said_back(host.connect(("10.0.0.2", 80), PATIENCE), b"hello\n") == b"hello\n"
            slowest = max(slowest, time.monotonic() - started)
    assert slowest < 0.9


def test_the_first_packet_from_the_container_arrives(host):
    """The other direction, at once after execve: a client inside, a listener on the bridge's address."""
    for _ in range(5):
        with network_on(host) as network, host.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("10.0.0.1", 7))
            listener.listen()
            listener.settimeout(PATIENCE)
            started = time.monotonic()
            with launch(network, [*PYTHON, "-c", CLIENT, "10.0.0.1", "7", "from inside"], **OWN, stdout=nsnet.DEVNULL):
                with listener.accept()[0] as accepted:
                    assert accepted.recv(100) == b"from inside"
                    assert time.monotonic() - started < 0.9


def test_the_very_first_packet_after_attaching_is_not_lost(host):
    """Nothing starts in between that would give the kernel time: listener and client socket are there before."""
    slowest = 0.0
    with network_on(host) as network, nsnet.Netns.new(beside=host) as other, other.socket() as listener:
        listener.bind(("0.0.0.0", 80))
        listener.listen()
        for number in range(2, 22):
            with host.socket() as client:
                client.settimeout(PATIENCE)
                attachment = network.attach(other, address=f"10.0.0.{number}/24")
                started = time.monotonic()
                client.connect((f"10.0.0.{number}", 80))
                slowest = max(slowest, time.monotonic() - started)
                listener.accept()[0].close()
                attachment.detach()
    assert slowest < 0.9


def test_an_independent_client_reaches_the_listener(host):
    with network_on(host) as network, echo_server(network):
        done = inside(host, [*PYTHON, "-c", CLIENT, "10.0.0.2", "80", "by another way"])
        assert (done.returncode, done.stdout) == (0, "by another way")


def test_the_listener_is_not_reachable_from_another_namespace(host):
    """Guards the tests above: it is this bridge that carries the packets, not some other way."""
    with network_on(host) as network, echo_server(network), nsnet.Netns.new(beside=host) as elsewhere:
        elsewhere.set_link("lo", up=True)
        with pytest.raises(OSError):
            elsewhere.connect(("10.0.0.2", 80), PATIENCE)


def test_two_containers_reach_each_other(host):
    with network_on(host) as network, echo_server(network):
        with network.launch([*PYTHON, "-c", CLIENT, "10.0.0.2", "80", "neighbour"], address="10.0.0.3/24",
                            stdout=nsnet.PIPE, stdin=nsnet.DEVNULL, **OWN) as client:
            assert client.stdout.read() == b"neighbour" and client.wait(PATIENCE) == 0
        assert len(network.attachments) == 1


def test_ipv6_and_ipv4_side_by_side(host):
    with network_on(host, address=["10.0.0.1/24", "fd00::1/64"]) as network:
        addresses = ["10.0.0.2/24", "fd00::2/64"]
        for address in ("fd00::2", "10.0.0.2"):
            server = [*PYTHON, "-c", SERVER, address, "80"]
            with listening(lambda argv, **more: launch(network, argv, **more), server, address=addresses,
                           capabilities={"net_bind_service"}, **OWN) as container:
                started = time.monotonic()
                with host.connect((address, 80), PATIENCE) as connection:
                    connection.sendall(b"hello")
                    assert connection.recv(100) == b"hello"
                assert time.monotonic() - started < 0.9
                routes = {(row["dst"], row.get("gateway")) for family in ("-4", "-6")
                          for row in ip(container.netns, family, "route", "show")}
                assert {("default", "10.0.0.1"), ("default", "fd00::1")} <= routes


def test_ipv6_alone(host):
    with network_on(host, address="fd00:5::1/64") as network:
        with launch(network, address="fd00:5::9/64") as container:
            told = {f"{item['local']}/{item['prefixlen']}" for row in ip(container.netns, "address", "show", END)
                    for item in row["addr_info"] if item["scope"] == "global"}
            assert told == {"fd00:5::9/64"}


# --- holding ---

def test_a_held_container_has_its_network_and_has_not_begun(host):
    with network_on(host) as network, host.socket() as listener:
        container = launch(network, ["/bin/sh", "-c", "exit 5"], hold=True)
        assert container.held and container.poll() is None
        assert END in ifnames(container.netns) and "UP" in ip_link(container.netns, END)["flags"]
        container.go()
        assert container.wait(PATIENCE) == 5
        container.remove()
        assert HOST_END not in ifnames(host) and listener.fileno() >= 0


def test_a_held_container_may_be_removed(host):
    with network_on(host) as network:
        container = launch(network, hold=True)
        pid = container.pid
        container.remove()
        assert is_gone(pid) and HOST_END not in ifnames(host)


# --- steps ---

def test_steps_are_told_in_order_each_when_it_is_done(host):
    seen = []

    def note(step):
        assert step.seconds >= 0 and step.what and all(isinstance(text, str) for text in step.what)
        seen.append((step.name, BRIDGE in links(), HOST_END in links()))

    def links():
        return [link.ifname for link in host.links()]

    network = network_on(host, on_step=note)
    container = launch(network)
    container.remove()
    network.down()
    assert seen == [
        ("clone", False, False), ("claim", False, False), ("bridge", True, False), ("namespaces", True, False),
        ("veth", True, True), ("container", True, True), ("execve", True, True),
        ("process", True, True), ("veth", True, False), ("bridge", False, False)]


# --- undoing ---

def test_removing_and_taking_down_twice_is_once(host):
    network = network_on(host)
    network.up()
    network.up()
    container = launch(network)
    container.remove()
    container.remove()
    network.down()
    network.down()
    assert container.returncode is not None and not network.is_up
    network.up()                                            # and it can come back
    network.down()


def test_down_ends_what_was_launched(host):
    network = network_on(host)
    first, second = launch(network), launch(network, ["/bin/sleep", "1000"], "10.0.0.3/24", host_ifname=None)
    assert len(network.attachments) == 2
    network.down()
    assert first.returncode is not None and second.returncode is not None
    assert is_gone(first.pid) and is_gone(second.pid)
    assert {link.kind for link in host.links()} & {"bridge", "veth"} == set()


def test_the_context_manager_takes_down_after_an_exception(host):
    with pytest.raises(RuntimeError):
        with network_on(host) as network, launch(network) as container:
            raise RuntimeError
    assert is_gone(container.pid)


def vanish_process(host, container):
    os.kill(container.pid, 9)
    assert has_ended(container.pidfd)


def vanish_bridge(host, container):
    inside(host, [which("ip"), "link", "delete", BRIDGE], check=True)


def vanish_veth(host, container):
    inside(host, [which("ip"), "link", "delete", HOST_END], check=True)


def vanish_netns(host, container):
    os.kill(container.pid, 9)
    assert has_ended(container.pidfd)
    container.netns.close()


def vanish_everything(host, container):
    vanish_netns(host, container)
    vanish_bridge(host, container)
    inside(host, [which("ip"), "link", "delete", HOST_END])     # it may have gone with its namespace already


@needs("ip")
@pytest.mark.parametrize("how", ["remove", "down", "remove and down"])
@pytest.mark.parametrize("vanish", [vanish_process, vanish_bridge, vanish_veth, vanish_netns, vanish_everything])
def test_undoing_what_has_vanished_already_is_no_error(host, vanish, how):
    network = network_on(host)
    container = launch(network)
    vanish(host, container)
    if "remove" in how:
        container.remove()
        assert HOST_END not in ifnames(host)
    network.down()
    assert {BRIDGE, HOST_END} & set(ifnames(host)) == set()


# --- what is not ours ---

@needs("ip")
def test_a_bridge_of_that_name_that_exists_is_an_error_and_untouched(host):
    for command in (f"link add {BRIDGE} type bridge", f"address add 192.0.2.1/24 dev {BRIDGE}",
                    f"link set {BRIDGE} up"):
        inside(host, [which("ip"), *command.split()], check=True)

    def looks():
        (link,) = ip(host, "address", "show", BRIDGE)
        return {name: value for name, value in link.items() if name in (
            "ifindex", "flags", "address", "group", "ifalias", "mtu", "addr_info", "inet6_addr_gen_mode")}

    # The kernel's own work on a link that has just come up (a carrier, a link-local address) must be over.
    host.sync_carrier(BRIDGE)
    before = looks()
    network = network_on(host)
    for attempt in (network.up, lambda: launch(network)):
        with pytest.raises(nsnet.AlreadyExists) as refused:
            attempt()
        assert BRIDGE in str(refused.value)
        assert looks() == before and not network.is_up
    network.down()
    assert looks() == before and children() == set()
    inside(host, [which("ip"), "link", "delete", BRIDGE], check=True)


@needs("ip")
def test_a_veth_of_that_name_that_exists_is_an_error_and_untouched(host):
    inside(host, [which("ip"), "link", "add", HOST_END, "type", "veth", "peer", "theirs"], check=True)
    before = ip_link(host, HOST_END)
    with network_on(host) as network:
        with pytest.raises(nsnet.AlreadyExists):
            launch(network)
        assert ip_link(host, HOST_END) == before and children() == set()
        assert network.is_up and network.attachments == []
    assert ip_link(host, HOST_END) == before
    inside(host, [which("ip"), "link", "delete", HOST_END], check=True)


@needs("ip")
@pytest.mark.parametrize("how", ["our group", "our alias", "our prefix", "our group and prefix",
                                 "our alias and prefix"])
def test_a_stranger_that_looks_like_ours_is_left_alone(host, how):
    name = "nsnet-ex-other" if "prefix" in how else "theirs"
    with network_on(host) as network:
        container = launch(network)
        inside(host, [which("ip"), "link", "add", name, "type", "bridge"], check=True)
        mark = ip_link(host, BRIDGE)
        if "group" in how:
            inside(host, [which("ip"), "link", "set", name, "group", mark["group"]], check=True)
        if "alias" in how:
            inside(host, [which("ip"), "link", "set", name, "alias", mark["ifalias"]], check=True)
        before = ip_link(host, name)
        container.remove()
        assert ip_link(host, name) == before
        launch(network, ["/bin/sleep", "1000"])
    assert ip_link(host, name) == before
    assert {BRIDGE, HOST_END} & set(ifnames(host)) == set()
    inside(host, [which("ip"), "link", "delete", name], check=True)


@needs("ip")
@pytest.mark.parametrize("how", ["remove", "down"])
def test_a_stranger_that_took_our_veths_name_is_left_alone(host, how):
    """Ours was deleted by somebody, who then made a link of that name."""
    network = network_on(host)
    container = launch(network)
    inside(host, [which("ip"), "link", "delete", HOST_END], check=True)
    inside(host, [which("ip"), "link", "add", HOST_END, "type", "bridge"], check=True)
    before = ip_link(host, HOST_END)
    if how == "remove":
        container.remove()
    network.down()
    assert ip_link(host, HOST_END) == before
    inside(host, [which("ip"), "link", "delete", HOST_END], check=True)


@needs("ip")
def test_a_stranger_that_took_our_bridges_name_is_left_alone(host):
    network = network_on(host)
    network.up()
    inside(host, [which("ip"), "link", "delete", BRIDGE], check=True)
    inside(host, [which("ip"), "link", "add", BRIDGE, "type", "bridge"], check=True)
    before = ip_link(host, BRIDGE)
    network.down()
    assert ip_link(host, BRIDGE) == before
    inside(host, [which("ip"), "link", "delete", BRIDGE], check=True)


def test_two_networks_side_by_side_do_not_know_each_other(host):
    with network_on(host) as first, nsnet.Network("br1", address="10.1.0.1/24", netns=host) as second:
        with launch(first), second.launch(CAT, address="10.1.0.2/24", stdin=nsnet.PIPE) as other:
            first.down()
            assert BRIDGE not in ifnames(host) and {"br1", other.attachment.host_ifname} <= set(ifnames(host))
            assert other.poll() is None and ip_link(host, "br1")["operstate"] in ("UP", "UNKNOWN")


# --- attaching what exists ---

def test_an_existing_namespace_is_attached_and_detached(host):
    with nsnet.Netns.new(beside=host) as other, network_on(host) as network:
        attachment = network.attach(other, address="10.0.0.2/24", ifname="eth0")
        assert [(item.ifname, item.host_ifname) for item in network.attachments] == [("eth0", attachment.host_ifname)]
        assert ip_link(host, attachment.host_ifname)["master"] == BRIDGE
        assert "eth0" in ifnames(other) and attachment.address == "10.0.0.2/24"
        with other.socket() as listener:
            listener.bind(("10.0.0.2", 80))
            listener.listen()
            started = time.monotonic()
            with host.connect(("10.0.0.2", 80), PATIENCE), listener.accept()[0]:
                assert time.monotonic() - started < 0.9
        attachment.detach()
        attachment.detach()
        assert "eth0" not in ifnames(other) and attachment.host_ifname not in ifnames(host)
        assert network.attachments == [] and network.is_up
        network.attach(other, address="10.0.0.2/24")        # address and name are free again
    assert BRIDGE not in ifnames(host)


def test_attaching_brings_the_bridge_up_and_a_failure_takes_it_down_again(host):
    network = network_on(host)
    with nsnet.Netns.new(beside=host) as other:
        network.attach(other, address="10.0.0.2/24")
        assert network.is_up
        network.down()
        other.add_bridge("eth0")                            # in the way
        with pytest.raises(nsnet.AlreadyExists):
            network.attach(other, address="10.0.0.2/24")
        assert not network.is_up and BRIDGE not in ifnames(host)


def test_the_namespace_of_a_running_process_is_attached(host):
    user = {} if host.userns_fd is None else {"user": host.userns_fd}
    with nsnet.spawn(CAT, new={"net"}, join=user, stdin=nsnet.PIPE) as process, network_on(host) as network:
        with nsnet.Netns.of_pid(process.pid) as found:
            network.attach(found, address="10.0.0.2/24", ifname=END)
            assert END in open(f"/proc/{process.pid}/net/dev").read()


# --- what cannot be meant ---

@pytest.mark.parametrize("arguments, value", [
    ({"bridge": "a-name-of-17-bytes"}, "a-name-of-17-bytes"), ({"bridge": "a/b"}, "a/b"), ({"bridge": "a b"}, "a b"),
    ({"bridge": "x%d"}, "x%d"), ({"bridge": ""}, "''"), ({"bridge": "all"}, "all"), ({"bridge": "-rf"}, "-rf"),
    ({"address": "10.0.0.1/33"}, "10.0.0.1/33"), ({"address": "10.0.0.1"}, "10.0.0.1"), ({"address": "10.0.0.0/24"},
                                                                                         "10.0.0.0/24"),
    ({"address": "10.0.0.255/24"}, "10.0.0.255/24"), ({"address": []}, "address"),
    ({"address": "224.0.0.1/24"}, "224.0.0.1"),
    ({"address": ["10.0.0.1/24", "10.0.0.1/24"]}, "10.0.0.1/24"), ({"lladdr": "nonsense"}, "nonsense"),
    ({"lladdr": "01:00:5e:00:00:01"}, "01:00:5e:00:00:01"), ({"lladdr": "00:00:00:00:00:00"}, "00:00:00:00:00:00"),
    ({"mtu": 67}, "67"), ({"mtu": 70000}, "70000"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_network_that_cannot_be_meant_is_refused_at_once(host, arguments, value):
    with pytest.raises(nsnet.UsageError) as refused:
        nsnet.Network(**{"bridge": BRIDGE, "address": "10.0.0.1/24", "netns": host, **arguments})
    assert value in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("arguments, value", [
    ({"address": "10.0.1.2/24"}, "10.0.1.2/24"), ({"address": "10.0.0.2/25"}, "10.0.0.2/25"),
    ({"address": "10.0.0.1/24"}, "10.0.0.1/24"), ({"address": "10.0.0.255/24"}, "10.0.0.255/24"),
    ({"address": "fd00::2/64"}, "fd00::2/64"), ({"address": []}, "address"), ({"ifname": "lo"}, "lo"),
    ({"ifname": "with space"}, "with space"), ({"host_ifname": BRIDGE}, BRIDGE), ({"host_ifname": "lo"}, "lo"),
    ({"host_ifname": "x%d"}, "x%d"), ({"lladdr": "00:00:6c"}, "00:00:6c"), ({"capabilities": {"flying"}}, "flying"),
    ({"new": {"user"}}, "user"), ({"argv": []}, "[]"), ({"argv": [""]}, "''"),
    ({"uid_map": [(0, 2**32, 1)]}, str(2**32)),
], ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("up", [False, True])
def test_a_launch_that_cannot_be_meant_creates_nothing(host, state, arguments, value, up):
    network = network_on(host)
    if up:
        network.up()
    before, files = ifnames(host), claims(state)
    with pytest.raises(nsnet.UsageError) as refused:
        network.launch(**{"argv": CAT, "address": "10.0.0.2/24", "host_ifname": HOST_END, **arguments})
    assert value in str(refused.value) and "\n" not in str(refused.value)
    assert ifnames(host) == before and children() == set() and claims(state) == files and network.is_up is up
    network.down()


def test_an_address_or_name_that_is_taken_is_refused(host):
    with network_on(host) as network, launch(network):
        for arguments in ({"address": "10.0.0.2/24"}, {"address": "10.0.0.3/24", "host_ifname": HOST_END}):
            with pytest.raises(nsnet.UsageError):
                network.launch(CAT, **arguments)
        assert len(network.attachments) == 1 and len(children()) == 1


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("options, step, argv", [
    ({}, "execve", ["/nonexistent/command"]), ({"cwd": "/nonexistent"}, "chdir", CAT),
])
def test_a_command_that_cannot_start_leaves_nothing(host, state, options, step, argv, up):
    network = network_on(host)
    if up:
        network.up()
    before, files = ifnames(host), len(claims(state))
    with pytest.raises(nsnet.KernelError) as refused:
        launch(network, argv, stdin=nsnet.DEVNULL, **options) if argv != CAT else launch(network, argv, **options)
    assert refused.value.step == step
    assert ifnames(host) == before and children() == set() and len(claims(state)) == files and network.is_up is up
    network.down()


# --- other things that a user may do ---

def test_names_are_free_to_choose_and_random_by_default(host):
    with network_on(host) as network:
        with network.launch(CAT, address="10.0.0.2/24", stdin=nsnet.PIPE) as first:
            with network.launch(CAT, address="10.0.0.3/24", stdin=nsnet.PIPE) as second:
                names = {first.attachment.host_ifname, second.attachment.host_ifname}
                assert len(names) == 2 and names <= set(ifnames(host))
                assert "eth0" in ifnames(first.netns) and "eth0" in ifnames(second.netns)


def test_a_network_needs_no_netns_argument_where_the_caller_is(host):
    """By default it is built in the namespace of the calling process: here, one that was made for it."""
    script = ("import nsnet, json\n"
              "with nsnet.Network('br0', address='10.0.0.1/24') as network:\n"
              "    with nsnet.Netns.current() as here: print(json.dumps([link.ifname for link in here.links()]))\n")
    done = inside(host, [sys.executable, "-c", script], cwd=os.path.dirname(os.path.dirname(nsnet.__file__)),
                  env={"NSNET_STATE_DIR": os.environ["NSNET_STATE_DIR"]})
    assert done.returncode == 0, done.stderr
    assert "br0" in json.loads(done.stdout)


def test_a_whole_life_leaves_no_descriptor(host):
    host.fd                                                 # opened on first use, and kept by the fixture
    before = descriptors()
    for _ in range(3):
        with network_on(host) as network, launch(network, stdout=nsnet.PIPE) as container:
            container.netns.links()
    assert descriptors() == before

"""Pool: slots that are made ahead, taken, refilled, given back. What goes wrong on the way is test_live_pool_faults.py's, what a
command in a slot gets test_live_pool_slots.py's.
"""

import os
import signal
import threading

import pytest

import nsnet
from live_helpers import PATIENCE, children, has_ended, ifnames, inside, links_of, namespace_of
from network_helpers import leased, reaches, route_table, strays, sysctl

CAT, SH = ["/bin/cat"], "/bin/sh"
OWN = {"uid_map": {0: 0}, "gid_map": {0: 0}}               # whoever runs the tests: an ordinary user is root of `host`
LIFETIMES = ("process", "declared", "attachments", "owner")


@pytest.fixture
def network(host):
    with nsnet.Network("br0", address="10.0.0.1/24", netns=host) as made:
        yield made


def ports(host):
    return len(strays(host)) - 1


class Batches:
    """How many slots were made at once, each time; `refuse` instead of making some."""

    def __init__(self, monkeypatch):
        self.sizes, self.refuse = [], None
        launch_many = nsnet.Network.launch_many

        def counting(network, wanted, **options):
            self.sizes.append(len(wanted))
            if self.refuse is not None:
                raise self.refuse
            return launch_many(network, wanted, **options)
        monkeypatch.setattr(nsnet.Network, "launch_many", counting)


# --- taking ---

def test_a_pool_is_full_inside_its_block_and_gone_after_it(host, network, state):
    pool = nsnet.Pool(network, size=3)
    assert (pool.ready, pool.size, ports(host), children()) == (0, 3, 0, set())
    with pool:
        assert pool.ready == 3 and len(network.attachments) == 3 and len(children()) == 3
        assert repr(pool) == "<Pool br0 3 of 3 ready>"
        assert len(leased(state)) == 3
    assert pool.ready == 0 and network.attachments == [] and children() == set() and network.is_up
    assert leased(state) == [] and ports(host) == 0


def test_what_is_taken_is_a_container_like_any_other(host, network):
    with nsnet.Pool(network, size=2) as pool:
        with pool.launch(CAT, stdin=nsnet.PIPE, stdout=nsnet.PIPE) as container:
            assert type(container) is nsnet.Container and container.args == tuple(CAT) and not container.held
            assert repr(container) == f"<Container {container.pid} '/bin/cat' running>"
            assert container.attachment in network.attachments and container.address == container.attachment.address
            assert reaches(host, container.netns, container.address.partition("/")[0])
            with open(f"/proc/{container.pid}/cmdline", "rb") as file:
                assert file.read() == b"/bin/cat\0"
            assert container.communicate(b"hello", timeout=PATIENCE) == (b"hello", None)
            assert container.wait(PATIENCE) == 0
        assert container.attachment not in network.attachments
        assert container.attachment.host_ifname not in ifnames(host)


def test_a_command_gets_what_network_launch_gives(network, monkeypatch):
    monkeypatch.setenv("NSNET_SECRET", "x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    show = [SH, "-c", "env | grep -v -e ^_= -e ^PWD -e ^SHLVL -e ^OLDPWD; grep ^Cap /proc/self/status; pwd; id -u; ip route"]

    def said(launch, **options):
        with launch(show, stdout=nsnet.PIPE, capabilities={"net_raw"}, **options) as container:
            text = container.communicate(timeout=PATIENCE)[0].decode()
            return text.replace(container.address.partition("/")[0], "ADDRESS")

    with nsnet.Pool(network, size=1) as pool:
        assert said(pool.launch) == said(network.launch)
        assert "NSNET_SECRET=x" in said(pool.launch, env=os.environ)


def test_slots_are_as_the_pool_says(host, network):
    with nsnet.Pool(network, size=1, ifname="lan0", mtu=1400, default_route=False, new={"user", "net", "uts"}, hostname="box",
                    routes=[{"dst": "10.9.0.0/16", "via": "10.0.0.1", "metric": 7}],
                    sysctls={"net.ipv4.ip_unprivileged_port_start": 0}, **OWN) as pool:
        with pool.launch(CAT, stdin=nsnet.PIPE) as container:
            assert ifnames(container.netns) == ["lan0", "lo"] and container.netns.link("lan0").mtu == 1400
            assert route_table(container.netns, "-4") == {("10.9.0.0/16", "10.0.0.1", "lan0", 7)}
            assert sysctl(container.netns, "net/ipv4/ip_unprivileged_port_start") == "0"
            assert namespace_of(container.pid, "uts") != namespace_of("self", "uts")
            with open(f"/proc/{container.pid}/uid_map", encoding="ascii") as file:
                assert file.read().split() == ["0", str(os.geteuid()), "1"]


def test_none_is_made_before_it_is_asked_for_and_none_is_left_out(host, network, monkeypatch):
    batches = Batches(monkeypatch)
    pool = nsnet.Pool(network, size=4)
    try:
        with pool.launch(["/bin/true"]) as container:
            assert container.wait(PATIENCE) == 0
            pool.fill(PATIENCE)
            assert pool.ready == 4 and ports(host) == 5 and batches.sizes[0] <= 2     # whoever waits, waits for few
    finally:
        pool.close()


def test_a_burst_is_refilled_at_once(network, monkeypatch):
    batches = Batches(monkeypatch)
    with nsnet.Pool(network, size=8, low=3) as pool:
        assert batches.sizes == [8]
        taken = [pool.launch(["/bin/true"]) for _ in range(4)]
        assert batches.sizes == [8] and pool.ready == 4     # not yet
        taken.append(pool.launch(["/bin/true"]))
        pool.fill(PATIENCE)
        assert batches.sizes == [8, 5] and pool.ready == 8
        network.detach_many(taken)


def test_a_large_one_is_filled_in_parts(network, monkeypatch):
    batches = Batches(monkeypatch)
    with nsnet.Pool(network, size=20):
        assert batches.sizes == [16, 4]


def test_whoever_finds_none_waits_for_one(network):
    with nsnet.Pool(network, size=1) as pool:
        taken = [pool.launch(["/bin/true"], timeout=PATIENCE) for _ in range(5)]
        assert len({one.pid for one in taken}) == len({one.address for one in taken}) == 5
        network.detach_many(taken)


def test_a_held_command_waits_for_its_go(network):
    with nsnet.Pool(network, size=1) as pool, pool.launch(CAT, hold=True, stdin=nsnet.PIPE) as container:
        assert container.held and ifnames(container.netns) == ["eth0", "lo"]
        container.go()
        assert not container.held


@pytest.mark.parametrize("lifetime", LIFETIMES)
def test_each_lifetime_has_its_pool(host, state, lifetime):
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host, lifetime=lifetime)
    with network:
        with nsnet.Pool(network, size=2) as pool:
            with pool.launch(CAT, stdin=nsnet.PIPE) as container:
                assert reaches(host, container.netns, container.address.partition("/")[0])
                assert len(network.entries()) >= 2
                pool.fill()
                assert pool.ready == 2 and ports(host) == 3
                pool.drain()
                assert ports(host) == 1 and not has_ended(container.pidfd, 0)
        assert [network.is_up, ports(host)] == ([False, -1] if lifetime == "attachments" else [True, 0])
        if lifetime == "attachments":
            with nsnet.Pool(network, size=1) as pool:
                assert network.is_up and pool.ready == 1
    network.down()


# --- how many ---

def test_another_size(host, network):
    with nsnet.Pool(network, size=2) as pool:
        pool.resize(5)
        pool.fill(PATIENCE)
        assert (pool.size, pool.ready, ports(host)) == (5, 5, 5)
        pool.resize(1)
        assert (pool.size, pool.ready, ports(host)) == (1, 1, 1) and len(children()) == 1


def test_drained_it_makes_none_but_for_launch(host, network, monkeypatch):
    with nsnet.Pool(network, size=3) as pool:
        taken = pool.launch(CAT, stdin=nsnet.PIPE)
        pool.drain()
        assert (pool.ready, ports(host)) == (0, 1) and children() == {taken.pid}
        batches = Batches(monkeypatch)
        with pool.launch(["/bin/true"]) as container:
            assert container.wait(PATIENCE) == 0
        assert batches.sizes == [1] and pool.ready == 0
        pool.fill(PATIENCE)
        assert pool.ready == 3
        taken.remove()


def test_closed_it_gives_none_and_takes_none_away(host, network):
    pool = nsnet.Pool(network, size=2)
    pool.fill()
    container = pool.launch(CAT, stdin=nsnet.PIPE)
    pool.close()
    pool.close()
    assert children() == {container.pid} and container.poll() is None and ports(host) == 1
    for call in (lambda: pool.launch(CAT), pool.fill, pool.drain, lambda: pool.resize(3)):
        with pytest.raises(nsnet.UsageError, match="pool of br0: it is closed"):
            call()
    container.remove()


def test_a_network_that_is_taken_down_stays_down_until_somebody_launches(host):
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host)
    with nsnet.Pool(network, size=4) as pool:
        network.down()
        assert strays(host) == [] and children() == set()
        with pool.launch(["/bin/true"]) as container:       # all four are dead: this one is made
            assert container.wait(PATIENCE) == 0 and network.is_up
    network.down()


def test_nothing_is_made_behind_the_back_of_whoever_took_it_down(host, monkeypatch):
    """The thread has decided to make some, and meanwhile the network goes."""
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host)
    with nsnet.Pool(network, size=2, low=1) as pool:
        batches = Batches(monkeypatch)
        with network._lock:                                 # it waits for this
            container = pool.launch(["/bin/true"])
            container.wait(PATIENCE)
            while not pool._making:
                os.sched_yield()
            network.down()
        pool.drain()
        assert batches.sizes == [] and not network.is_up and strays(host) == []


# --- who may ---

def test_from_many_threads_each_slot_goes_to_one(network):
    taken, failed = [], []

    def take():
        try:
            for _ in range(6):
                taken.append(pool.launch(CAT, stdin=nsnet.PIPE, timeout=PATIENCE))
        except BaseException as error:                      # noqa: B902  compared below
            failed.append(error)
    with nsnet.Pool(network, size=8) as pool:
        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == [] and len(taken) == 48
        assert len({one.pid for one in taken}) == len({one.address for one in taken}) == 48
        assert {one.poll() for one in taken} == {None} and {one.args for one in taken} == {tuple(CAT)}
        network.detach_many(taken)


def test_a_fork_may_not_use_it_and_takes_nothing_away(host, network):
    with nsnet.Pool(network, size=2) as pool:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for call in (lambda: pool.launch(CAT), pool.fill, pool.drain, lambda: pool.resize(3)):
                    try:
                        call()
                    except nsnet.UsageError as error:
                        code = 0 if "this is a fork" in str(error) else 2
                pool.__exit__(None, None, None)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert [slot.poll() for slot in pool._ready] == [None, None] and ports(host) == 2
        with pool.launch(["/bin/true"]) as container:
            assert container.wait(PATIENCE) == 0


def test_what_cannot_be_meant_is_refused(host, network):
    for options, words in (({"size": 0}, "size 0: expected a number from 1 to 1023"), ({"size": 1024}, "size 1024"),
                           ({"size": True}, "size True"), ({"size": 4, "low": 4}, "low 4: expected a number from 0 to 3"),
                           ({"size": 1, "new": {"user"}}, "expected 'net' among them"),
                           ({"size": 1, "new": "net"}, "new 'net': expected a set"),
                           ({"size": 1, "hostname": "x"}, "expected 'uts' in new"), ({"size": 1, "mtu": 1}, "mtu 1"),
                           ({"size": 1, "ifname": "a/b"}, "ifname 'a/b'"), ({"size": 1, "routes": [{"dst": "x"}]}, "dst 'x'"),
                           ({"size": 1, "uid_map": {0: 0}, "new": {"net"}}, "expected 'user' in new")):
        with pytest.raises(nsnet.UsageError, match=words):
            nsnet.Pool(network, **options)
    with pytest.raises(nsnet.UsageError, match="expected a Network"):
        nsnet.Pool("br0", size=1)
    with pytest.raises(TypeError):
        nsnet.Pool(network, size=1, argv=CAT)
    with nsnet.Pool(network, size=1) as pool:
        for options, words in (({"argv": []}, "command"), ({"argv": CAT, "umask": 4096}, "umask 4096"),
                               ({"argv": CAT, "timeout": -1}, "timeout -1"), ({"argv": CAT, "user": 7}, "user 7"),
                               ({"argv": CAT, "pass_fds": [4000]}, "pass_fds 4000"), ({"argv": CAT, "stdin": 4000}, "stdin 4000")):
            with pytest.raises(nsnet.UsageError, match=words):
                pool.launch(**options)
        with pytest.raises(TypeError):
            pool.launch(CAT, address="10.0.0.9/24")
        with pytest.raises(nsnet.UsageError, match="size 0"):
            pool.resize(0)
        assert pool.ready == 1


def test_a_signal_to_the_group_does_not_meet_the_next_command(network):
    """Ctrl-C ends what runs; what is launched after it has not heard of it."""
    with nsnet.Pool(network, size=1) as pool:
        for pid in children():
            os.kill(pid, signal.SIGINT)
        with pool.launch([SH, "-c", "exit 7"]) as container:
            assert container.wait(PATIENCE) == 7


def test_other_attachments_and_the_pool_do_not_meet(host, network):
    with nsnet.Pool(network, size=2) as pool, nsnet.Netns.new(beside=host) as beside:
        attachment = network.attach(beside)
        with network.launch(CAT, stdin=nsnet.PIPE) as cold, pool.launch(CAT, stdin=nsnet.PIPE) as warm:
            assert len({attachment.address, cold.address, warm.address}) == 3
            assert reaches(cold.netns, warm.netns, warm.address.partition("/")[0])
        attachment.detach()
        assert pool.ready == 2 or pool.fill(PATIENCE) is None
        assert set(links_of(host)) == {"lo", "br0", *(one.host_ifname for one in network.attachments)}
        assert inside(host, ["/bin/true"]).returncode == 0

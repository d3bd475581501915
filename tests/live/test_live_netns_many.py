"""Many network namespaces at once: whose they are, how many calls they cost, and that nothing is left of what fails."""

import errno
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager

import pytest

import nsnet
from live_helpers import (CLONE_NEWUSER, IS_ROOT, LIBC, NS_GET_USERNS, check, descriptors,
                          ends_with_its_maker_though_a_fork_lives, environment, ifnames,
                          needs, threads, which)
from nsnet import clone, kernel
from nsnet.errors import KernelError, UsageError

ROUTE = (socket.AF_NETLINK, socket.SOCK_RAW, kernel.NETLINK_ROUTE)
MAPS = (f"0 {os.geteuid()} 1\n", f"0 {os.getegid()} 1\n")


@pytest.fixture
def below():
    """A namespace that is owned by a user namespace below ours, as an ordinary user's is."""
    with nsnet.Netns(kernel.RtnlSocket(clone.visit(*ROUTE, maps=MAPS)), fresh=True, private=True) as made:
        made._userns = made._owner()
        yield made


@pytest.fixture(params=["as we may", "below"])
def beside(request):
    """Made by threads where we may, and by a child."""
    return request.getfixturevalue("below") if request.param == "below" else None


@contextmanager
def held(namespaces):
    with ExitStack() as opened:
        for netns in namespaces:
            opened.enter_context(netns)
        yield namespaces


def owner(netns):
    """The inode of the user namespace that owns it."""
    fd = fcntl.ioctl(netns.fd, NS_GET_USERNS)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


# --- what they are ---

@pytest.mark.parametrize("count, threads", [(1, None), (2, 1), (7, 2), (40, 4), (3, 16)])
def test_each_is_new_and_its_own(beside, count, threads):
    with nsnet.Netns.current() as here, held(nsnet.Netns.new_many(count, beside=beside, threads=threads)) as made:
        assert len(made) == count == len({netns.identity for netns in made} - {here.identity})
        for netns in (made[0], made[-1]):
            assert ifnames(netns) == ["lo"] and netns.private and netns.may_administer()
        made[0].add_bridge("a")
        assert made[0].link("a").index == 2


def test_they_are_owned_as_one_that_is_made_alone():
    with held(nsnet.Netns.new_many(3)) as made, nsnet.Netns.new() as alone:
        assert len({owner(netns) for netns in made}) == 1
        if IS_ROOT:
            assert owner(made[0]) == os.stat("/proc/self/ns/user").st_ino == owner(alone)
            assert [netns.userns_fd for netns in made] == [None] * 3
        else:                                               # one user namespace for all, below ours
            assert owner(made[0]) not in (os.stat("/proc/self/ns/user").st_ino, owner(alone))
            assert {os.fstat(netns.userns_fd).st_ino for netns in made} == {owner(made[0])}


def test_beside_is_the_owner(below):
    with held(nsnet.Netns.new_many(3, beside=below)) as made:
        assert {owner(netns) for netns in made} == {owner(below)} == {os.fstat(made[2].userns_fd).st_ino}
        made[0].close()
        with held(nsnet.Netns.new_many(2, beside=made[1])) as more:
            assert {owner(netns) for netns in more} == {owner(below)}


def test_each_outlives_the_others(beside):
    made = nsnet.Netns.new_many(3, beside=beside)
    made[0].close(), made[2].close()
    with made[1]:
        made[1].set_link(made[1].lo, up=True)
        assert made[1].link("lo").up


def test_they_take_processes_and_are_attached(host):
    with held(nsnet.Netns.new_many(3, beside=host)) as made, nsnet.Network("br0", address="10.0.0.1/24", netns=host) as network:
        network.attach_many([{"netns": netns} for netns in made])
        assert [ifnames(netns) for netns in made] == [["eth0", "lo"]] * 3


def test_a_host_sees_each_while_the_next_ones_are_made(beside):
    seen = []
    with closing(nsnet.Netns.making(20, beside=beside)) as making:
        for netns in making:
            with netns:
                seen.append(netns.identity)
    assert len(set(seen)) == 20


# --- what cannot be meant ---

@pytest.mark.parametrize("count", [-1, None, 1.0, True, "3", 1 << 30], ids=repr)
def test_what_is_no_count_is_refused(count):
    for call in (nsnet.Netns.new_many, nsnet.Netns.making):
        with pytest.raises(UsageError, match="count"):
            call(count)


@pytest.mark.parametrize("threads", [-1, 0, 1.0, True, "3", 17], ids=repr)
def test_what_is_no_number_of_threads_is_refused(threads):
    with pytest.raises(UsageError, match="threads"):
        nsnet.Netns.new_many(2, threads=threads)


def test_beside_what_is_no_netns_is_refused():
    with pytest.raises(UsageError, match="expected a Netns"):
        nsnet.Netns.new_many(2, beside="/proc/self/ns/net")


def test_none_at_all():
    assert nsnet.Netns.new_many(0) == [] == list(nsnet.Netns.making(0))


# --- all or none ---

@contextmanager
def few_descriptors(more):
    """No more than so many may be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull, encoding="ascii") as lowest:
        limit = lowest.fileno() + more
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("more", [1, 2, 5, 12, 19, 20, 21])
def test_too_few_descriptors_are_one_error_and_nothing_is_left(beside, more):
    before = descriptors()
    with few_descriptors(more):
        with pytest.raises(KernelError) as caught:
            nsnet.Netns.new_many(40, beside=beside)
    assert caught.value.errno == errno.EMFILE and descriptors() == before and threads() == 1
    with held(nsnet.Netns.new_many(3, beside=beside)) as made:
        assert len(made) == 3


@pytest.mark.parametrize("limit", [1, 5])
def test_a_limit_of_the_user_namespace_is_told(below, limit):
    def enter():
        check(LIBC.setns(below.userns_fd, CLONE_NEWUSER))

    subprocess.run(["/bin/sh", "-c", f"echo {limit} >/proc/sys/user/max_net_namespaces"], preexec_fn=enter, check=True)
    before = descriptors()
    with pytest.raises(KernelError, match="max_net_namespaces is reached") as caught:
        nsnet.Netns.new_many(10, beside=below)
    assert (caught.value.errno, caught.value.step) == (errno.ENOSPC, "unshare") and descriptors() == before


class Interrupt(Exception):
    pass


@contextmanager
def alarm(seconds, handler, again=0.0):
    """A signal handler that is called then, and so often again."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, again)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_handler_that_raises_gets_through_and_nothing_is_left(beside):
    def handler(*_):
        raise Interrupt

    for seconds in (0.0001, 0.0003, 0.001, 0.002, 0.004, 0.008):
        before = descriptors()
        made = []
        with pytest.raises(Interrupt):
            with alarm(seconds, handler):
                made += nsnet.Netns.new_many(400, beside=beside)
        assert made == [] and descriptors() == before and threads() == 1


def test_a_handler_that_returns_disturbs_nothing(beside):
    ran = []
    with alarm(0.0005, lambda *_: ran.append(1), 0.0005):
        with held(nsnet.Netns.new_many(60, beside=beside)) as made:
            assert len({netns.identity for netns in made}) == 60
    assert ran


def test_who_stops_in_the_middle_leaves_nothing(beside):
    before = descriptors()
    for taken in (0, 1, 5):
        making = nsnet.Netns.making(50, beside=beside)
        for _ in range(taken):
            next(making).close()
        making.close()
        assert descriptors() == before and threads() == 1


def test_a_visit_that_is_forgotten_ends(beside):
    """By the last reference, with what it had made."""
    before = descriptors()
    visits = clone.Visits(50, *ROUTE, threads=2, maps=None if IS_ROOT and beside is None else MAPS)
    visits.take().close()
    del visits
    assert descriptors() == before and threads() == 1


def test_a_fork_in_the_middle_takes_nothing_and_waits_for_nobody(beside):
    with closing(nsnet.Netns.making(60, beside=beside)) as making:
        with next(making) as first:
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                making.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            rest = list(making)
        with held(rest):
            assert len({netns.identity for netns in rest} | {first.identity if not first.closed else ""}) == 60


def test_who_makes_them_ends_with_its_maker_though_a_fork_of_that_lives():
    """It has said all that there is room for; the fork has a copy of the maker's end of the channel."""
    script = ("import os, time\n"
              "from nsnet import clone\n"
              f"visits = clone.Visits(5000, *{tuple(map(int, ROUTE))}, threads=1, maps={MAPS})\n"
              "worker = os.fork()\n"
              "if worker == 0: time.sleep(60)\n"
              "print(visits._job.child.pid, worker, flush=True); time.sleep(60)")
    ends_with_its_maker_though_a_fork_lives(script)


# --- what it costs ---

COUNT = """
import nsnet
here = nsnet.Netns.new_many(1)          # what is done once in a process
for netns in nsnet.Netns.new_many(50, threads=2):
    netns.close()
"""


@needs("strace")
def test_nothing_is_started_for_each(state, tmp_path):
    log = tmp_path / "log"
    subprocess.run([which("strace"), "-f", "-o", str(log), "-e", "trace=clone,clone3,unshare,socket", sys.executable, "-c",
                    COUNT], env=environment(state), check=True, timeout=60)
    calls = log.read_text(errors="replace")
    done = {name: sum(f" {name}(" in line for line in calls.splitlines()) for name in ("clone", "clone3", "unshare")}
    assert 51 <= done["unshare"] <= 56 and done["clone"] + done["clone3"] <= 8, done

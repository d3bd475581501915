"""Sysctls of other network namespaces on a real kernel, by both ways to go there; the witness is cat(1) inside."""

import ctypes
import errno
import os
import signal
import subprocess
import threading
import time

import pytest

import nsnet
from live_helpers import (CLONE_NEWNET, IS_ROOT, LIBC, PATIENCE, PYTHON, Worker, as_nobody, check, children, go_inside,
                          in_parallel, inside, needs_root, read_inside)
from nsnet import clone, kernel, sysctls

FORWARD, TTL, PORTS = "net.ipv4.ip_forward", "net.ipv4.ip_default_ttl", "net.ipv4.ip_local_port_range"
RESERVED, LISTEN, MISSING = "net.ipv4.ip_local_reserved_ports", "net.core.somaxconn", "net.ipv4.no_such_setting"
CLONE_NEWNS, MS_RDONLY, MS_BIND, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20000, 1, 4096, 32, 16384, 1 << 18
WAYS = ("new", "spawned", "entered", "copied")


class Alarm(Exception):
    pass


def entered(netns):
    """The same, but its user namespace is entered first, also where the caller need not."""
    if netns._userns is None:
        netns._userns = kernel.owner_userns(netns.fd)
    return netns


@pytest.fixture(params=WAYS)
def place(request, nothing_grows, monkeypatch):
    """A namespace to visit: without a process, a container's, and that by a child which is the image or a copy of us."""
    if request.param == "new":
        with nsnet.Netns.new() as netns:
            yield netns
        return
    if request.param == "copied":
        monkeypatch.setattr(clone.image, "fileno", lambda: -1)
    with nsnet.spawn(["sleep", "60"], new={"user", "net"}, hold=True) as box:
        yield box.netns if request.param == "spawned" else entered(box.netns)


@pytest.fixture
def visits(monkeypatch):
    """Who was sent: the numbers of user namespaces entered first, -1 for none."""
    seen = []

    class Lib:
        def __getattr__(self, name):
            return getattr(kernel.lib, name)

        def nsnet_visit(self, job):
            seen.append(job.userns_fd)
            return kernel.lib.nsnet_visit(job)

    monkeypatch.setattr(clone, "lib", Lib())
    return seen


def witness(netns, key):
    """As a process inside sees it."""
    return " ".join(read_inside(netns, sysctls.path(key)).split())


def here(key):
    with open(sysctls.path(key), encoding="ascii") as file:
        return " ".join(file.read().split())


def refused(call, *arguments):
    with pytest.raises(nsnet.KernelError) as error:
        call(*arguments)
    return error.value


# --- reading ---

def test_what_is_read_is_what_a_process_inside_reads(place):
    keys = [FORWARD, TTL, PORTS, RESERVED, LISTEN, "net.ipv4.tcp_rmem", "net.ipv4.conf.all.rp_filter",
            "net/ipv4/conf/lo/mc_forwarding"]
    found = sysctls.read(place, keys)
    assert list(found) == keys and found == {key: witness(place, key) for key in keys}
    assert "\t" not in found[PORTS] and len(found[PORTS].split()) == 2


def test_what_this_kernel_does_not_have_is_none(place):
    found = sysctls.read(place, [MISSING, FORWARD, f"{FORWARD}.below", "net.ipv4.conf.nolink0.rp_filter"])
    assert found == {MISSING: None, FORWARD: witness(place, FORWARD), f"{FORWARD}.below": None,
                     "net.ipv4.conf.nolink0.rp_filter": None}


def test_what_is_the_machines_is_not_in_a_namespace(place):
    """net.core.netdev_max_backlog is one number for the machine: only the first namespace shows it."""
    assert sysctls.read(place, ["net.core.netdev_max_backlog"]) == {"net.core.netdev_max_backlog": None}


def test_keys_come_from_any_iterable_and_none_is_read_twice(place, visits):
    assert list(sysctls.read(place, (key for key in (FORWARD, TTL, FORWARD)))) == [FORWARD, TTL]
    assert sysctls.read(place, []) == {} and len(visits) in (1, 2)


def test_many_are_read_in_one_visit(place, visits):
    sysctls.read(place, [FORWARD])                          # a container's namespace may have to be tried first
    del visits[:]
    names = ["ip_forward", "ip_default_ttl", "tcp_fin_timeout", "tcp_rmem", "tcp_wmem", "ip_nonlocal_bind",
             "ip_local_port_range", "ip_unprivileged_port_start", "ping_group_range", "tcp_keepalive_time"]
    found = sysctls.read(place, [f"net.ipv4.{name}" for name in names])
    assert len(visits) == 1 and None not in found.values()


def test_very_many_are_read_in_a_few_visits(place, visits):
    keys = [f"net.ipv4.conf.no{number}.forwarding" for number in range(1500)] + [TTL]
    found = sysctls.read(place, keys)
    assert list(found) == keys and found[TTL] == witness(place, TTL) and set(found.values()) == {None, found[TTL]}
    assert len(visits) < 5


def test_a_directory_and_what_is_only_to_be_written_cannot_be_read(place):
    error = refused(sysctls.read, place, [FORWARD, "net.ipv4"])
    assert error.errno == errno.EISDIR and error.step == "sysctl net.ipv4"
    error = refused(sysctls.read, place, ["net.ipv4.route.flush"])
    assert error.errno in (errno.EACCES, errno.EPERM) and "only to be written" in error.hint


def test_what_is_too_long_is_an_error_and_not_cut(place):
    program = """
import sys
file = open(sys.argv[1], "w")
for start in range(10000, 20000, 1000):
    file.write(",".join(map(str, range(start, start + 1000, 2))) + "\\n")
    file.flush()
"""
    inside(place, [*PYTHON, "-c", program, sysctls.path(RESERVED)], check=True)
    assert len(witness(place, RESERVED)) == 29999
    error = refused(sysctls.read, place, [RESERVED])
    assert error.errno == errno.EOVERFLOW and "longer than" in error.hint


def test_what_is_just_short_enough_is_read_whole(place):
    wanted = ",".join(map(str, range(10001, 11364, 2)))
    assert 4080 < len(wanted) < 4095
    sysctls.write(place, {RESERVED: wanted})
    assert sysctls.read(place, [RESERVED]) == {RESERVED: wanted} and witness(place, RESERVED) == wanted
    sysctls.write(place, {RESERVED: ""})
    assert sysctls.read(place, [RESERVED]) == {RESERVED: ""} and witness(place, RESERVED) == ""


# --- writing ---

def test_what_is_written_is_there_and_nowhere_else(place):
    before = here(TTL), here(PORTS), here(FORWARD)
    with nsnet.Netns.new() as other:
        others = witness(other, TTL), witness(other, PORTS), witness(other, FORWARD)
        sysctls.write(place, {TTL: 33, PORTS: "20000\t30000", FORWARD: True})
        assert (witness(place, TTL), witness(place, PORTS), witness(place, FORWARD)) == ("33", "20000 30000", "1")
        assert sysctls.read(place, [TTL, PORTS, FORWARD]) == {TTL: "33", PORTS: "20000 30000", FORWARD: "1"}
        assert (witness(other, TTL), witness(other, PORTS), witness(other, FORWARD)) == others
    assert (here(TTL), here(PORTS), here(FORWARD)) == before


def test_a_link_with_a_dot_in_its_name_has_its_settings(place):
    bridge = place.add_bridge("br0.100")
    sysctls.write(place, {"net/ipv4/conf/br0.100/rp_filter": 2, "net.ipv4.conf.br0/100.forwarding": 1})
    assert read_inside(place, "/proc/sys/net/ipv4/conf/br0.100/rp_filter") == "2\n"
    assert read_inside(place, "/proc/sys/net/ipv4/conf/br0.100/forwarding") == "1\n"
    place.del_link(bridge)
    assert sysctls.read(place, ["net/ipv4/conf/br0.100/rp_filter"]) == {"net/ipv4/conf/br0.100/rp_filter": None}
    assert refused(sysctls.write, place, {"net/ipv4/conf/br0.100/rp_filter": 2}).errno == errno.ENOENT


@pytest.mark.parametrize("together", [True, False])
def test_they_are_written_in_order_up_to_the_first_that_is_refused(place, visits, monkeypatch, together):
    if not together:
        monkeypatch.setattr(clone, "VISIT_BYTES", 1)        # each is a visit of its own
    error = refused(sysctls.write, place, {TTL: 40, FORWARD: 1, PORTS: "many", LISTEN: 99, RESERVED: "7"})
    assert error.errno == errno.EINVAL and error.step == f"sysctl {PORTS}" and "value 'many'" in str(error)
    assert (witness(place, TTL), witness(place, FORWARD)) == ("40", "1")
    assert witness(place, LISTEN) != "99" and witness(place, RESERVED) == ""
    assert len(set(visits)) <= 2 and (len(visits) <= 2 if together else len(visits) >= 3)


def test_the_order_counts(place):
    """all.forwarding sets that of every link; what is written behind it, differs."""
    both = "net.ipv4.conf.all.forwarding", "net.ipv4.conf.lo.forwarding"
    sysctls.write(place, {both[0]: 1, both[1]: 0})
    assert sysctls.read(place, both) == dict(zip(both, "10"))
    sysctls.write(place, {both[1]: 1, both[0]: 0})
    assert sysctls.read(place, both) == dict(zip(both, "00"))


@pytest.mark.parametrize("key, value, number, words", [
    (FORWARD, "x", errno.EINVAL, "value 'x'"),
    (FORWARD, 2**40, errno.EINVAL, str(2**40)),
    (TTL, 256, errno.EINVAL, "value '256'"),
    (FORWARD, "1 1", errno.EIO, "only a part"),
    (MISSING, 1, errno.ENOENT, "no such setting"),
    ("net.ipv4.conf.nolink0.rp_filter", 1, errno.ENOENT, "the link is not there"),
    ("net.ipv4.tcp_available_congestion_control", "cubic", errno.EACCES, "only to be read"),
    ("net.ipv4", 1, errno.EISDIR, "directory"),
])
def test_the_kernels_refusal_reaches_the_caller(place, key, value, number, words):
    error = refused(sysctls.write, place, {key: value})
    assert error.errno == number and error.step == f"sysctl {key}" and words in str(error) and "\n" not in str(error)


# --- who goes there, and who stays ---

def test_the_caller_stays_where_it_is(place):
    def namespaces():
        return [os.readlink(f"/proc/thread-self/ns/{kind}") for kind in ("net", "user", "mnt")]

    before, powers = namespaces(), kernel.effective_capabilities()
    sysctls.write(place, {FORWARD: 1})
    sysctls.read(place, [FORWARD])
    assert namespaces() == before and kernel.effective_capabilities() == powers


def test_each_way_is_the_one_it_is_meant_to_be(place, visits, request):
    """Else the tests above would all try the same."""
    sysctls.read(place, [FORWARD])
    way = request.node.callspec.params["place"]
    if way in ("entered", "copied") or not IS_ROOT:
        assert visits[-1] >= 0
    else:
        assert visits == [-1]


def test_the_callers_own_namespace_needs_no_visit(visits):
    with nsnet.Netns.current() as current:
        keys = [FORWARD, TTL, PORTS, MISSING]
        assert sysctls.read(current, keys) == {**{key: here(key) for key in keys[:3]}, MISSING: None}
    with nsnet.Netns.open("/proc/thread-self/ns/net") as opened:
        assert sysctls.read(opened, [TTL]) == {TTL: here(TTL)}
    assert visits == []


def test_what_may_be_read_by_anybody_may_be_written_only_with_power():
    def try_it():
        with nsnet.Netns.current() as current:
            (old,) = sysctls.read(current, [TTL]).values()
            try:
                sysctls.write(current, {TTL: old})
            except nsnet.KernelError as error:
                return f"{old} {errno.errorcode[error.errno]} {'CAP_NET_ADMIN' in error.hint}"
        return "written"

    assert (as_nobody(try_it) if IS_ROOT else try_it()) in (f"{here(TTL)} EACCES True", f"{here(TTL)} EPERM True")


@needs_root
def test_root_writes_in_its_own_namespace(host):
    """In a child that lives in a throw-away one."""
    def work(channel):
        check(LIBC.setns(host.fd, CLONE_NEWNET))
        channel.send(b"x")
        with nsnet.Netns.current() as current:
            sysctls.write(current, {TTL: 77})
            return sysctls.read(current, [TTL])

    with Worker(work) as worker:
        pass
    assert worker.said == {TTL: "77"} and witness(host, TTL) == "77" and here(TTL) != "77"


@needs_root
def test_a_thread_that_has_left_means_the_namespace_that_it_named(visits):
    """Netns.current() is where the thread was when it was made."""
    found = []

    def elsewhere():
        with nsnet.Netns.current() as named:
            check(LIBC.unshare(CLONE_NEWNET))
            with open(sysctls.path(TTL), "w", encoding="ascii") as file:
                file.write("11")
            found.append(sysctls.read(named, [TTL]))
            with nsnet.Netns.current() as current:
                found.append(sysctls.read(current, [TTL]))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [{TTL: here(TTL)}, {TTL: "11"}] and visits == [-1]


def test_a_namespace_is_known_by_its_path_or_a_process(host):
    stay = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, preexec_fn=go_inside(host.fd))
    try:
        with nsnet.Netns.of_pid(stay.pid) as found, nsnet.Netns.open(f"/proc/{stay.pid}/ns/net") as opened:
            sysctls.write(found, {TTL: 21})
            assert sysctls.read(opened, [TTL]) == sysctls.read(host, [TTL]) == {TTL: "21"}
    finally:
        stay.communicate()


def test_group_ids_are_those_of_the_container_where_its_user_namespace_is_entered():
    """ping_group_range is read and written in ids of whoever does so: by one call inside, as the container means it."""
    key = "net.ipv4.ping_group_range"
    with nsnet.spawn(["sleep", "60"], new={"user", "net"}, hold=True) as box:
        sysctls.write(entered(box.netns), {key: "0 0"})
        assert sysctls.read(box.netns, [key]) == {key: "0 0"}
        with open(f"/proc/{box.pid}/gid_map", encoding="ascii") as file:
            assert file.read().split()[0] == "0"


def test_many_threads_visit_at_once(place):
    with nsnet.Netns.new() as other:
        def turn(number):
            netns, key = ((place, FORWARD), (other, TTL))[number % 2]
            wanted = str(1 + number % 2)
            sysctls.write(netns, {key: wanted})
            return sysctls.read(netns, [key])[key] == wanted

        assert all(in_parallel(turn, range(40), workers=8))


def test_a_fork_of_the_owner_reads_and_writes_as_well(place):
    def work(channel):
        channel.send(b"x")
        sysctls.write(place, {TTL: 55})
        return sysctls.read(place, [TTL])

    with Worker(work) as worker:
        pass
    assert worker.said == {TTL: "55"} and witness(place, TTL) == "55"


def test_a_closed_namespace_says_so(place):
    netns = nsnet.Netns.open(f"/proc/self/fd/{place.fd}")
    netns.close()
    for call in (lambda: sysctls.read(netns, [TTL]), lambda: sysctls.write(netns, {TTL: 1})):
        with pytest.raises(nsnet.UsageError, match="closed"):
            call()


def test_an_interrupt_at_any_moment_leaves_nothing_behind(place):
    def ring(*_):
        raise Alarm

    sysctls.write(place, {TTL: 1})
    before, interrupted = signal.signal(signal.SIGALRM, ring), 0
    try:
        for turn in range(120):
            try:
                signal.setitimer(signal.ITIMER_REAL, (turn % 40 + 1) * 0.00002)
                sysctls.write(place, {TTL: 2 + turn})
                sysctls.read(place, [TTL, FORWARD])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if turn % 10 == 0:
                assert sysctls.read(place, [TTL])[TTL] in (str(2 + turn), str(1 + turn), "1")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0


def test_ctrl_c_during_a_visit_is_a_keyboard_interrupt(place):
    """The visit ends first, and nothing of it is left; then Python hears of the signal."""
    def interrupt(real, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    class Lib:
        def __getattr__(self, name):
            real = getattr(kernel.lib, name)
            return (lambda *arguments: interrupt(real, *arguments)) if name == "nsnet_visit" else real

    real, clone.lib = clone.lib, Lib()
    try:
        with pytest.raises(KeyboardInterrupt):
            sysctls.write(place, {TTL: 9})
    finally:
        clone.lib = real


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_a_visitor_that_does_not_come_back_is_an_error_and_never_a_wrong_value(number):
    """Whoever shares its id there may end or stop it, at any moment from when it is no part of this process any more."""
    keys, over, hit = [TTL, MISSING, FORWARD] * 20, threading.Event(), []

    def hunt():
        while not over.is_set():
            for pid in children() - {box.pid}:
                try:
                    with open(f"/proc/{pid}/comm", encoding="ascii") as file:
                        if file.read() == "nsnet\n":       # the image's name
                            os.kill(pid, number)
                except (FileNotFoundError, ProcessLookupError):     # back already
                    continue

    with nsnet.spawn(["sleep", "60"], new={"user", "net"}, hold=True) as box:
        netns = entered(box.netns)
        expected, deadline = sysctls.read(netns, keys), time.monotonic() + PATIENCE
        hunter = threading.Thread(target=hunt)
        hunter.start()
        try:
            while not hit and time.monotonic() < deadline:
                try:
                    assert sysctls.read(netns, keys) == expected
                except nsnet.KernelError as error:
                    hit.append(error)
        finally:
            over.set()
            hunter.join()
        assert sysctls.read(netns, keys) == expected
    if hit:                                                 # else it was always faster
        assert not hit[0].step.startswith("sysctl")
        assert hit[0].errno in ((errno.ECANCELED,) if number == signal.SIGSTOP else (errno.EPIPE, errno.ESRCH)), hit


# --- a /proc that is not what it should be ---

def mount(source, target, kind, flags):
    check(LIBC.mount(*(None if text is None else text.encode() for text in (source, target, kind)),
                     ctypes.c_ulong(flags), None))


def in_other_mounts(arrange, netns):
    """What reading and writing TTL and FORWARD says in a process with mounts of its own."""
    def outcome(call, *arguments):
        try:
            return call(*arguments)
        except nsnet.KernelError as error:
            return f"{errno.errorcode[error.errno]} {error}"

    def work(channel):
        check(LIBC.unshare(CLONE_NEWNS))
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        arrange()
        channel.send(b"x")
        return [outcome(sysctls.read, netns, [TTL]), outcome(sysctls.write, netns, {TTL: 5}),
                outcome(sysctls.read, netns, [FORWARD])]

    with Worker(work) as worker:
        pass
    assert isinstance(worker.said, list), worker.said["failed"]
    return worker.said


@needs_root
def test_a_file_that_is_not_the_kernels_is_neither_read_nor_written(place, tmp_path):
    kept = tmp_path / "ipv4" / "ip_default_ttl"
    kept.parent.mkdir()
    kept.write_text("13\n")
    os.symlink("/proc/sys/kernel/ostype", tmp_path / "ipv4" / "ip_forward")
    before = witness(place, TTL)
    # Over "net": what is below it is another directory in each network namespace, with its own mounts.
    read, wrote, linked = in_other_mounts(lambda: mount(str(tmp_path), "/proc/sys/net", None, MS_BIND), place)
    assert read.startswith("EXDEV") and wrote.startswith("EXDEV") and "not procfs" in read
    assert linked.startswith("ELOOP")
    assert kept.read_text() == "13\n" and witness(place, TTL) == before


@needs_root
def test_a_read_only_proc_sys_is_named(place):
    def arrange():
        mount("/proc/sys", "/proc/sys", None, MS_BIND)
        mount(None, "/proc/sys", None, MS_BIND | MS_REMOUNT | MS_RDONLY)

    read, wrote, _ = in_other_mounts(arrange, place)
    assert read == {TTL: witness(place, TTL)}
    assert wrote.startswith("EROFS") and "/proc/sys is mounted read-only" in wrote


@needs_root
def test_without_proc_nothing_is_said_to_be_missing(place):
    said = in_other_mounts(lambda: mount("none", "/proc/sys", "tmpfs", 0), place)
    assert all(text.startswith("ENOENT") and "/proc/sys/net is missing" in text for text in said), said

"""spawn on a real kernel: namespaces, holding and letting go, every step that may fail, and the end of a process."""

import errno
import gc
import os
import pathlib
import resource
import select
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nsnet
from live_helpers import (IS_ROOT, PATIENCE, TREE, children, descriptors, environment, has_ended, is_gone,
                          kill_and_wait, namespace_of, needs_root, read_inside)

KINDS = ["user", "net", "pid", "mnt", "uts", "ipc", "cgroup"]
CAT = ["/bin/cat"]


def output_of(argv, **options):
    """What a command prints, once it has ended well."""
    with nsnet.spawn(argv, stdout=nsnet.PIPE, **options) as process:
        text = process.stdout.read().decode()
        assert process.wait(PATIENCE) == 0
    return text


# --- namespaces ---

@pytest.mark.parametrize("kind", KINDS)
def test_a_new_namespace_of_each_kind(kind):
    new = {"user", kind}
    with nsnet.spawn(CAT, new=new, stdin=nsnet.PIPE) as process:
        entry = "pid_for_children" if kind == "pid" else kind
        assert namespace_of(process.pid, entry) != namespace_of("self", entry)
        for other in set(KINDS) - new:
            assert namespace_of(process.pid, other) == namespace_of("self", other)
        assert (process.netns is None) == (kind != "net")


def test_all_kinds_at_once():
    text = output_of(["/bin/sh", "-c", "echo $$; readlink /proc/self/ns/net"], new=set(KINDS))
    assert text.splitlines()[0] == "1"                      # the first process of its pid namespace


def test_a_time_namespace_is_made_where_the_kernel_has_them():
    if not os.path.exists("/proc/self/ns/time"):
        pytest.skip("this kernel has no time namespaces")
    with nsnet.spawn(CAT, new={"user", "time"}, stdin=nsnet.PIPE) as process:
        assert namespace_of(process.pid, "time_for_children") != namespace_of("self", "time_for_children")


def test_no_namespace_at_all_is_a_plain_process():
    with nsnet.spawn(CAT, new=(), stdin=nsnet.PIPE) as process:
        assert all(namespace_of(process.pid, kind) == namespace_of("self", kind) for kind in KINDS)
        assert process.netns is None


def test_the_netns_of_a_process_can_be_talked_to_and_outlives_it():
    with nsnet.spawn(CAT, new={"user", "net"}, stdin=nsnet.PIPE) as process:
        assert os.fstat(process.netns.fd).st_ino == namespace_of(process.pid, "net")
        process.netns.set_link("lo", up=True)
        assert " lo: " in f" {open(f'/proc/{process.pid}/net/dev').read()}"
        process.kill()
        process.wait(PATIENCE)
        assert process.netns.link("lo").up
        process.netns.add_bridge("br0")
        assert "br0" in read_inside(process.netns, "/proc/net/dev")


def test_joining_a_network_namespace_three_ways(host):
    user = {} if host.userns_fd is None else {"user": host.userns_fd}
    for target in (host, host.fd, f"/proc/self/fd/{host.fd}"):
        with nsnet.spawn(CAT, new=(), join={**user, "net": target}, stdin=nsnet.PIPE) as process:
            assert namespace_of(process.pid, "net") == os.fstat(host.fd).st_ino
            assert process.netns is None


def test_joining_the_user_namespace_of_another_process():
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE) as first:
        with nsnet.spawn(CAT, new=(), join={"user": f"/proc/{first.pid}/ns/user"}, stdin=nsnet.PIPE) as second:
            assert namespace_of(second.pid, "user") == namespace_of(first.pid, "user") != namespace_of("self", "user")


def test_new_namespaces_below_a_joined_one():
    ids = {"uid_map": {0: os.geteuid()}, "gid_map": {0: os.getegid()}}
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE, **ids) as first:
        above = {"user": f"/proc/{first.pid}/ns/user"}
        with nsnet.spawn(CAT, new={"user", "net"}, join=above, stdin=nsnet.PIPE) as second:
            users = {namespace_of(pid, "user") for pid in ("self", first.pid, second.pid)}
            assert len(users) == 3
            second.netns.set_link("lo", up=True)
            assert second.netns.link("lo").up


@pytest.mark.parametrize("options, value", [
    ({"new": "net"}, "'net'"), ({"new": {"nett"}}, "'nett'"), ({"join": {"nett": 0}}, "'nett'"),
    ({"new": {"net"}, "join": {"net": "/proc/self/ns/net"}}, "'net'"), ({"join": {"net": 0}}, "'net'"),
    ({"join": {"net": -1}}, "-1"), ({"join": ["net"]}, "['net']"), ({"hostname": "box"}, "'box'"),
    ({"new": {"uts"}, "hostname": "a" * 65}, "aaa"), ({"proc": True, "new": {"mnt"}}, "proc"), ({"umask": 0o1000}, "512"),
    ({"umask": "022"}, "'022'"), ({"oom_score_adj": 1001}, "1001"), ({"pdeathsig": 65}, "65"), ({"cwd": "a\0b"}, "cwd"),
    ({"cwd": 7}, "7"), ({"user": "nsnet-nobody"}, "nsnet-nobody"), ({"group": 2**32 - 1}, str(2**32 - 1)),
    ({"groups": "wheel"}, "'wheel'"), ({"new": {"user"}, "user": 5}, "user 5"), ({"env": {"A": 1}}, "'A'"),
    ({"rlimits": {99: (0, 0)}}, "99"), ({"rlimits": {7: 5}}, "5"), ({"stdin": 1000}, "1000"), ({"stdin": "file"}, "'file'"),
    ({"cgroup": -5}, "-5"), ({"pass_fds": ["4"]}, "'4'"),
    ({"uid_map": {0: 0}}, "uid_map"), ({"new": {"user"}, "uid_map": [(0, 2**32, 1)]}, str(2**32)),
    ({"new": {"user"}, "uid_map": [(0, 0, 2), (1, 5, 1)]}, "overlap"), ({"new": {"user"}, "gid_map": {0: -1}}, "-1"),
    ({"new": {"user"}, "capabilities": {"net_everything"}}, "net_everything"),
    ({"new": {"user"}, "capabilities": "net_admin"}, "net_admin"), ({"env": {"A=B": "c"}}, "A=B"),
    ({"pass_fds": [2]}, "2"), ({"pass_fds": [1000]}, "1000"), ({"stdout": nsnet.STDOUT}, "STDOUT"),
    ({"join": {"net": "/proc/self/ns/user"}}, "/proc/self/ns/user"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_meant_is_refused_and_nothing_starts(options, value):
    with pytest.raises(nsnet.UsageError) as refused:
        nsnet.spawn(CAT, **{"new": (), **options})
    assert value in str(refused.value) and "\n" not in str(refused.value)
    assert children() == set()


@pytest.mark.parametrize("argv", [[], [""], "cat", ["/bin/cat", "a\0b"]])
def test_a_command_that_is_none_is_refused(argv):
    with pytest.raises(nsnet.UsageError):
        nsnet.spawn(argv, new=())


# --- id maps ---

def test_the_default_map_of_root_is_nobody_and_of_others_themselves():
    outside = (65534, 65534) if IS_ROOT else (os.geteuid(), os.getegid())
    for which, number in zip(("uid_map", "gid_map"), outside):
        assert output_of(["/bin/cat", f"/proc/self/{which}"], new={"user"}).split() == ["0", str(number), "1"]
    identity = output_of(["/bin/sh", "-c", "id -u; id -g; id -G"], new={"user"}).split()
    assert identity[:2] == ["0", "0"]


def test_a_map_of_ones_own_is_read_back():
    ids = {"uid_map": {0: os.geteuid()}, "gid_map": {0: os.getegid()}}
    assert output_of(["/bin/cat", "/proc/self/uid_map"], new={"user"}, **ids).split() == ["0", str(os.geteuid()), "1"]
    assert output_of(["/bin/cat", "/proc/self/gid_map"], new={"user"}, **ids).split() == ["0", str(os.getegid()), "1"]


def test_a_map_without_a_root_makes_the_first_id_the_commands():
    ids = {"uid_map": {1000: os.geteuid()}, "gid_map": {1001: os.getegid()}}
    assert output_of(["/bin/sh", "-c", "id -u; id -g"], new={"user"}, **ids).split() == ["1000", "1001"]


NUMBERS = st.one_of(st.integers(0, 70000), st.integers(2**32 - 70000, 2**32 + 70000), st.integers(-2, 2**70))


@needs_root
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_whatever_map_is_asked_for_is_the_map_or_refused(rows):
    """No number comes out as another: the kernel itself takes them modulo 2**32."""
    fits = all(0 <= inside and 0 <= outside and 1 <= count and max(inside, outside) + count <= 2**32 - 1
               for inside, outside, count in rows)
    try:
        process = nsnet.spawn(CAT, new={"user"}, uid_map=rows, gid_map=rows, hold=True)
    except nsnet.UsageError:
        return                          # overlapping ones are refused as well
    with process:
        assert fits
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{process.pid}/{name}", encoding="ascii") as file:
                assert sorted(tuple(map(int, line.split())) for line in file) == sorted(rows)
        process.kill()


@needs_root
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_map_that_is_right_is_read_back(data):
    edges = sorted(data.draw(st.lists(st.integers(0, 2**32 - 2), min_size=2, max_size=12, unique=True)))
    rows = [(low, low, data.draw(st.integers(1, high - low))) for low, high in zip(edges[::2], edges[1::2])]
    with nsnet.spawn(CAT, new={"user"}, uid_map=rows, gid_map=rows, hold=True) as process:
        with open(f"/proc/{process.pid}/uid_map", encoding="ascii") as file:
            assert sorted(tuple(map(int, line.split())) for line in file) == rows
        process.kill()


@needs_root
def test_root_maps_ranges():
    ids = {"uid_map": [(0, 100000, 65536), (70000, 300000, 5)], "gid_map": [(0, 200000, 65536)]}
    text = output_of(["/bin/cat", "/proc/self/uid_map", "/proc/self/gid_map"], new={"user"}, **ids)
    assert [line.split() for line in text.splitlines()] == [["0", "100000", "65536"], ["70000", "300000", "5"],
                                                            ["0", "200000", "65536"]]


def test_setgroups_is_denied_when_asked():
    assert output_of(["/bin/cat", "/proc/self/setgroups"], new={"user"}, setgroups=False).strip() == "deny"


def test_a_caller_in_a_user_namespace_that_denies_setgroups_spawns_all_the_same():
    """`unshare -Ur` and every user namespace that an ordinary user makes deny setgroups(2), to root within as well."""
    script = ("import nsnet, sys; process = nsnet.spawn(['/bin/cat', '/proc/self/setgroups'], new={'user', 'net'},"
              " uid_map={0: 0}, gid_map={0: 0});"
              "sys.exit(process.wait())")
    with nsnet.spawn([sys.executable, "-c", script], new={"user"}, setgroups=False, uid_map={0: os.geteuid()},
                     gid_map={0: os.getegid()}, capabilities={"setuid", "setgid", "setpcap", "setfcap", "sys_admin"},
                     env=environment("/nonexistent"), stdout=nsnet.PIPE, stderr=nsnet.STDOUT) as process:
        assert process.stdout.read() == b"deny\n"
        assert process.wait(PATIENCE) == 0


# --- holding and letting go ---

def test_a_held_process_has_not_begun(tmp_path):
    sign = tmp_path / "ran"
    with nsnet.spawn(["/usr/bin/touch", str(sign)], new=(), hold=True) as process:
        assert process.held and process.poll() is None and "held" in repr(process)
        with open(f"/proc/{process.pid}/comm", encoding="ascii") as file:
            assert file.read() == "nsnet\n"                 # neither the parent's program nor the command
        assert not sign.exists()
        process.go()
        assert not process.held
        assert process.wait(PATIENCE) == 0
    assert sign.exists()


def test_going_twice_is_refused():
    with nsnet.spawn(CAT, new=(), stdin=nsnet.PIPE) as process:
        with pytest.raises(nsnet.UsageError):
            process.go()


def test_a_held_process_that_is_closed_ends():
    process = nsnet.spawn(CAT, new={"user", "net"}, hold=True)
    pidfd = os.dup(process.pidfd)
    try:
        process.close()
        assert has_ended(pidfd, 0) and children() == set()      # collected, too: nobody else knows of it
    finally:
        os.close(pidfd)


def test_leaving_the_block_of_a_held_process_ends_it():
    with nsnet.spawn(CAT, new=(), hold=True) as process:
        pass
    assert process.returncode == -signal.SIGKILL and is_gone(process.pid)


def test_leaving_the_block_by_an_exception_ends_a_running_process():
    with pytest.raises(RuntimeError):
        with nsnet.spawn(["/bin/sleep", "1000"], new=()) as process:
            raise RuntimeError
    assert process.returncode == -signal.SIGKILL


def test_a_held_process_takes_no_signal_but_kill():
    with nsnet.spawn(CAT, new=(), hold=True, stdin=nsnet.PIPE) as process:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
        assert process.poll() is None
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        with pytest.raises(nsnet.KernelError):
            process.go()


@pytest.mark.parametrize("hold", [True, False])
def test_dropping_a_process_without_closing_it_leaks_no_descriptor(hold):
    before = descriptors()
    process = nsnet.spawn(CAT, new={"user", "net"}, stdin=nsnet.DEVNULL, stdout=nsnet.DEVNULL, hold=hold)
    pidfd = os.dup(process.pidfd)
    pid = process.pid
    if not hold:
        assert has_ended(pidfd)
    del process
    gc.collect()
    try:
        assert set(descriptors()) - set(before) == {pidfd}
        assert has_ended(pidfd)
        assert pid not in children()                        # collected: nobody else would
    finally:
        os.close(pidfd)


def test_dropping_a_process_that_runs_lets_it_run_without_a_descriptor_of_ours():
    before = descriptors()
    reader, writer = os.pipe()
    process = nsnet.spawn(CAT, new=(), stdin=reader, stdout=nsnet.DEVNULL)
    os.close(reader)
    pid, pidfd = process.pid, os.dup(process.pidfd)
    del process
    gc.collect()
    try:
        assert set(descriptors()) - set(before) == {pidfd, writer}
        assert not is_gone(pid)
    finally:
        os.close(writer)                                    # cat reads its end of file
        assert has_ended(pidfd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def test_what_was_dropped_while_it_ran_is_collected_by_a_later_launch():
    """As subprocess does; and it warns, as that does."""
    process = nsnet.spawn(CAT, new=(), stdin=nsnet.PIPE, stdout=nsnet.DEVNULL)
    pid, pidfd, stdin = process.pid, os.dup(process.pidfd), os.dup(process.stdin.fileno())
    with pytest.warns(ResourceWarning, match=f"process {pid} still runs"):
        process.stdin = None
        del process
        gc.collect()
    os.close(stdin)
    try:
        assert has_ended(pidfd) and children() == {pid}
        with nsnet.spawn(["/bin/true"], new=()) as other:
            assert children() <= {other.pid}
    finally:
        os.close(pidfd)


def test_a_held_process_that_was_killed_says_so():
    process = nsnet.spawn(CAT, new=(), hold=True)
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL and "returned -9" in repr(process) and not process.held
    with pytest.raises(nsnet.KernelError, match="has ended: SIGKILL"):
        process.go()
    process.close()


@pytest.mark.parametrize("options, words", [
    ({"cwd": "/nonexistent"}, "chdir: No such file or directory (ENOENT): '/nonexistent'"),
    ({"rlimits": {resource.RLIMIT_NOFILE: (2**40, 2**40)}}, "rlimit: "), ({"cgroup": "/tmp"}, "cgroup v2"),
    ({"rlimits": {"nofile": (1, 2)}}, "'nofile'"), ({"new": {"user"}, "uid_map": "0:0:1"}, "'0:0:1'"),
    ({"join": {"nett": "/x"}}, "join 'nett'"),
], ids=str)
def test_an_error_names_what_was_asked(options, words):
    with pytest.raises(nsnet.NsnetError) as refused:
        nsnet.spawn(CAT, **options)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert children() == set()


def test_a_parked_child_dies_when_its_parent_is_killed(tmp_path):
    script = ("import nsnet, sys; held = nsnet.spawn(['/bin/cat'], new={'user', 'net'}, hold=True);"
              "print(held.pid, flush=True); sys.stdin.read()")
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env=environment(tmp_path))
    pidfd = os.pidfd_open(int(parent.stdout.readline()))
    try:
        assert not select.select([pidfd], [], [], 0)[0]
        kill_and_wait(parent)
        assert has_ended(pidfd)
    finally:
        os.close(pidfd)


# --- steps that fail ---

def garbage(directory, mode):
    path = directory / "garbage"
    path.write_bytes(b"\x01\x02\x03 neither ELF nor a script")
    path.chmod(mode)
    return str(path)


FAILURES = {
    "a command that is not there": (lambda tmp: dict(argv=["/nonexistent/command"]), "execve", errno.ENOENT),
    "a command that is nowhere in PATH": (lambda tmp: dict(argv=["nsnet-no-such-command"]), "execve", errno.ENOENT),
    "an empty PATH": (lambda tmp: dict(argv=["cat"], env={"PATH": ""}), "execve", errno.ENOENT),
    "a file that may not be run": (lambda tmp: dict(argv=[garbage(tmp, 0o644)]), "execve", errno.EACCES),
    "a directory": (lambda tmp: dict(argv=[str(tmp)]), "execve", errno.EACCES),
    "a file that is no program": (lambda tmp: dict(argv=[garbage(tmp, 0o755)], new={"user"}, uid_map={0: os.geteuid()},
                                                   gid_map={0: os.getegid()}), "execve", errno.ENOEXEC),
    "a directory that is not there": (lambda tmp: dict(cwd="/nonexistent"), "chdir", errno.ENOENT),
    "a working directory that is a file": (lambda tmp: dict(cwd="/etc/passwd"), "chdir", errno.ENOTDIR),
    "a limit above the hard one": (lambda tmp: dict(new={"user"}, rlimits={resource.RLIMIT_NOFILE: (2**31, 2**31)}),
                                   "rlimit", errno.EPERM),
    "a namespace file that is not there": (lambda tmp: dict(join={"net": "/nonexistent"}), "open /nonexistent",
                                            errno.ENOENT),
    "a cgroup that is not there": (lambda tmp: dict(cgroup="/nonexistent"), "open cgroup /nonexistent", errno.ENOENT),
    "a cgroup that is none": (lambda tmp: dict(cgroup="/"), "clone3", errno.EBADF),
}


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("what", sorted(FAILURES))
def test_a_step_that_fails_is_named_and_leaves_nothing(what, hold, tmp_path):
    before = descriptors()
    make, step, number = FAILURES[what]
    options = {"argv": CAT, "new": (), **make(tmp_path)}
    opened = set(descriptors()) - set(before)
    with pytest.raises(nsnet.KernelError) as refused:
        process = nsnet.spawn(hold=hold, **options)
        if hold:
            with process:
                process.go()
    assert (refused.value.step, refused.value.errno) == (step, number)
    assert "\n" not in str(refused.value)
    for fd in opened:
        os.close(fd)
    assert children() == set() and descriptors() == before


@pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: root may")
@pytest.mark.parametrize("options, step", [
    ({"new": {"net"}}, "unshare"),
    ({"new": {"uts"}}, "unshare"), ({"new": {"pid"}}, "clone3"), ({"new": (), "capabilities": {"net_admin"}}, "capabilities"),
    ({"new": {"user"}, "setgroups": True}, "gid_map"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_an_ordinary_user_may_not_is_named_by_its_step(options, step):
    with pytest.raises(nsnet.KernelError) as refused:
        nsnet.spawn(CAT, **options)
    assert refused.value.step == step and refused.value.errno == errno.EPERM
    assert children() == set()


@pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: root may")
@pytest.mark.parametrize("options", [{"uid_map": {0: 0}}, {"gid_map": {0: 0}}, {"uid_map": [(0, 2**31, 65536)]}],
                         ids=str)
def test_an_ordinary_user_maps_nobody_elses_ids(options):
    """Not by newuidmap either: what that would refuse is refused before it is asked, where the ids are known."""
    with pytest.raises((nsnet.UsageError, nsnet.KernelError), match="[ug]id_map"):
        nsnet.spawn(CAT, new={"user"}, **options)
    assert children() == set()


@needs_root
def test_an_id_that_is_not_mapped_here_is_refused_at_the_map():
    """Inside a user namespace of one id there is no other to hand on."""
    script = ("import nsnet\ntry: nsnet.spawn(['/bin/true'], new={'user'}, uid_map={0: 4711}, gid_map={0: 0})\n"
              "except nsnet.KernelError as error: print(error.step, error.errno)")
    with nsnet.spawn([sys.executable, "-c", script], new={"user"}, uid_map={0: 0}, gid_map={0: 0}, setgroups=False,
                     capabilities={"setuid", "setgid", "sys_admin"}, env=environment("/nonexistent"),
                     stdout=nsnet.PIPE) as process:
        assert process.stdout.read().decode().split() == ["uid_map", str(errno.EPERM)]


def test_a_killed_child_is_an_error_and_not_a_hang(monkeypatch):
    """The parked child is killed before it is told to go: end of file is not success."""
    process = nsnet.spawn(CAT, new={"user"}, hold=True)
    os.kill(process.pid, signal.SIGKILL)
    has_ended(process.pidfd)
    with pytest.raises(nsnet.KernelError):
        process.go()
    assert children() == set()


@pytest.mark.parametrize("place", ["clone", "write_maps", "receive", "go"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_exception_at_any_call_into_the_kernel_leaves_nothing(monkeypatch, place, kind):
    def fail(*_):
        raise kind

    before = descriptors()
    monkeypatch.setattr(nsnet.clone.Child, place, fail)
    with pytest.raises(kind):
        nsnet.spawn(CAT, new={"user", "net"}, stdin=nsnet.PIPE, stdout=nsnet.PIPE)
    gc.collect()
    assert children() == set() and descriptors() == before


def test_an_interrupt_right_after_the_clone_leaves_nothing(monkeypatch):
    clone = nsnet.clone.Child.clone

    def interrupted(child):
        clone(child)
        raise KeyboardInterrupt

    before = descriptors()
    monkeypatch.setattr(nsnet.clone.Child, "clone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nsnet.spawn(CAT, new={"user", "net"}, stdin=nsnet.PIPE)
    assert children() == set() and descriptors() == before


# --- the end of a process ---

def test_the_exit_status_is_returned():
    for status in (0, 1, 7, 255):
        with nsnet.spawn(["/bin/sh", "-c", f"exit {status}"], new={"user"}) as process:
            assert process.wait(PATIENCE) == status == process.returncode == process.poll()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGUSR1, signal.SIGABRT])
def test_a_signal_is_returned_as_its_negative(number):
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE, rlimits={resource.RLIMIT_CORE: (0, 0)}) as process:
        process.send_signal(number)
        assert process.wait(PATIENCE) == -number


def test_terminate_and_kill_after_the_end_do_nothing():
    with nsnet.spawn(["/bin/true"], new=()) as process:
        process.wait(PATIENCE)
        process.terminate()
        process.kill()
        assert process.returncode == 0


def test_waiting_has_a_limit():
    with nsnet.spawn(CAT, new=(), stdin=nsnet.PIPE) as process:
        with pytest.raises(TimeoutError):
            process.wait(0.01)
        assert process.poll() is None and process.returncode is None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_waiting_twice_gives_the_same():
    with nsnet.spawn(["/bin/false"], new=()) as process:
        assert process.wait() == process.wait() == 1


def status_or_unknown(process, status):
    """Some kernels still know (6.15 and newer); where they do not, the answer is an error, and never 0."""
    try:
        assert process.wait(PATIENCE) == status
    except nsnet.KernelError as error:
        assert error.errno == errno.ECHILD and process.returncode is None


def test_a_status_that_somebody_else_collected_is_told_or_unknown():
    process = nsnet.spawn(["/bin/sh", "-c", "exit 7"], new={"user"})
    assert has_ended(process.pidfd)
    assert os.waitpid(process.pid, 0)[0] == process.pid
    status_or_unknown(process, 7)
    process.close()


def test_a_parent_that_ignores_its_children_can_still_spawn():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with nsnet.Netns.new():
            pass
        process = nsnet.spawn(["/bin/sh", "-c", "exit 9"], new={"user", "net"})
        status_or_unknown(process, 9)
        process.close()
        with pytest.raises(nsnet.KernelError) as refused:
            nsnet.spawn(CAT, new={"user"}, cwd="/nonexistent")
        assert refused.value.step == "chdir"
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_the_death_signal_follows_the_thread_that_spawned():
    made = []

    def work():
        made.append(nsnet.spawn(CAT, new=(), stdin=nsnet.PIPE, pdeathsig=signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert made[0].wait(PATIENCE) == -signal.SIGTERM
    made[0].close()


def test_spawning_from_many_threads():
    statuses = [None] * 16

    def work(number):
        with nsnet.spawn(["/bin/sh", "-c", f"exit {number}"], new={"user", "net"}) as process:
            process.netns.set_link("lo", up=True)
            statuses[number] = process.wait(PATIENCE)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == list(range(16))


def test_the_tree_is_the_one_under_test():
    """Guards the children above that import nsnet by themselves: they must not find another copy."""
    if (TREE / "nsnet" / "__init__.py").exists():
        assert pathlib.Path(nsnet.__file__).resolve().parent in (TREE / "nsnet", pathlib.Path(nsnet.__file__).parent)

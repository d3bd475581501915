"""What a command is given at execve: nothing that its parent did not mean to give. Here the parent is very dirty."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading

import pytest

import nsnet
from live_helpers import IS_ROOT, PATIENCE, needs_root
from nsnet import values

CAT = ["/bin/cat"]
OWN = {"uid_map": {0: os.geteuid()}, "gid_map": {0: os.getegid()}}


def output_of(argv, **options):
    with nsnet.spawn(argv, stdout=nsnet.PIPE, **options) as process:
        text = process.stdout.read().decode()
        assert process.wait(PATIENCE) == 0
    return text


def status_of(**options):
    """/proc/self/status of a command, as a dictionary. `cat` changes nothing of what it is given."""
    options.setdefault("new", {"user"})
    lines = output_of(["/bin/cat", "/proc/self/status"], **options).splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def dirty():
    """A parent with blocked, ignored and caught signals, and inheritable descriptors in odd places."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMIN + 3})
    before = {number: signal.signal(number, handler) for number, handler in (
        (signal.SIGPIPE, signal.SIG_IGN), (signal.SIGINT, signal.SIG_IGN), (signal.SIGHUP, signal.SIG_IGN),
        (signal.SIGUSR2, lambda *_: None), (signal.SIGRTMAX, signal.SIG_IGN))}
    reader, writer = os.pipe()
    opened = [reader, writer]
    for number in (20, 77, 200):
        opened.append(os.dup2(reader, number, inheritable=True))
    os.set_inheritable(reader, True)
    os.set_inheritable(writer, True)
    yield opened
    for fd in opened:
        os.close(fd)
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# --- signals ---

def test_no_signal_is_blocked_ignored_or_pending(dirty):
    status = status_of()
    for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"):
        assert int(status[name], 16) == 0, name


def test_the_parents_signals_are_as_before(dirty):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with nsnet.spawn(["/bin/true"], new={"user", "net"}) as process:
        process.wait(PATIENCE)
    with nsnet.Netns.new():
        pass
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN and callable(signal.getsignal(signal.SIGUSR2))


def test_it_is_the_same_from_another_thread(dirty):
    found = []
    thread = threading.Thread(target=lambda: found.append(status_of()))
    thread.start()
    thread.join()
    assert int(found[0]["SigBlk"], 16) == 0 and int(found[0]["SigIgn"], 16) == 0 and found[0]["Threads"] == "1"


def test_a_pipeline_ends_by_sigpipe_as_in_a_shell(dirty):
    """The visible effect of the above: without it `yes` would spin or complain instead of dying."""
    reader, writer = os.pipe()
    with nsnet.spawn(["/usr/bin/yes"], new=(), stdout=writer) as process:
        os.close(writer)
        os.read(reader, 10)
        os.close(reader)
        assert process.wait(PATIENCE) == -signal.SIGPIPE


# --- descriptors ---

def open_in(process):
    return sorted(int(name) for name in os.listdir(f"/proc/{process.pid}/fd"))


def test_only_the_three_streams_are_inherited(dirty):
    with nsnet.spawn(CAT, new={"user", "net"}, stdin=nsnet.PIPE, stdout=nsnet.DEVNULL, stderr=nsnet.DEVNULL) as process:
        assert open_in(process) == [0, 1, 2]


def test_descriptors_that_are_passed_keep_their_numbers(dirty):
    reader, writer = os.pipe()
    low, high = os.dup(writer), os.dup2(writer, 150)
    try:
        with nsnet.spawn(CAT, new={"user", "net"}, stdin=nsnet.PIPE, stdout=nsnet.DEVNULL, stderr=nsnet.DEVNULL,
                         pass_fds=[low, high, 77]) as process:
            assert open_in(process) == sorted([0, 1, 2, low, high, 77])
            for fd, ours in ((low, writer), (high, writer), (77, dirty[0])):
                assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == os.readlink(f"/proc/self/fd/{ours}")
    finally:
        for fd in (reader, writer, low, high):
            os.close(fd)


def test_descriptors_may_change_places():
    """stdin from 1's and stdout from 0's file, so to speak: no move may overwrite the source of another."""
    first, second = os.pipe(), os.pipe()
    with nsnet.spawn(["/bin/sh", "-c", "cat; echo to-err >&2"], new=(), stdin=second[0], stdout=first[1],
                     stderr=first[1]) as process:
        os.write(second[1], b"through\n")
        os.close(second[1])
        assert process.wait(PATIENCE) == 0
    os.close(first[1])
    with open(first[0], "rb") as file:
        assert file.read() == b"through\nto-err\n"
    os.close(second[0])


def test_a_standard_stream_that_the_parent_closed_is_devnull():
    """A daemon without stdin: whatever has that number by now is not the command's."""
    script = ("import os, nsnet\nos.close(0)\n"
              "with nsnet.Netns.new(), nsnet.spawn(['/bin/sh', '-c', 'readlink /proc/self/fd/0; ls /proc/self/fd'],"
              " new={'user'}) as process: process.wait()")
    done = subprocess.run([sys.executable, "-c", script], cwd=os.path.dirname(os.path.dirname(nsnet.__file__)),
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and done.stdout.split() == ["/dev/null", "0", "1", "2", "3"]        # 3: ls's own


# --- streams ---

def test_all_three_streams_are_pipes():
    with nsnet.spawn(["/bin/sh", "-c", "cat; echo err >&2"], new={"user"}, stdin=nsnet.PIPE, stdout=nsnet.PIPE,
                     stderr=nsnet.PIPE) as process:
        process.stdin.write(b"hello")
        process.stdin.close()
        assert process.stdout.read() == b"hello" and process.stderr.read() == b"err\n"
        assert process.wait(PATIENCE) == 0


def test_stderr_follows_stdout():
    assert output_of(["/bin/sh", "-c", "echo one; echo two >&2"], new=(), stderr=nsnet.STDOUT) == "one\ntwo\n"


def test_devnull_is_empty_and_takes_everything():
    with nsnet.spawn(["/bin/sh", "-c", "cat; echo gone"], new=(), stdin=nsnet.DEVNULL, stdout=nsnet.DEVNULL) as process:
        assert process.wait(PATIENCE) == 0 and process.stdout is None


def test_a_file_and_a_socket_are_streams(tmp_path):
    left, right = socket.socketpair()
    with left, right, open(tmp_path / "out", "wb") as file:
        with nsnet.spawn(CAT, new=(), stdin=right, stdout=file) as process:
            left.sendall(b"by socket")
            left.shutdown(socket.SHUT_WR)
            assert process.wait(PATIENCE) == 0
    assert (tmp_path / "out").read_bytes() == b"by socket"


# --- environment, directory, limits, session ---

def test_the_environment_is_the_parents_or_exactly_what_is_given(monkeypatch):
    monkeypatch.setenv("NSNET_TEST_MARK", "of the parent")
    assert "NSNET_TEST_MARK=of the parent" in output_of(["/usr/bin/env"], new=()).splitlines()
    assert output_of(["/usr/bin/env"], new=(), env={"ONLY": "this"}) == "ONLY=this\n"
    assert output_of(["/usr/bin/env"], new=(), env={}) == ""
    assert output_of(["/usr/bin/env"], new=(), env={b"BYTES": b"\xff"}.copy() and {"A": "ä"}) == "A=ä\n"


def test_the_command_is_searched_in_the_path_that_it_gets(tmp_path):
    script = tmp_path / "nsnet-test-command"
    script.write_text("#!/bin/sh\necho found\n")
    script.chmod(0o755)
    assert output_of(["nsnet-test-command"], new={"user"}, env={"PATH": f"/nonexistent:{tmp_path}"}, **OWN) == "found\n"


def test_the_working_directory(tmp_path):
    assert output_of(["/bin/pwd"], new={"user"}, cwd=str(tmp_path), env={}, **OWN) == f"{os.path.realpath(tmp_path)}\n"
    (tmp_path / "here").write_text("#!/bin/sh\necho relative\n")
    (tmp_path / "here").chmod(0o755)
    assert output_of(["./here"], new={"user"}, cwd=str(tmp_path), **OWN) == "relative\n"


def test_limits_are_set():
    text = output_of(["/bin/cat", "/proc/self/limits"], new={"user"},
                     rlimits={resource.RLIMIT_NOFILE: (64, 128), resource.RLIMIT_CORE: (0, 0)})
    limits = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
    assert limits["Max open files"] == ["64", "128"] and limits["Max core file size"] == ["0", "0"]


def test_a_limit_may_be_infinite():
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    text = output_of(["/bin/cat", "/proc/self/limits"], new=(), rlimits={resource.RLIMIT_CORE: (hard, hard)})
    (line,) = [line for line in text.splitlines() if line.startswith("Max core file size")]
    assert line[26:].split()[:2] == ["unlimited" if hard == resource.RLIM_INFINITY else str(hard)] * 2


def stat_of(pid):
    """Field n of /proc/PID/stat, counted as proc(5) does from the third on."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


@pytest.mark.parametrize("new_session", [True, False])
def test_a_session_of_its_own_unless_unwanted(new_session):
    with nsnet.spawn(CAT, new=(), stdin=nsnet.PIPE, new_session=new_session) as process:
        session = int(stat_of(process.pid)[3])
        assert session == (process.pid if new_session else os.getsid(0))


def test_a_session_keyring_of_its_own():
    script = ("import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True);"
              "print(libc.syscall(250, 0, -3, 0))")         # keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING)
    if os.uname().machine != "x86_64":
        pytest.skip("keyctl's number is that of x86_64")
    here = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True).stdout
    if int(here) < 0:
        pytest.skip("this kernel, or a filter on it, has no keyrings")
    one = output_of([sys.executable, "-c", script], new=())
    other = output_of([sys.executable, "-c", script], new=())
    assert len({int(here), int(one), int(other)}) == 3 and int(one) > 0


# --- privileges ---

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@pytest.mark.parametrize("names", [(), ("net_bind_service",), ("CAP_NET_ADMIN", "net_raw"),
                                   ("chown", "checkpoint_restore"), values.CAPABILITIES])
def test_all_five_capability_sets_are_what_was_asked_for(names):
    last = int(open("/proc/sys/kernel/cap_last_cap").read())
    names = [name for name in names if name not in values.CAPABILITIES[last + 1:]]
    status = status_of(new={"user", "net"}, capabilities=names)
    assert {name: int(status[name], 16) for name in SETS} == {name: values.capabilities(names) for name in SETS}


def test_no_capability_comes_back_by_the_next_execve():
    """Container root that executes something would get all capabilities again, were the bounding set not cut."""
    text = output_of(["/bin/sh", "-c", "grep ^Cap /proc/self/status"], new={"user"}, capabilities={"net_bind_service"})
    assert {line.split()[1] for line in text.splitlines()} == {f"{1 << 10:016x}"}


@needs_root
@pytest.mark.parametrize("names", [(), ("net_admin",)])
def test_root_without_a_new_user_namespace_is_cut_down_as_well(names):
    status = status_of(new={"net"}, capabilities=names)
    assert {name: int(status[name], 16) for name in SETS} == {name: values.capabilities(names) for name in SETS}
    assert status["Uid"].split()[0] == "0"


@pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: only its bounding set stays without a user namespace")
def test_an_ordinary_users_plain_process_has_no_capability():
    status = status_of(new=())
    assert {name: int(status[name], 16) for name in SETS if name != "CapBnd"} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapAmb"), 0)


def test_no_new_privileges_unless_allowed():
    assert status_of()["NoNewPrivs"] == "1"
    ours = open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0]
    assert status_of(no_new_privs=False)["NoNewPrivs"] == ours


def test_ids_inside_are_roots_and_outside_somebody_without_power():
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE) as process:
        seen = os.stat(f"/proc/{process.pid}").st_uid
        assert seen == (65534 if IS_ROOT else os.geteuid())
    status = status_of()
    assert status["Uid"].split() == status["Gid"].split() == ["0"] * 4


@needs_root
def test_the_groups_of_root_are_dropped():
    before = os.getgroups()
    os.setgroups([0, 4, 24])
    try:
        assert status_of()["Groups"] == ""
    finally:
        os.setgroups(before)


def test_the_parent_keeps_its_memory_private_setting():
    """A launch that shared memory would change the parent's dumpable flag."""
    owner = os.stat("/proc/self/environ").st_uid
    with nsnet.spawn(["/bin/true"], new={"user", "net"}) as process:
        process.wait(PATIENCE)
    assert os.stat("/proc/self/environ").st_uid == owner == os.geteuid()

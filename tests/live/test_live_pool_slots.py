"""A child that is parked without a command: what it has until then, and that a command which comes later gets exactly what one
that is launched with it does. How slots are kept is test_live_pool.py's.
"""

import errno
import os
import random
import resource
import signal
import sys
import time

import pytest

import nsnet
from live_helpers import (IS_ROOT, PATIENCE, children, descriptors, ends_with_its_maker_though_a_fork_lives, has_ended,
                          is_gone, namespace_of, needs_root)
from nsnet import clone, job, kernel
from nsnet.process import Process

CAT, SH = ["/bin/cat"], "/bin/sh"
OWN = {"uid_map": {0: os.geteuid()}, "gid_map": {0: os.getegid()}}
BOX = {"new": {"user", "net"}, **OWN}
SOAK = os.environ.get("NSNET_HYPOTHESIS") == "long"


@pytest.fixture(params=["image", "memory"])
def way(request, monkeypatch):
    """Each of the two ways to a child."""
    if request.param == "memory":
        monkeypatch.setattr(clone.image, "fileno", lambda: -1)
    return request.param


class Slot:
    """A slot in a place, until the `with` block ends."""

    def __init__(self, **place):
        self.place = job.Place(**(place or BOX))
        self.process = Process(["nsnet-slot"], slot=True, **(place or BOX))
        self.process.prepare()

    def take(self, argv, hold=False, **options):
        command = job.Command(self.place, argv, **options)
        try:
            assert self.process.take(command, hold)
        except BaseException:
            command.close_files()
            raise
        finally:
            command.close()
        return self.process

    def output_of(self, argv, **options):
        out, _ = self.take(argv, stdout=nsnet.PIPE, **options).communicate(timeout=PATIENCE)
        return out.decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process._abandon()
        self.process.close()


# --- while it waits ---

def wait_until_it_polls(pid):
    """It has said that it is ready, and closes what it passed on."""
    deadline = time.monotonic() + PATIENCE
    while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_slot_has_nothing_of_the_parents(way):
    """No descriptor but its end of the channel, its pidfd of the parent, and what it may have to write; no argument; as an
    image, no variable either."""
    secret = os.memfd_create("secret", 0)                   # inheritable, and below what is closed
    os.set_inheritable(secret, True)
    os.environ["NSNET_SECRET"] = "x"
    try:
        with Slot() as slot:
            wait_until_it_polls(slot.process.pid)
            there = [os.readlink(f"/proc/{slot.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{slot.process.pid}/fd")]
            assert sorted(name.partition(":")[0] for name in there) == [f"/proc/{slot.process.pid}/oom_score_adj", "anon_inode",
                                                                        "socket"]
            if way == "image":
                for file, content in (("environ", b""), ("cmdline", b"nsnet-slot\0"), ("comm", b"nsnet\n")):
                    with open(f"/proc/{slot.process.pid}/{file}", "rb") as proc:
                        assert proc.read().replace(b"NSNET_IMAGE=1\0", b"") == content
    finally:
        del os.environ["NSNET_SECRET"]
        os.close(secret)


def test_a_slot_can_do_nothing_before_it_has_a_command():
    with Slot() as slot:
        assert slot.process.held and slot.process.is_slot and "nsnet-slot" in repr(slot.process)
        with pytest.raises(nsnet.UsageError, match="it has no command yet"):
            slot.process.go()
        slot.take(["/bin/true"])
        assert slot.process.wait(PATIENCE) == 0 and not slot.process.is_slot
        with pytest.raises(nsnet.UsageError, match="expected a slot that has no command yet"):
            slot.take(["/bin/true"])


def test_a_slot_that_is_told_to_go_ends():
    """The C function beneath: a message that is no command is none."""
    with Slot() as slot:
        assert slot.process._child.go() == clone.Report(None, 0)
        assert has_ended(slot.process.pidfd)


@pytest.mark.parametrize("message", [b"", b"g", b"x" * 16, b"x" * 100000], ids=len)
def test_a_slot_runs_nothing_that_is_no_command(message):
    with Slot() as slot:
        fd = os.dup(slot.process._child._job.channel)
        try:
            with __import__("socket").socket(fileno=fd) as channel:
                channel.send(message)
                if not message:
                    channel.shutdown(2)
        except BrokenPipeError:
            pass
        assert has_ended(slot.process.pidfd)


def test_a_slot_ends_with_the_channel():
    slot = Slot()
    pidfd = os.dup(slot.process.pidfd)
    slot.process.close()
    assert has_ended(pidfd)
    os.close(pidfd)


def test_a_slot_ends_with_its_maker_though_a_fork_of_that_lives():
    """The fork has a copy of the maker's end of the channel."""
    script = ("import os, time\n"
              "from nsnet.process import Process\n"
              "slot = Process(['nsnet-slot'], slot=True, new={'user'}); slot.prepare()\n"
              "worker = os.fork()\n"
              "if worker == 0: time.sleep(60)\n"
              "print(slot.pid, worker, flush=True); time.sleep(60)")
    ends_with_its_maker_though_a_fork_lives(script)


# --- what its command gets ---

SHOW = ("echo $0 $# \"$@\"; env | sort; pwd; umask; ulimit -n; cat /proc/self/oom_score_adj; id -u; id -g; "
        "grep -E '^(Groups|Cap|NoNewPrivs|Sig|Shd)' /proc/self/status; readlink /proc/self/fd/*; "
        "test $(cut -d' ' -f6 /proc/self/stat) = $(sh -c 'echo $PPID') && echo leads a session")


def options_of(random_):
    """Any of what a command may be given."""
    fd = descriptors()
    all_of = {
        "env": {"PATH": os.environ["PATH"], "A": "1\n2", "B": ""}, "cwd": random_.choice(["/usr", "/proc", None]),
        "umask": random_.choice([0, 0o27, None]), "no_new_privs": random_.random() < 0.5,
        "capabilities": random_.choice([(), {"net_bind_service", "net_raw"}, {"chown"}]), "new_session": random_.random() < 0.5,
        "new_keyring": random_.random() < 0.5, "stdin": nsnet.DEVNULL, "stderr": random_.choice([nsnet.STDOUT, nsnet.DEVNULL]),
        "pass_fds": random_.sample(sorted(number for number in fd if number > 2), 2),
        "rlimits": random_.choice([{}, {resource.RLIMIT_NOFILE: (40, 50)}, {resource.RLIMIT_STACK: (1 << 20, 1 << 20)}]),
        "oom_score_adj": random_.choice([None, 900, 1000]),
    }
    return {name: value for name, value in all_of.items() if random_.random() < 0.8 or name == "env"}


def test_a_command_gets_the_same_whether_it_comes_first_or_last(way):
    seen = set()
    for seed in range(120 if SOAK else 12):
        options = options_of(random.Random(seed))
        argv = [SH, "-c", SHOW, "name", "", "a b", "ä" * seed]
        with nsnet.spawn(argv, stdout=nsnet.PIPE, **BOX, **options) as process:
            expected = process.communicate(timeout=PATIENCE)[0].decode()
        with Slot() as slot:
            found = slot.output_of(argv, **options)
        blind = [_without_numbers(text) for text in (expected, found)]
        assert blind[0] == blind[1], (seed, options)
        seen.add(blind[0])
    assert len(seen) > 6


def _without_numbers(text):
    return "\n".join(line.partition("[")[0] for line in text.splitlines())


@pytest.mark.parametrize("count, size", [(1, 100), (3, 60000), (50, 1000), (12, 100000), (2000, 500)])
def test_arguments_and_environment_of_any_length_arrive(way, count, size):
    """Of one message, of several, and with a length that ends anywhere."""
    words = [chr(97 + number % 26) * (size - number % 8) for number in range(count)]
    with Slot() as slot:
        script = "import sys, os; sys.stdout.write('|'.join(sys.argv[1:] + [os.environ['NSNET_LAST']]))"
        out = slot.output_of([sys.executable, "-I", "-S", "-c", script, *words], env={"NSNET_LAST": "z" * size})
        assert out == "|".join([*words, "z" * size])


@pytest.mark.parametrize("count", [1, 250, 253, 254, 600])
def test_any_number_of_descriptors_arrives(way, count):
    """SCM_RIGHTS carries 253 of them in one message; with 0, 1 and 2 that is 250."""
    opened, before = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(2000, before[0]), before[1]), before[1]))
    try:
        with Slot() as slot:
            for _ in range(count):
                opened.append(os.memfd_create("passed", 0))
                os.write(opened[-1], b"%d" % opened[-1])
            script = ("import os\n"
                      "fds = [int(fd) for fd in os.listdir('/proc/self/fd')]\n"
                      "print(*sorted(fd for fd in fds if os.path.exists(f'/proc/self/fd/{fd}') and os.readlink(f'/proc/self/fd/{fd}')"
                      ".startswith('/memfd:passed') and os.pread(fd, 9, 0) == b'%d' % fd))")
            out = slot.output_of([sys.executable, "-I", "-S", "-c", script], pass_fds=opened, stdin=nsnet.DEVNULL)
            assert [int(word) for word in out.split()] == sorted(opened)
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_descriptors_that_the_slot_has_no_room_for_are_an_error():
    """The limit was the caller's when the slot was made."""
    opened, before = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
        with Slot() as slot:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            opened += [os.dup(0) for _ in range(120)]
            with pytest.raises(nsnet.KernelError) as refused:
                slot.take(CAT, pass_fds=opened)
            assert (refused.value.step, refused.value.errno) == ("descriptors", errno.EMFILE)
            assert children() == set()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in opened:
            os.close(fd)


def test_streams_are_those_of_the_taker(way):
    """stdout is whatever it is when the slot is taken."""
    with Slot() as slot:
        reader, writer = os.pipe()
        kept = os.dup(1)
        try:
            os.dup2(writer, 1)
            os.set_inheritable(1, True)
            slot.take(["/bin/echo", "here"]).wait(PATIENCE)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            os.close(writer)
        with open(reader, "rb") as file:
            assert file.read() == b"here\n"


def test_the_directory_is_that_of_the_taker(way, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    tmp_path.chmod(0o755)
    monkeypatch.chdir("/")
    with Slot() as slot, Slot() as near, Slot() as same, Slot(new={"user", "net", "mnt"}, **OWN) as foreign:
        assert same.output_of(["/bin/pwd"]) == "/\n"
        monkeypatch.chdir(tmp_path)
        assert slot.output_of(["/bin/pwd"]) == f"{tmp_path}\n"
        assert near.output_of(["/bin/pwd"], cwd="below") == f"{tmp_path}/below\n"
        # A directory of this mount namespace would lead out of that one.
        assert foreign.output_of(["/bin/pwd"]) == "/\n"


def test_signals_of_its_waiting_are_not_for_the_command(way):
    """A Ctrl-C meets the whole process group, slots among them; the command of later has a clean slate."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Slot() as slot:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN, 64, signal.SIGCHLD):
                os.kill(slot.process.pid, number)
            status = slot.output_of(["/bin/cat", "/proc/self/status"])
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert {int(fields[name], 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn")} == {0}
            assert slot.process.wait(PATIENCE) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_held_command_waits_in_the_slot(way):
    with Slot() as slot:
        process = slot.take(CAT, hold=True, stdin=nsnet.PIPE, stdout=nsnet.PIPE)
        assert process.held and not process.is_slot and process.args == tuple(CAT)
        process.go()
        assert process.communicate(b"hello", timeout=PATIENCE) == (b"hello", None) and process.wait(PATIENCE) == 0


def test_limits_that_leave_no_room_for_the_descriptors_come_after_them(way):
    with Slot() as slot:
        assert slot.output_of([SH, "-c", "ulimit -n; ulimit -s"], rlimits={
            resource.RLIMIT_NOFILE: (4, 4), resource.RLIMIT_STACK: (1 << 20, 1 << 21)}) == "4\n1024\n"


def test_a_slot_has_namespaces_of_every_kind(way):
    new = {kind for kind in ("user", "net", "pid", "mnt", "uts", "ipc", "cgroup", "time") if os.path.exists(f"/proc/self/ns/{kind}")}
    with Slot(new=new, hostname="nsnet-box", proc=True, **OWN) as slot:
        out = slot.output_of([SH, "-c", "echo $$; uname -n; echo /proc/[0-9]*"])
        assert out.split() == ["1", "nsnet-box", "/proc/1"]
    with Slot(new=new, **OWN) as slot:
        slot.take(CAT, stdin=nsnet.PIPE)
        assert all(namespace_of(slot.process.pid, kind) != namespace_of("self", kind) for kind in new)


def test_a_slot_below_a_namespace_that_is_joined():
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE, **OWN) as outer:
        with Slot(new={"user", "net"}, join={"user": outer.userns}) as slot:
            assert slot.output_of(["/usr/bin/id", "-u"]) == "0\n"
        with Slot(new={"net"}, join={"user": outer.userns}) as slot:
            assert slot.output_of(["/usr/bin/id", "-u"]) == "0\n"


@pytest.mark.parametrize("new", [{"user", "net"}, {"net"}, {"user", "net", "pid"}, {"net", "pid"}, {"user", "net", "time"}])
def test_a_slot_that_is_hidden_from_its_maker_has_the_score_of_its_command(new):
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE, **OWN) as outer:
        with Slot(new=new, join={"user": outer.userns}) as slot:
            assert slot.output_of(["/bin/cat", "/proc/self/oom_score_adj"], oom_score_adj=900) == "900\n"


@needs_root
def test_a_slot_without_a_user_namespace_is_whom_its_command_asks_for(way):
    with Slot(new={"net"}) as slot:
        status = slot.output_of(["/bin/cat", "/proc/self/status"], user="nobody", groups=[7], capabilities={"net_raw"})
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == ["65534"] * 4 and fields["Groups"].split() == ["7"]
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {1 << 13}


# --- when it fails ---

FAILURES = [
    ("execve", errno.ENOENT, {"argv": [SH]}, lambda spec: spec.update(paths=("/bin/no such file",))),
    ("chdir", errno.ENOENT, {"cwd": "/no such directory"}, None),
    ("rlimit", errno.EINVAL, {"rlimits": {resource.RLIMIT_NOFILE: (9, 8)}}, None),
    ("setuid", errno.EINVAL, {}, lambda spec: spec.update(uid=4000)),
    ("setgid", errno.EINVAL, {}, lambda spec: spec.update(gid=4000)),
    ("capabilities", errno.EINVAL, {}, lambda spec: spec.update(capabilities=1 << 50)),
    ("pdeathsig", errno.EINVAL, {}, lambda spec: spec.update(pdeathsig=99)),
    ("execve", errno.E2BIG, {"argv": ["/bin/true", "x" * 200000]}, None),
]


@pytest.mark.parametrize("step, error, options, change", FAILURES, ids=[f"{row[0]}-{row[1]}" for row in FAILURES])
def test_each_step_that_fails_has_its_name(way, step, error, options, change):
    slot = Slot()
    command = job.Command(slot.place, **{"argv": CAT, "stdin": nsnet.PIPE, **options})
    if change is not None:
        change(command.spec)
    with pytest.raises(nsnet.KernelError) as refused:
        slot.process.take(command)
    assert (refused.value.step, refused.value.errno) == (step, error)
    command.close()
    command.close_files()
    assert children() == set() and slot.process.pidfd == -1


def test_a_message_that_is_too_long_leaves_the_slot_as_it_was(monkeypatch):
    with Slot() as slot:
        with pytest.raises(nsnet.KernelError) as refused:
            slot.take(["/bin/true", *["x" * (1 << 20)] * 65])
        assert (refused.value.step, refused.value.errno) == ("handover", errno.E2BIG)
        assert slot.process.is_slot and slot.output_of(["/bin/echo", "still here"]) == "still here\n"


@pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: root may")
def test_an_oom_score_that_is_refused_is_the_slots_end():
    own = int(open("/proc/self/oom_score_adj").read())
    slot = Slot()
    with pytest.raises(nsnet.KernelError) as refused:
        slot.take(CAT, oom_score_adj=own - 1)
    assert (refused.value.step, refused.value.errno) == ("oom_score_adj", errno.EACCES) and children() == set()


def test_a_slot_that_was_killed_says_so(way):
    slot = Slot()
    os.kill(slot.process.pid, signal.SIGKILL)
    assert has_ended(slot.process.pidfd)
    command = job.Command(slot.place, CAT, stdin=nsnet.PIPE)
    assert slot.process.take(command) is False
    command.close()
    command.close_files()
    slot.process._abandon()
    assert slot.process.returncode == -signal.SIGKILL


def test_a_slot_that_is_stopped_is_an_error_and_not_a_hang():
    slot = Slot()
    os.kill(slot.process.pid, signal.SIGSTOP)
    with pytest.raises(nsnet.KernelError, match="somebody has stopped the child"):
        slot.take(["/bin/true", *["x" * 100000] * 20])      # more than the channel has room for
    assert children() == set()


def test_who_is_interrupted_in_the_telling_goes_on_or_leaves_nothing(way):
    """A handler that returns: the command runs as if nothing had been. One that raises: the slot ends."""
    calls = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
    try:
        for _ in range(20):
            with Slot() as slot:
                signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
                process = slot.take(["/bin/true", *["x" * 100000] * 12])
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert process.wait(PATIENCE) == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert calls


# --- whom it is hidden from ---

LOOKER = """
import ctypes, os, sys
pid, found = int(sys.argv[1]), []
for what in ("fd", "mem", "exe", "environ", "ns/net", "cwd", "root"):
    try:
        path = f"/proc/{pid}/{what}"
        [os.open(f"{path}/{fd}", os.O_RDONLY) for fd in os.listdir(path)] if what == "fd" else \
            open(path, "rb").read(1) if what in ("mem", "environ") else os.readlink(path)
        found.append(what)
    except PermissionError:
        pass
if ctypes.CDLL(None, use_errno=True).ptrace(16, pid, 0, 0) == 0:        # PTRACE_ATTACH
    found.append("ptrace")
print(*found)
"""


def test_a_container_cannot_look_into_a_slot_of_the_same_id(way):
    """Its root is the same user outside, with all capabilities in a user namespace that is another's."""
    everything = {name for name in ("sys_ptrace", "dac_override", "sys_admin")}
    with Slot() as waiting, Slot() as slot:
        out = slot.output_of([sys.executable, "-I", "-S", "-c", LOOKER, str(waiting.process.pid)], capabilities=everything)
        assert out == "\n" and not is_gone(waiting.process.pid)
        assert kernel.proc_pid(waiting.process.pidfd) == waiting.process.pid

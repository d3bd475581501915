"""How a child comes to be: executing the extension or in a copy of our memory, through a second clone, and in the way of forks,
signals and full tables. What the command is given is test_live_exec_state.py's.
"""

import errno
import mmap
import os
import pwd
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

import nsnet
from live_helpers import (IS_ROOT, LIBC, PATIENCE, TREE, check, children, descriptors, environment, has_ended, is_gone,
                          namespace_of, needs, needs_root, read_inside)
from nsnet import clone

CAT, SH = ["/bin/cat"], "/bin/sh"
IMAGE = "/memfd:nsnet (deleted)"
OWN = {"uid_map": {0: os.geteuid()}, "gid_map": {0: os.getegid()}}
SOAK = os.environ.get("NSNET_HYPOTHESIS") == "long"         # the long profile of the other long tests


@pytest.fixture(params=["image", "memory"])
def way(request, monkeypatch):
    """Each of the two ways to a child."""
    if request.param == "memory":
        monkeypatch.setattr(clone.image, "fileno", lambda: -1)
    else:
        assert clone.image.fileno() >= 0, "this machine has no image: every launch would copy the parent"
    return request.param


def output_of(argv, **options):
    with nsnet.spawn(argv, stdout=nsnet.PIPE, **options) as process:
        text = process.stdout.read().decode()
        assert process.wait(PATIENCE) == 0
    return text


def name_of(pid):
    with open(f"/proc/{pid}/comm", encoding="ascii") as file:
        return file.read().strip()


# --- two ways, one result ---

def test_a_parked_child_is_the_extension_or_a_copy_of_us(way):
    with nsnet.spawn(CAT, new={"user", "net"}, hold=True) as process:
        exe = os.readlink(f"/proc/{process.pid}/exe")
        assert exe == (IMAGE if way == "image" else os.path.realpath(sys.executable))


def test_the_memory_of_the_parent_is_not_in_the_child():
    secret = b"nsnet-" + os.urandom(8).hex().encode()
    keep = [secret * 1000]
    with nsnet.spawn(CAT, new={"user"}, hold=True, env={}, **OWN) as process:
        with open(f"/proc/{process.pid}/maps", encoding="ascii") as file:
            regions = [line.split() for line in file]
        with open(f"/proc/{process.pid}/mem", "rb") as memory:
            for region in regions:
                first, end = (int(part, 16) for part in region[0].split("-"))
                if "r" in region[1] and region[-1] not in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                    memory.seek(first)
                    assert secret not in memory.read(end - first)
        assert {region[5] for region in regions if len(region) > 5 and region[5].startswith("/")} == {IMAGE.split()[0]}
    assert keep


@pytest.mark.parametrize("kinds", [(), ("user",), ("user", "net"), ("user", "pid"), ("user", "net", "pid", "mnt", "uts", "ipc",
                                                                                     "cgroup", "time")], ids=len)
def test_both_ways_make_the_same_namespaces(way, kinds):
    kinds = [kind for kind in kinds if os.path.exists(f"/proc/self/ns/{kind}")]
    with nsnet.spawn(CAT, new=kinds, stdin=nsnet.PIPE) as process:
        for kind in ("user", "net", "pid", "mnt", "uts", "ipc", "cgroup", "time"):
            if os.path.exists(f"/proc/self/ns/{kind}"):
                assert (namespace_of(process.pid, kind) != namespace_of("self", kind)) == (kind in kinds), kind


def test_both_ways_map_what_was_asked(way):
    with nsnet.spawn(CAT, new={"user", "pid"}, stdin=nsnet.PIPE, uid_map={7: os.geteuid()}, gid_map={8: os.getegid()}) as process:
        with open(f"/proc/{process.pid}/uid_map", encoding="ascii") as file:
            assert file.read().split() == ["7", str(os.geteuid()), "1"]
        with open(f"/proc/{process.pid}/gid_map", encoding="ascii") as file:
            assert file.read().split() == ["8", str(os.getegid()), "1"]


def test_arguments_and_environment_are_the_commands_own(way):
    argv = ["/usr/bin/printf", "%s|", "", "a b", "ä", "x" * 100000]
    assert output_of(argv, new={"user"}, env={}, **OWN) == "|a b|ä|" + "x" * 100000 + "|"
    env = {"NSNET_IMAGE": "99", "EMPTY": "", "Z": "1\n2"}
    assert output_of(["/usr/bin/env", "-0"], new=(), env=env) == "NSNET_IMAGE=99\0EMPTY=\0Z=1\n2\0"


def test_arguments_beyond_what_the_kernel_takes_are_its_own_error(way):
    with pytest.raises(nsnet.KernelError) as refused:
        nsnet.spawn(["/bin/true", "x" * 200000], new=())                    # MAX_ARG_STRLEN is 128 KiB
    assert (refused.value.step, refused.value.errno) == ("execve", errno.E2BIG)
    assert children() == set()


def test_a_number_that_is_another_files_by_now_is_not_executed(tmp_path):
    """A program that closes every descriptor gives our number to another file: the image is made anew, beside it."""
    (tmp_path / "other").write_text("#!/bin/sh\necho taken over\n")
    (tmp_path / "other").chmod(0o755)
    number = clone.image.fileno()
    with open(tmp_path / "other", "rb") as other:
        os.dup2(other.fileno(), number)
        try:
            again = clone.image.fileno()
            assert again not in (-1, number) and os.readlink(f"/proc/self/fd/{again}") == IMAGE
            assert output_of(["/bin/echo", "right"], new={"user"}) == "right\n"
            assert os.readlink(f"/proc/self/fd/{number}") == str(tmp_path / "other")
        finally:
            os.close(number)
            clone.image._descriptor.close()
    assert clone.image.fileno() == number           # as before, for the count of descriptors


def test_nobody_can_write_to_what_is_executed():
    """CVE-2019-5736: who sees the child through /proc may open its program for writing when it has ended."""
    with nsnet.spawn(CAT, new={"user"}, hold=True) as process:
        found = os.open(f"/proc/{process.pid}/exe", os.O_RDONLY)
    try:
        before = os.pread(found, 1 << 20, 0)
        with open(f"/proc/self/fd/{found}", "r+b", buffering=0) as file:      # root may; but
            for change in (lambda: file.write(b"x"), lambda: file.truncate(0), lambda: os.posix_fallocate(file.fileno(), 0, 1 << 20)):
                with pytest.raises(PermissionError):
                    change()
            with pytest.raises(PermissionError):
                mmap.mmap(file.fileno(), 4096)
        assert os.pread(found, 1 << 20, 0) == before == open(clone.EXTENSION, "rb").read()
    finally:
        os.close(found)


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOSYS])
def test_where_there_is_no_image_the_child_is_a_copy(monkeypatch, error):
    """memfd_create forbidden (vm.memfd_noexec), or unknown."""
    def refuse(*_):
        raise OSError(error, "refused")
    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(clone, "image", clone._Image(clone.EXTENSION))
    assert clone.image.fileno() == -1
    before = descriptors()
    with nsnet.spawn(CAT, new={"user", "net"}, hold=True) as process:
        assert os.readlink(f"/proc/{process.pid}/exe") == os.path.realpath(sys.executable)
        process.go()
        process.kill()
    with nsnet.Netns.new() as made:
        assert made.links()
    assert descriptors() == before and children() == set()


def test_an_image_that_cannot_be_executed_is_passed_over(monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"no program")
    made = clone._Image(str(broken))
    monkeypatch.setattr(clone, "image", made)
    try:
        assert made.fileno() >= 0
        assert output_of(["/bin/echo", "right"], new={"user", "pid"}) == "right\n"
    finally:
        made._descriptor.close()


def image_of(path, meanwhile=lambda image: None):
    """(the content of the image, where it is) of a file to which something happens between import and the first child."""
    image = clone._Image(str(path))
    meanwhile(image)
    fd = image.fileno()
    try:
        return os.pread(fd, 1 << 20, 0) if fd >= 0 else None
    finally:
        image._descriptor.close()
        assert image._file.closed or fd < 0


def test_the_image_is_of_the_file_that_was_there_at_import(tmp_path):
    """A new version takes its name, by rename(2) as installers do; and it is read once only."""
    def upgrade(image):
        (tmp_path / "new").write_bytes(b"new")
        os.rename(tmp_path / "new", tmp_path / "file")

    def upgrade_later(image):
        image.fileno()
        image._descriptor.close()
        upgrade(image)
    for meanwhile in (upgrade, upgrade_later):
        (tmp_path / "file").write_bytes(b"as it was")
        assert image_of(tmp_path / "file", meanwhile) == b"as it was"


def test_a_file_that_was_written_to_makes_no_image(tmp_path):
    for content in (b"as it iz", b"longer than it was"):
        (tmp_path / "file").write_bytes(b"as it was")
        os.utime(tmp_path / "file", ns=(0, 0))
        assert image_of(tmp_path / "file", lambda image: (tmp_path / "file").write_bytes(content)) is None


def test_a_program_that_closed_all_its_descriptors_has_an_image_of_the_same_file_or_none(tmp_path):
    (tmp_path / "file").write_bytes(b"as it was")
    (tmp_path / "other").write_bytes(b"other")

    def closed(image):
        os.close(image._file.fileno())

    def another(image):
        with open(tmp_path / "other", "rb") as other:
            os.dup2(other.fileno(), image._file.fileno())
        taken.append(image._file.fileno())

    def closed_and_upgraded(image):
        closed(image)
        (tmp_path / "new").write_bytes(b"as it was")
        os.rename(tmp_path / "new", tmp_path / "file")
    taken = []
    assert image_of(tmp_path / "file", closed) == b"as it was"
    assert image_of(tmp_path / "file", another) == b"as it was"
    assert os.readlink(f"/proc/self/fd/{taken[0]}") == str(tmp_path / "other")     # and is not closed, for it is not ours
    os.close(taken[0])
    assert image_of(tmp_path / "file", closed_and_upgraded) is None


def test_many_threads_make_one_image(tmp_path):
    image, found, start = clone._Image(clone.EXTENSION), [], threading.Barrier(8)

    def look():
        start.wait(PATIENCE)
        found.append(image.fileno())
    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 8 and len(set(found)) == 1 and found[0] >= 0
    image._descriptor.close()


def test_a_fork_makes_its_image_though_a_thread_was_at_it(monkeypatch):
    """The thread is not in the child, and would never give the lock back."""
    monkeypatch.setattr(clone, "image", clone._Image(clone.EXTENSION))
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with clone.image._lock:
            held.set()
            go_on.wait(PATIENCE)
    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(PATIENCE))
        os._exit(0 if clone.image.fileno() >= 0 else 1)
    go_on.set()
    thread.join(PATIENCE)
    assert os.waitpid(pid, 0)[1] == 0


def test_the_extension_does_nothing_for_whoever_executes_it():
    for env in ({}, {"NSNET_IMAGE": "1"}, {"NSNET_IMAGE": "0x"}, {"NSNET_IMAGE": "99999999999"}):
        done = subprocess.run([clone.EXTENSION], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              timeout=PATIENCE)
        assert done.returncode in (126, 127) and done.stdout == b""
    assert b"not a command" in subprocess.run([clone.EXTENSION], stderr=subprocess.PIPE).stderr


# --- the end of the channel means exec, or an error ---

def test_a_child_killed_between_go_and_exec_is_no_success(way):
    process = nsnet.spawn(CAT, new={"user"}, hold=True)
    os.kill(process.pid, signal.SIGSTOP)
    while open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)
    killer = threading.Timer(0.05, os.kill, [process.pid, signal.SIGKILL])
    killer.start()
    with pytest.raises(nsnet.KernelError, match="ended before execve: SIGKILL"):
        process.go()
    killer.join()
    assert process.returncode == -signal.SIGKILL and children() == set()


def test_a_fork_at_the_same_time_holds_nothing_up(way):
    """The forks sleep with copies of all our descriptors: were the child's end of the channel among them, its end of file would
    come a second late."""
    forked, stop = [], threading.Event()

    def fork_on():
        while not stop.is_set() and len(forked) < 150:
            pid = os.fork()
            if pid == 0:
                time.sleep(1.5)
                os._exit(0)
            forked.append(pid)
    thread = threading.Thread(target=fork_on)
    thread.start()
    try:
        slow = []
        for _ in range(40):
            start = time.monotonic()
            nsnet.spawn(["/bin/true"], new={"user"}).close()
            slow.append(time.monotonic() - start)
    finally:
        stop.set()
        thread.join()
        for pid in forked:
            os.waitpid(pid, 0)
        while children():
            os.wait()
    assert len(forked) > 5 and max(slow) < 1.2, (len(forked), max(slow))


def test_a_command_that_dies_in_its_execve_has_that_status(way):
    """Beyond its point of no return execve kills; that is the command's end, not the launch's."""
    with nsnet.spawn(CAT, new=(), rlimits={resource.RLIMIT_AS: (1 << 16, 1 << 16)}) as process:
        assert process.wait(PATIENCE) in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS)


# --- a second clone ---

def test_the_process_is_pid_1_of_its_namespace_and_ours_to_wait_for(way):
    with nsnet.spawn([SH, "-c", "echo $$ $PPID; exit 7"], new={"user", "pid"}, stdout=nsnet.PIPE) as process:
        assert process.stdout.read().split() == [b"1", b"0"]
        assert process.wait(PATIENCE) == 7
    assert children() == set()


def test_pid_and_pidfd_are_the_new_process(way):
    with nsnet.spawn(CAT, new={"user", "pid"}, stdin=nsnet.PIPE, hold=True) as process:
        assert process.pid in children() and len(children()) == 1           # the first child has been collected
        with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
            assert "NSpid:\t%d\t1\n" % process.pid in file.read()
        process.go()
        assert name_of(process.pid) == "cat"
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_joining_a_pid_namespace_is_being_in_it(way):
    with nsnet.spawn(CAT, new={"user", "pid", "mnt"}, proc=True, stdin=nsnet.PIPE, **OWN) as box:
        inside = nsnet.namespaces(box.pid)
        try:
            script = "echo $$; readlink /proc/self; cat /proc/1/comm"
            lines = output_of([SH, "-c", script], join=inside).split()
            assert int(lines[0]) > 1 and lines[2] == "cat"
            assert int(lines[1]) > 1
        finally:
            for descriptor in inside.values():
                descriptor.close()
    assert children() == set()


def test_a_fresh_proc_shows_the_new_pid_namespace_only(way):
    text = output_of([SH, "-c", "echo /proc/[0-9]*"], new={"user", "pid", "mnt"}, proc=True, **OWN)
    assert text == "/proc/1\n"


def test_mounts_made_inside_stay_inside():
    before = open("/proc/self/mountinfo").read()
    with nsnet.spawn(CAT, new={"user", "mnt", "pid"}, proc=True, stdin=nsnet.PIPE, **OWN) as process:
        assert " - proc " in open(f"/proc/{process.pid}/mountinfo").read()
        lines = open(f"/proc/{process.pid}/mountinfo").read().splitlines()
        assert not any("shared:" in line or "master:" in line for line in lines)
    assert open("/proc/self/mountinfo").read() == before


# --- who and what ---

def test_the_host_name_is_of_the_new_namespace(way):
    assert output_of(["/bin/uname", "-n"], new={"user", "uts"}, hostname="nsnet-box", **OWN) == "nsnet-box\n"
    assert os.uname().nodename != "nsnet-box"


def test_the_mask_of_new_files(way, tmp_path):
    for mask in (0, 0o27, 0o777):
        text = output_of([SH, "-c", "umask"], new={"user"}, umask=mask, **OWN)
        assert int(text, 8) == mask
    before = os.umask(0o35)
    try:
        assert int(output_of([SH, "-c", "umask"], new={"user"}, **OWN), 8) == 0o35
    finally:
        os.umask(before)


def test_lo_is_up_unless_unwanted(way):
    for wanted in (True, False):
        with nsnet.spawn(CAT, new={"user", "net"}, stdin=nsnet.PIPE, loopback=wanted) as process:
            assert process.netns.link("lo").up is wanted
            assert ("127.0.0.1" in read_inside(process.netns, "/proc/net/fib_trie")) is wanted


def test_the_oom_killer_is_told(way):
    own = int(open("/proc/self/oom_score_adj").read())
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE, oom_score_adj=min(own + 50, 1000)) as process:
        assert int(open(f"/proc/{process.pid}/oom_score_adj").read()) == min(own + 50, 1000)


@pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: root may")
def test_an_oom_score_below_ones_own_is_refused():
    own = int(open("/proc/self/oom_score_adj").read())
    with pytest.raises(nsnet.KernelError) as refused:
        nsnet.spawn(CAT, new={"user"}, oom_score_adj=own - 1)
    assert (refused.value.step, refused.value.errno) == ("oom_score_adj", errno.EACCES)
    assert children() == set()


@needs_root
def test_root_becomes_whom_it_is_told_to(way):
    maps = {"uid_map": [(0, 100000, 2000)], "gid_map": [(0, 100000, 2000)]}
    status = output_of(["/bin/cat", "/proc/self/status"], new={"user"}, user=1000, group=7, groups=[5, 6], **maps)
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert found["Uid"].split() == ["1000"] * 4 and found["Gid"].split() == ["7"] * 4 and found["Groups"].split() == ["5", "6"]
    nobody = pwd.getpwnam("nobody")
    status = output_of(["/bin/cat", "/proc/self/status"], new=(), user="nobody", capabilities={"net_raw"})
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert found["Uid"].split() == [str(nobody.pw_uid)] * 4 and found["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert found["Groups"].split() == [] and int(found["CapAmb"], 16) == int(found["CapEff"], 16) == 1 << 13


def test_whoever_is_not_mapped_is_refused():
    with pytest.raises(nsnet.UsageError, match="group 9: expected an id that is mapped"):
        nsnet.spawn(CAT, new={"user"}, group=9, **OWN)
    with pytest.raises(nsnet.UsageError, match=r"groups \[0\]: expected none, setgroups"):
        nsnet.spawn(CAT, new={"user"}, groups=[0], setgroups=False, **OWN)


# --- descriptors in odd places ---

def test_the_highest_number_that_there_is_can_be_passed(way):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    reader, writer = os.pipe()
    highest = os.dup2(writer, min(soft, 5000) - 1)
    limit = min(soft, 5000)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        with nsnet.spawn([SH, "-c", "ls /proc/self/fd"], new={"user"}, stdout=nsnet.PIPE, pass_fds=[highest]) as process:
            assert process.stdout.read().split() == [b"0", b"1", b"2", b"3", b"%d" % highest]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in (reader, writer, highest):
            os.close(fd)


def test_a_nearly_full_table_is_no_hindrance(way):
    """Five numbers are left, which is what the parent needs; the child closes what is not its own before it copies."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    opened = []
    try:
        while True:
            try:
                opened.append(os.open("/dev/null", os.O_RDONLY))
            except OSError as error:
                assert error.errno == errno.EMFILE
                break
        for _ in range(5):
            os.close(opened.pop())
        with nsnet.spawn(CAT, new={"user"}, stdin=opened[0], pass_fds=opened[:100]) as process:
            assert process.wait(PATIENCE) == 0
        for fd in opened[-2:]:
            os.close(fd)
        del opened[-2:]
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert children() == set()


# --- many threads, and signals ---

def test_launches_from_busy_threads_under_sigint_leave_nothing():
    """64 threads spin, the main thread gets SIGINT at random moments while four launch: no hang, no wrong netns, no leak."""
    launches = 10000 if SOAK else 300
    script = f"""
import gc, os, random, signal, sys, threading, time
import nsnet
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from live_helpers import children, descriptors
stop, wrong, done = threading.Event(), [], [0]
def spin():
    while not stop.is_set():
        sum(range(200))
        time.sleep(0.002)
spinners = [threading.Thread(target=spin) for _ in range(64)]
for thread in spinners: thread.start()
own = os.stat("/proc/self/ns/net").st_ino
nsnet.spawn(["/bin/true"], new={{"user", "net"}}).wait()
before = descriptors()
def launch(count):
    for _ in range(count):
        try:
            with nsnet.spawn(["/bin/cat"], new={{"user", "net"}}, stdin=nsnet.PIPE) as process:
                if os.stat(f"/proc/{{process.pid}}/ns/net").st_ino == own:
                    wrong.append("netns")
                if os.stat("/proc/thread-self/ns/net").st_ino != own:
                    wrong.append("ours")
            done[0] += 1
        except KeyboardInterrupt:
            interrupted[0] += 1
interrupted, armed = [0], [0]
def rang(*_):                           # a second time while the first is dealt with, then not before the next launch
    if armed[0]:
        armed[0] -= 1
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, rang)
def ring():
    while not stop.is_set():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(random.uniform(0.0002, 0.008))
others = [threading.Thread(target=launch, args=({launches} // 4,)) for _ in range(3)]
bell = threading.Thread(target=ring)
for thread in [*others, bell]: thread.start()
for _ in range({launches} // 4):
    try:
        try:
            armed[0] = 2
            launch(1)
        finally:
            armed[0] = 0
    except KeyboardInterrupt:
        interrupted[0] += 1
stop.set()
for thread in [*others, bell, *spinners]: thread.join()
gc.collect()
print(done[0], interrupted[0], wrong, len(children()), descriptors() == before)
"""
    done = subprocess.run([sys.executable, "-c", script], env={**environment("/nonexistent"), "PYTHONPATH": str(TREE)},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=1200 if SOAK else 120)
    assert done.returncode == 0, done.stderr[-2000:]
    count, interrupted, *rest = done.stdout.split(maxsplit=2)
    assert int(count) >= launches * 3 // 4 and int(interrupted) > 0, done.stdout
    assert rest == ["[] 0 True\n"], done.stdout


@pytest.mark.parametrize("kinds", [("user", "net"), ("user", "pid"), ("user", "time")], ids=" ".join)
def test_an_interrupt_at_any_moment_leaves_no_child(kinds):
    """SIGALRM raises at a random moment of a launch; whatever the moment, no child and no descriptor stays."""
    kinds = [kind for kind in kinds if os.path.exists(f"/proc/self/ns/{kind}")]
    class Alarm(BaseException):
        pass

    def ring(*_):
        raise Alarm
    before, previous = descriptors(), signal.signal(signal.SIGALRM, ring)
    rang, generator = 0, random.Random(4)
    try:
        for round_ in range(2000 if SOAK else 120):
            try:
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(1e-5, 2.5e-3))
                process = None
                process = nsnet.spawn(CAT, new=kinds, stdin=nsnet.PIPE)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                rang += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                if process is not None:
                    process._abandon()
    except Alarm:
        pass
    finally:
        signal.signal(signal.SIGALRM, previous)
    import gc
    gc.collect()
    assert rang > 10
    assert children() == set() and descriptors() == before


# --- the parent dies ---

LAUNCH = """
import nsnet, os, time
os.write(2, b"here")
process = nsnet.spawn(["/bin/sleep", "60"], new={{"user", "net"{pid}}}, stdin=nsnet.DEVNULL, env={{"MARK": "{mark}"}}{options})
os.write(2, b"there")
time.sleep({stay})
"""


def _launch(inject, log, **fields):
    """Run LAUNCH under strace, to its end; its own calls alone are counted, not the child's."""
    script = LAUNCH.format(**fields)
    return subprocess.run(["strace", "-qq", "-o", str(log), *inject, sys.executable, "-S", "-c", script],
                          env={**environment("/nonexistent"), "PYTHONPATH": os.pathsep.join(filter(None, [str(TREE), *sys.path]))},
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=3 * PATIENCE)


def _calls_of_a_launch(log):
    """[(system call, how often it was made before)] between the two marks, in order."""
    counts, found, inside = {}, [], False
    for line in log.read_text(errors="replace").splitlines():
        call = line.split("(")[0]
        if not call.isidentifier():
            continue
        if 'write(2, "here"' in line:
            inside = True
        elif 'write(2, "there"' in line:
            return found
        elif inside:
            if call not in ("brk", "mmap", "munmap", "madvise"):        # how often is a matter of where the heap is
                found.append((call, counts.get(call, 0)))
        counts[call] = counts.get(call, 0) + 1
    return found


@needs("strace")
@pytest.mark.parametrize("with_parent", [True, False], ids=["the command goes too", "the command may stay"])
def test_a_parent_killed_at_any_system_call_leaves_no_orphan(tmp_path, with_parent):
    """SIGKILL at each system call of a launch, by strace. What is parked ends by itself; what runs, if that was asked for."""
    mark = f"nsnet-mark-{os.getpid()}-{with_parent}"
    fields = {"mark": mark, "pid": ', "pid"' if with_parent else "", "options": ", pdeathsig=9" if with_parent else ""}
    _launch([], tmp_path / "log", stay=0, **fields)
    calls = _calls_of_a_launch(tmp_path / "log")
    assert len(calls) > 30, calls
    _end_all(mark)
    reached = 0
    for call, before in calls if SOAK else calls[::6]:
        done = _launch(["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={before + 1}"], tmp_path / "other", stay=60,
                       **fields)
        reached += done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while [name for _, name in _marked(mark) if with_parent or name != "sleep"]:
            assert time.monotonic() < deadline, (call, before, _marked(mark))
            time.sleep(0.01)
        _end_all(mark)
    assert reached >= len(calls if SOAK else calls[::6]) * 3 // 4, (reached, len(calls))


def _end_all(mark):
    """The commands that were left running on purpose."""
    for pid, name in _marked(mark):
        if name == "sleep":
            os.kill(int(pid), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while _marked(mark):
        assert time.monotonic() < deadline, _marked(mark)
        time.sleep(0.01)


def _marked(mark):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if mark.encode() in file.read() and not is_gone(pid):
                    found.append((pid, name_of(pid)))
        except OSError:
            pass
    return found


def test_a_fork_of_the_parent_does_not_reap_or_kill():
    process = nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE)
    pid = os.fork()
    if pid == 0:
        process.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert not has_ended(process.pidfd, 0)
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    process.close()


# --- what a hostile reader found ---

def test_a_child_that_somebody_stops_is_an_error_and_not_a_hang():
    """In a container of the same id anybody may send SIGSTOP."""
    process = nsnet.spawn(CAT, new={"user"}, hold=True)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(nsnet.KernelError, match="somebody has stopped the child") as refused:
        process.go()
    assert refused.value.errno == errno.ECANCELED and children() == set()


def test_a_parked_child_ends_with_its_parent_though_a_fork_of_that_lives(tmp_path):
    """The fork has a copy of the parent's end of the channel."""
    script = ("import nsnet, os, sys, time\n"
              "process = nsnet.spawn(['/bin/cat'], new={'user'}, hold=True)\n"
              "worker = os.fork()\n"
              "if worker == 0: time.sleep(60)\n"
              "print(process.pid, worker, flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", script], env={**environment("/nonexistent"), "PYTHONPATH": str(TREE)},
                          stdout=subprocess.PIPE, text=True) as parent:
        pid, worker = map(int, parent.stdout.readline().split())
        try:
            parent.kill()
            deadline = time.monotonic() + PATIENCE
            while not is_gone(pid):
                assert time.monotonic() < deadline, "the parked child waits for a parent that is gone"
                time.sleep(0.01)
            assert not is_gone(worker)
        finally:
            os.kill(worker, signal.SIGKILL)


@needs_root
def test_a_parent_that_has_unshared_its_pid_namespace_launches(way):
    """Its children cannot see it; where the first of them has ended, the kernel has no memory for another (ENOMEM)."""
    pid = os.fork()
    if pid == 0:
        try:
            check(LIBC.unshare(0x20000000))
            with nsnet.spawn([SH, "-c", "echo $$ $PPID"], new={"net"}, stdout=nsnet.PIPE) as process:
                os._exit(0 if process.stdout.read().split() == [b"1", b"0"] and process.wait(PATIENCE) == 0 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_fork_that_leaves_the_block_ends_nothing():
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE) as process:
        pid = os.fork()
        if pid == 0:
            try:
                process.__exit__(None, None, None)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert process.poll() is None and not has_ended(process.pidfd, 0)


def test_a_command_that_never_stops_writing_ends_with_the_block():
    start = time.monotonic()
    with nsnet.spawn(["/usr/bin/yes"], new={"user"}, stdout=nsnet.PIPE) as process:
        process.stdout.readline()
    assert process.returncode == -signal.SIGPIPE and time.monotonic() - start < PATIENCE


def test_a_signal_handler_may_ask_while_its_thread_asks():
    before = signal.getsignal(signal.SIGALRM)
    found = []
    try:
        for _ in range(30):
            with nsnet.spawn(["/bin/true"], new=()) as process:
                signal.signal(signal.SIGALRM, lambda *_: found.append(process.poll()))
                signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
                assert process.wait(PATIENCE) == 0
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(found) <= {None, 0}


def test_whoever_waits_while_another_ends_it_is_told_the_status():
    for _ in range(100):
        process, found = nsnet.spawn(CAT, new=(), stdin=nsnet.PIPE), []
        threads = [threading.Thread(target=lambda: found.append(process.wait(PATIENCE))) for _ in range(3)]
        for thread in threads:
            thread.start()
        process._abandon()
        for thread in threads:
            thread.join()
        assert found == [-signal.SIGKILL] * 3


@needs_root
def test_container_root_is_never_the_hosts_by_default():
    """Where nobody cannot be mapped the caller has to say so: here without CAP_SETUID."""
    script = ("import nsnet\n"
              "try: nsnet.spawn(['/bin/true'], new={'user'})\n"
              "except nsnet.UsageError as error: print(error)")
    with nsnet.spawn([sys.executable, "-c", script], new=(), capabilities={"setgid", "setfcap"}, no_new_privs=True, stdout=nsnet.PIPE,
                     env={**environment("/nonexistent"), "PYTHONPATH": str(TREE)}) as process:
        assert b"root would be root of the host" in process.communicate()[0]


def test_more_descriptors_than_half_of_the_limit_are_passed(way):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    opened = []
    try:
        opened += [os.open("/dev/null", os.O_RDONLY) for _ in range(700)]
        with nsnet.spawn([SH, "-c", "ls /proc/self/fd | wc -l"], new={"user"}, stdout=nsnet.PIPE, pass_fds=opened) as process:
            assert int(process.communicate()[0]) == 700 + 3 + 1
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_stack_limit_bounds_the_commands_arguments_and_not_the_childs():
    many = ["x" * 1000] * 3000                              # 3 MB; the limit of 8 MiB allows 2 MiB
    with pytest.raises(nsnet.KernelError) as refused:
        nsnet.spawn(["/bin/true", *many], new=())
    assert (refused.value.step, refused.value.errno) == ("execve", errno.E2BIG)
    limit = {resource.RLIMIT_STACK: (64 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1])}
    with nsnet.spawn(["/bin/true", *many], new=(), rlimits=limit) as process:
        assert process.wait(PATIENCE) == 0


def test_the_oom_score_counts_in_a_namespace_that_is_joined_too():
    own = int(open("/proc/self/oom_score_adj").read())
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE) as box:
        with nsnet.spawn(CAT, join={"user": box.userns}, stdin=nsnet.PIPE, oom_score_adj=min(own + 50, 1000)) as guest:
            assert int(open(f"/proc/{guest.pid}/oom_score_adj").read()) == min(own + 50, 1000)


@pytest.mark.parametrize("options", [{"cgroup": "/tmp"}, {"pass_fds": [10**6]}, {"join": {"net": "/nonexistent"}}], ids=str)
def test_a_failed_launch_keeps_no_pipe_open_while_its_exception_is_kept(options):
    before, kept = descriptors(), []
    for _ in range(3):
        try:
            nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE, stdout=nsnet.PIPE, **options)
        except nsnet.NsnetError as error:
            kept.append(error)
    assert len(kept) == 3 and descriptors() == before


def test_who_joins_cannot_be_looked_into(way):
    """Joined by an id that its neighbours have: a parked child is as little theirs to read as a setuid program."""
    with nsnet.spawn(CAT, new={"user", "pid", "mnt"}, proc=True, stdin=nsnet.PIPE, **OWN) as box:
        inside = nsnet.namespaces(box.pid)
        try:
            with nsnet.spawn(CAT, join=inside, hold=True) as guest:
                status = os.stat(f"/proc/{guest.pid}/environ")
                if not IS_ROOT:
                    assert status.st_uid != os.geteuid()        # not dumpable: its files in /proc are root's
                    with pytest.raises(OSError):
                        open(f"/proc/{guest.pid}/environ", "rb").read()
                with nsnet.spawn([SH, "-c", "for p in /proc/[0-9]*; do readlink $p/exe; tr '\\0' '\\n' <$p/environ | head -1; done 2>&1"],
                                 join=inside, stdout=nsnet.PIPE, env={"MINE": "1"}) as spy:
                    seen = spy.communicate()[0].decode()
                assert "memfd:nsnet" not in seen and "NSNET_IMAGE" not in seen, seen
        finally:
            for descriptor in inside.values():
                descriptor.close()

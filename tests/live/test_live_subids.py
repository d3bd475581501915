"""Range maps written by the real newuidmap and newgidmap for an ordinary user, and what is said where they cannot.

As root each test is a process of that user in a mount namespace with /etc/subuid and /etc/subgid of its own: nothing of
the machine is changed. As an ordinary user those run that the user's own ranges allow.
"""

import ctypes
import errno
import fcntl
import functools
import json
import os
import pwd
import signal
import stat
import time
import traceback

import pytest
from live_helpers import CLONE_NEWUSER, IS_ROOT, LIBC, PATIENCE, check, children, which

import nsnet
from nsnet import idmap, kernel, subids
from nsnet.errors import KernelError, UsageError
from nsnet.subids import GID, UID

nsnet.spawn         # looked up now: a child here may not be able to read Python's library, from which names are imported

CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000         # <linux/sched.h>, <linux/mount.h>
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38                                        # <linux/prctl.h>
NOBODY = 65534
RANGE = "{name}:100000:65536\n"

pytestmark = pytest.mark.skipif(not (which("newuidmap") and which("newgidmap")), reason="newuidmap is not installed")
needs_files = pytest.mark.skipif(not IS_ROOT, reason="needs root: it mounts another /etc/subuid over this one")


def has_ranges():
    try:
        return bool(subids.subordinate(UID) and subids.subordinate(GID))
    except KernelError:
        return False


needs_ranges = pytest.mark.skipif(not IS_ROOT and not has_ranges(),
                                  reason="needs root, or a user with ranges in /etc/subuid and /etc/subgid")


# --- who asks ---

def become(uid=NOBODY, gid=None, files=(), dumpable=True):
    """Take this process to an ordinary user, in a mount namespace where these files stand for those of the machine."""
    if files:
        check(LIBC.unshare(CLONE_NEWNS))
        check(LIBC.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))
    for path, source in files:
        check(LIBC.mount(source.encode(), path.encode(), None, ctypes.c_ulong(MS_BIND), None))
    os.setgroups([])
    gid = pwd.getpwuid(uid).pw_gid if gid is None else gid
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if dumpable:                        # as after execve; else its children's files in /proc are root's
        check(LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))


def in_child(prepare, work):
    """What `work()` returns in a forked process, after `prepare()`. An error of nsnet comes back as {"error": ...}."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(6 * PATIENCE)
            prepare()
            said = {"value": work()}
        except (KernelError, UsageError) as error:
            said = {"error": type(error).__name__, "text": str(error), "errno": getattr(error, "errno", None),
                    "step": getattr(error, "step", None)}
        except BaseException:                               # noqa: B902  told to the parent, which fails
            said = {"failed": traceback.format_exc()}
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        content = file.read()
    os.waitpid(pid, 0)
    said = json.loads(content or '{"failed": "it ended without a word"}')
    assert "failed" not in said, said["failed"]
    return said.get("value", said)


@pytest.fixture
def as_user(tmp_path):
    """as_user(work, subuid=..., subgid=..., nsswitch=..., passwd=...): as nobody, whom these files give ranges."""
    name = pwd.getpwuid(NOBODY if IS_ROOT else os.getuid()).pw_name

    def run(work, *, uid=NOBODY, gid=None, dumpable=True, **contents):
        if not IS_ROOT:
            return in_child(lambda: None, work)
        contents.setdefault("subuid", RANGE)
        contents.setdefault("subgid", RANGE)
        files = []
        for file, content in contents.items():
            path = f"/etc/{'nsswitch.conf' if file == 'nsswitch' else file}"
            if not os.path.exists(path):
                pytest.skip(f"needs root and {path}, to mount another over it")
            private = tmp_path / file
            private.write_text(content.replace("{name}", name))
            private.chmod(0o644)
            files.append((path, str(private)))
        return in_child(functools.partial(become, uid, gid, files, dumpable), work)

    return run


# --- the child that waits for its maps ---

class Parked:
    """A child in a new user namespace, without maps, that waits; then it does `work` and its result is `said()`."""

    def __init__(self, work=lambda: None):
        channel, theirs = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(channel[1])
                os.close(theirs[0])
                check(LIBC.unshare(CLONE_NEWUSER))
                os.write(theirs[1], b"x")
                if os.read(channel[0], 1):
                    os.write(theirs[1], json.dumps(work()).encode())
            except BaseException:                           # noqa: B902  told to the parent, which compares
                os.write(theirs[1], json.dumps(traceback.format_exc()).encode())
            os._exit(0)
        os.close(channel[0])
        os.close(theirs[1])
        self._go, self._answers = channel[1], theirs[0]
        assert os.read(self._answers, 1) == b"x", "no new user namespace for this user"

    def map(self, which="uid_map"):
        """What the kernel says, as numbers."""
        with open(f"/proc/{self.pid}/{which}", encoding="ascii") as file:
            return [tuple(map(int, line.split())) for line in file]

    def setgroups(self):
        with open(f"/proc/{self.pid}/setgroups", encoding="ascii") as file:
            return file.read().strip()

    def said(self):
        os.write(self._go, b"g")
        with os.fdopen(os.dup(self._answers), encoding="utf-8") as file:
            return json.load(file)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._go)
        os.close(self._answers)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def written(uid_map, gid_map, **options):
    """Both maps of a child after write_maps, and its setgroups."""
    with Parked() as child:
        subids.write_maps(child.pid, uid_map, gid_map, **options)
        return [child.map("uid_map"), child.map("gid_map"), child.setgroups()]


def refused(uid_map, gid_map, **options):
    """The error of write_maps, and that of both maps only a uid map may have been written."""
    with Parked() as child:
        try:
            subids.write_maps(child.pid, uid_map, gid_map, **options)
        except UsageError:
            assert child.map("uid_map") == []
            raise
        finally:
            assert child.map("gid_map") == []
    raise AssertionError("it was written")


def own_ids():
    return os.getuid(), os.getgid()


# --- what is written ---

@needs_ranges
def test_the_usual_map_is_written_and_lets_the_child_be_many(as_user):
    def be_another():
        os.setgroups([2, 3])
        os.setresgid(4, 4, 4)
        os.setresuid(5, 5, 5)
        with open("/proc/self/status", encoding="ascii") as file:
            status = file.read()
        return [os.getuid(), os.getgid(), os.getgroups(), "Uid:\t5\t5\t5\t5" in status]

    def work():
        uid_map, gid_map = subids.rootless_maps()
        with Parked(be_another) as child:
            subids.write_maps(child.pid, uid_map, gid_map)
            assert child.map("uid_map") == [tuple(item) for item in uid_map] and uid_map[0] == (0, os.getuid(), 1)
            assert child.map("gid_map") == [tuple(item) for item in gid_map] and gid_map[0] == (0, os.getgid(), 1)
            assert child.setgroups() == "allow"
            assert subids.needed(uid_map, gid_map, uid=os.geteuid(), gid=os.getegid(),
                                 capabilities=kernel.effective_capabilities())
            return child.said()

    assert as_user(work) == [5, 4, [2, 3], True]


@needs_files
def test_the_ranges_are_those_of_the_files(as_user):
    uid, gid = NOBODY, pwd.getpwuid(NOBODY).pw_gid
    subuid = f"x:1:1\n{RANGE}{uid}:300000:10\n"
    assert as_user(lambda: subids.rootless_maps(), subuid=subuid, subgid="{name}:200000:7") == [
        [[0, uid, 1], [1, 100000, 65536], [65537, 300000, 10]], [[0, gid, 1], [1, 200000, 7]]]


@needs_ranges
def test_setgroups_stays_allowed_but_for_the_own_gid_alone_or_when_denied(as_user):
    def ways():
        uid, gid = own_ids()
        uid_map, gid_map = subids.rootless_maps()
        return [written(uid_map, gid_map)[2], written(uid_map, [(0, gid, 1)])[2],
                written({0: uid}, gid_map)[2], written(uid_map, gid_map, deny_setgroups=True)[2],
                written({0: uid}, {0: gid}, deny_setgroups=True)[2]]

    assert as_user(ways) == ["allow", "deny", "allow", "deny", "deny"]


@needs_files
@pytest.mark.parametrize("lines", [5, 6, 200, 340])
def test_a_map_of_many_lines_is_read_back(as_user, lines):
    """More than five are sorted by the kernel, and more than 124 are more than a page of /proc."""
    def many():
        first = subids.subordinate(UID)[0].start
        rows = [(number, first + 2 * number, 1) for number in reversed(range(lines))]
        return sorted(written(rows, {0: os.getgid()})[0]) == sorted(rows)

    assert as_user(many, subuid="{name}:1000:9000") is True


# --- what is refused, and in whose words ---

@needs_ranges
def test_ids_of_somebody_else_are_refused_by_us(as_user):
    uid, gid = (NOBODY, pwd.getpwuid(NOBODY).pw_gid) if IS_ROOT else own_ids()
    said = as_user(lambda: refused([(0, uid, 1), (1, 0, 1)], {0: gid}))
    assert said["error"] == "UsageError" and said["text"].startswith("uid_map (1, 0, 1): 0 is neither")
    said = as_user(lambda: refused({0: uid}, [(0, 0, 1)]))
    assert said["error"] == "UsageError" and said["text"].startswith("gid_map (0, 0, 1): 0 is neither")
    said = as_user(lambda: refused({0: uid}, [(0, 2**32, 1)]))
    assert said["error"] == "UsageError" and "4294967296" in said["text"]


def verdicts(requests):
    """For each single line of a uid map: what idmap.check_allowed says, and what newuidmap does."""
    found = []
    for row in requests:
        ranges = idmap.check([row])
        try:
            idmap.check_allowed(ranges, os.getuid(), subids.subordinate(UID))
            ours = True
        except UsageError:
            ours = False
        with Parked() as child:
            try:
                subids._run(UID, subids.find_program(UID), child.pid, ranges, PATIENCE)
            except KernelError as error:
                assert "not allowed" in str(error), error
            found.append([ours, child.map() == [row]])
    return found


@needs_files
@pytest.mark.parametrize("content", [
    RANGE, f"{NOBODY}:100000:10\n", "alias:100000:10\n", f"0{NOBODY}:100000:10\n", "# {name}:100000:10\n",
    " {name}:100000:10\n", "{name} :100000:10\n", "{name}:0x186a0:012\n", "{name}: +100000:10\n", "{name}:100000:10 \n",
    "{name}:100000:10\r\n", "{name}:100000:0\n", "{name}:100000\n", "{name}:100000:\n", "{name}:100000:10",
    "{name}:100005:5\n{name}:100000:5\n",
    "{name}:100000:5\n{name}:100003:7\n", "{name}:100000:5\nroot:100005:5\n", f"{{name}}:100000:5\n{NOBODY}:100005:5\n",
    "{name}:100000:4x\n", "+{name}:100000:10\n", "{name}:" + "0" * 1010 + "100000:10\n", "",
    "{name}:100000:18446744073709551616\n", "{name}:65530:10\n", "{name}:4294967290:5\n",
    "\v\n{name}:100000:10\n"], ids=repr)
def test_newuidmap_agrees_with_what_we_refuse(as_user, content):
    with open("/etc/passwd", encoding="utf-8") as file:
        passwd = file.read() + f"alias:x:{NOBODY}:{pwd.getpwuid(NOBODY).pw_gid}::/:/bin/false\n"
    requests = [(0, 100000, 10), (0, 100000, 11), (0, 99999, 2), (7, 100009, 1), (0, NOBODY, 1), (0, NOBODY, 2),
                (0, 0, 1), (0, 4294967290, 5)]
    found = as_user(lambda: verdicts(requests), subuid=content, passwd=passwd)
    assert [ours for ours, _ in found] == [theirs for _, theirs in found]


@needs_files
def test_another_source_decides_itself_and_is_named(as_user):
    """shadow falls back to the files where there is no such plugin, and says so."""
    def both():
        uid, gid = own_ids()
        return written([(0, uid, 1), (1, 100000, 5)], {0: gid})[0]

    assert as_user(both, nsswitch="subid: nsnet\n") == [[0, NOBODY, 1], [1, 100000, 5]]
    said = as_user(lambda: refused([(0, 5, 1)], {0: os.getgid()}), nsswitch="subid: nsnet\n")
    assert (said["error"], said["errno"], said["step"]) == ("KernelError", errno.EPERM, "uid_map")
    assert "uid range [0-1) -> [5-6) not allowed" in said["text"] and "says subid: nsnet" in said["text"]
    said = as_user(lambda: subids.rootless_maps(), nsswitch="subid: nsnet\n")
    assert (said["errno"], said["step"]) == (errno.EOPNOTSUPP, "uid_map")


@needs_ranges
def test_a_map_is_written_once(as_user):
    def twice():
        maps = subids.rootless_maps()
        with Parked() as child:
            subids.write_maps(child.pid, *maps)
            subids.write_maps(child.pid, *maps)

    said = as_user(twice)
    assert (said["error"], said["errno"], said["step"]) == ("KernelError", errno.EPERM, "uid_map")
    assert "newuidmap: write to uid_map failed: Operation not permitted" in said["text"]


@needs_ranges
def test_a_child_that_is_gone_is_an_error(as_user):
    def gone():
        maps = subids.rootless_maps()
        with Parked() as child:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            pid, child.pid = child.pid, 0
            subids.write_maps(pid, *maps)

    said = as_user(gone)
    assert (said["error"], said["errno"], said["step"]) == ("KernelError", errno.EPERM, "uid_map")


@needs_files
def test_a_caller_that_changed_its_uid_can_or_is_told_what_is_wrong(as_user):
    """Its child's files in /proc are root's. Programs that were built without libcap keep root, and can."""
    said = as_user(lambda: written(*subids.rootless_maps())[2], dumpable=False)
    assert said == "allow" or "PR_SET_DUMPABLE" in said["text"]


@needs_files
def test_a_caller_with_another_gid_is_told_what_is_wrong(as_user):
    said = as_user(lambda: refused(*subids.rootless_maps()), gid=12345)
    assert said["step"] == "uid_map" and "owned by a different user" in said["text"]
    assert "gid 12345 is not the one of its passwd entry" in said["text"]


@needs_ranges
def test_no_new_privs_is_named(as_user):
    def bound():
        check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return refused(*subids.rootless_maps())

    said = as_user(bound)
    assert (said["errno"], said["step"]) == (errno.EPERM, "uid_map") and "no_new_privs is set" in said["text"]


# --- how the programs are run; these are not the real ones ---

@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """pretend(script): that is newuidmap from now on; its words in an error, or None."""
    path = tmp_path / "newuidmap"

    def run(script, timeout=PATIENCE):
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(stat.S_IRWXU)
        try:
            subids._run(UID, str(path), os.getpid(), (idmap.Range(0, 4711, 1),), timeout)
        except KernelError as error:
            assert error.step == "uid_map"
            return error
        return None

    return run


def test_a_program_gets_the_numbers_and_nothing_of_ours(pretend, monkeypatch):
    monkeypatch.setenv("NSNET_SECRET", "x")
    monkeypatch.setenv("LD_PRELOAD", "")
    reader, writer = os.pipe()
    leak = fcntl.fcntl(writer, fcntl.F_DUPFD, 50)           # inheritable, and none that a shell opens for itself
    try:
        error = pretend('echo "$@" >&2; exit 1')
        assert f": {os.getpid()} 0 4711 1" in str(error)
        fds = pretend("ls /proc/$$/fd >&2; exit 1").detail.split()
        assert {"0", "1", "2"} <= set(fds) and str(leak) not in fds
        said = pretend("export -p >&2; pwd >&2; exit 1").detail
        assert "NSNET_SECRET" not in said and "LD_PRELOAD" not in said and "LC_ALL='C'" in said and said.endswith(" /")
        assert pretend("cat >&2; exit 1").detail.endswith("newuidmap failed without a word")
    finally:
        for fd in (reader, writer, leak):
            os.close(fd)


def test_a_program_that_says_it_did_and_did_not_is_not_believed(pretend):
    error = pretend("exit 0")
    assert error.errno == errno.EPERM and "failed without a word" in str(error)


def test_a_status_that_somebody_else_collected_is_not_success(pretend):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        error = pretend("echo newuidmap: no >&2; exit 1")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert error.errno == errno.EPERM and "newuidmap: no" in str(error)


def test_a_program_that_hangs_is_ended(pretend):
    begun = time.monotonic()
    error = pretend("exec sleep 1000", timeout=0.2)
    assert error.errno == errno.ETIMEDOUT and "did not end within 0.2 s" in str(error)
    assert time.monotonic() - begun < PATIENCE


def test_a_program_that_is_killed_is_said_to_be(pretend):
    error = pretend("echo so far >&2; kill -9 $$")
    assert error.errno == errno.EIO and "signal 9 ended" in str(error) and str(error).endswith("so far")


def test_a_program_that_cannot_be_run_is_an_error(tmp_path):
    with pytest.raises(KernelError) as caught:
        subids._run(UID, str(tmp_path / "none"), os.getpid(), (idmap.Range(0, 0, 1),), PATIENCE)
    assert (caught.value.errno, caught.value.step) == (errno.ENOENT, "uid_map")


@pytest.mark.parametrize("kind", [UID, GID], ids=["uid", "gid"])
def test_the_real_programs_are_found_without_a_path(kind, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert os.path.basename(subids.find_program(kind)) == kind.program


# --- spawn uses them ---

@needs_ranges
def test_spawn_gives_an_ordinary_user_its_rootless_maps(as_user):
    def work():
        uids, gids = nsnet.rootless_maps()
        script = "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; grep -E '^(Uid|Gid|Groups)' /proc/self/status"
        with nsnet.spawn(["/bin/sh", "-c", script], new={"user", "net", "pid"}, uid_map=uids, gid_map=gids, user=5, group=6,
                         groups=[7, 8], stdout=nsnet.PIPE) as process:
            text = process.communicate()[0].decode()
        return [uids, gids, text]
    uids, gids, text = as_user(work)
    lines = [line.split() for line in text.splitlines()]
    assert lines[:len(uids)] == [[str(number) for number in item] for item in uids]
    assert lines[len(uids):len(uids) + len(gids)] == [[str(number) for number in item] for item in gids]
    assert lines[-4] == ["allow"]
    assert [line[1:] for line in lines[-3:]] == [["5"] * 4, ["6"] * 4, ["7", "8"]]


@needs_files
def test_spawn_refuses_what_is_not_the_users_and_leaves_nothing(as_user):
    def work():
        try:
            nsnet.spawn(["/bin/true"], new={"user"}, uid_map=[(0, 99999, 2)], gid_map={0: os.getgid()})
        except UsageError as error:
            return [str(error), sorted(children())]
    said, left = as_user(work)
    assert "99999 is neither the caller's own id" in said and left == []


@needs_files
def test_a_map_of_hundreds_of_lines_is_read_whole(as_user):
    """/proc gives a page of it at a time."""
    lines = [(2 * number, 100000 + 2 * number, 1) for number in range(280)]

    def work():
        with nsnet.spawn(["/bin/cat"], new={"user"}, uid_map=lines, gid_map=lines, stdin=nsnet.PIPE) as process:
            return len(idmap.parse(kernel.read_file(f"/proc/{process.pid}/uid_map")))
    assert as_user(work) == 280

"""Range maps without privilege: when the programs are needed, which can work, what is refused before they run."""

import errno
import os
import struct
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import one_line
from test_idmap import FILES, NUMBERS, ROWS

from nsnet import idmap, subids
from nsnet.errors import KernelError, UsageError
from nsnet.idmap import Range
from nsnet.subids import GID, UID

KINDS = pytest.mark.parametrize("kind", [UID, GID], ids=["uid", "gid"])
OWN, RANGE = (Range(0, 1000, 1),), (Range(0, 1000, 1), Range(1, 100000, 65536))


@pytest.fixture
def alice(monkeypatch, tmp_path):
    """The caller is alice, 1000:1000, whatever the machine says. `write(subuid=..., subgid=...)`: what /etc has."""
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 1000)
    users = {"alice": 1000, "alias": 1000, "bob": 1001}
    by_name = {name: SimpleNamespace(pw_name=name, pw_uid=uid, pw_gid=uid) for name, uid in users.items()}
    monkeypatch.setitem(sys.modules, "pwd", SimpleNamespace(getpwnam=by_name.__getitem__,
                                                            getpwuid={1000: by_name["alice"]}.__getitem__))

    def write(**files):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))

    switch = str(tmp_path / "nsswitch.conf")
    monkeypatch.setattr(subids, "source", lambda: idmap.subid_source(subids._read(switch)))
    monkeypatch.setattr(subids, "UID", UID._replace(path=str(tmp_path / "subuid")))
    monkeypatch.setattr(subids, "GID", GID._replace(path=str(tmp_path / "subgid")))
    return write


@pytest.fixture
def nothing_runs(monkeypatch):
    def run(*_, **__):
        raise AssertionError("a program was run")

    monkeypatch.setattr("subprocess.run", run)


def kernel_error(function, *arguments, **options):
    with pytest.raises(KernelError) as caught:
        function(*arguments, **options)
    assert one_line(str(caught.value))
    return caught.value


# --- when ---

@pytest.mark.parametrize("uid_map, gid_map, powers, expected", [
    (OWN, OWN, 0, False), (RANGE, OWN, 0, True), (OWN, RANGE, 0, True), (RANGE, RANGE, 0, True),
    (RANGE, RANGE, 1 << 6 | 1 << 7, False), (RANGE, OWN, 1 << 7, False), (OWN, RANGE, 1 << 7, True),
    (RANGE, OWN, 1 << 6, True), (OWN, RANGE, 1 << 6, False), (RANGE, RANGE, ~(1 << 6 | 1 << 7), True)])
def test_when_the_programs_are_needed(uid_map, gid_map, powers, expected):
    assert subids.needed(uid_map, gid_map, uid=1000, gid=1000, capabilities=powers) is expected


def test_the_id_of_somebody_else_needs_them():
    assert subids.needed(OWN, OWN, uid=1001, gid=1000, capabilities=0)
    assert subids.needed(OWN, OWN, uid=1000, gid=1001, capabilities=0)


# --- whose ranges ---

def test_ranges_are_found_by_name_and_by_number(alice):
    alice(subuid="bob:1:1\nalice:100000:65536\n1000:300000:10\nalias:5:5\n", subgid="1000:200000:65536\n")
    assert [entry.start for entry in subids.subordinate(subids.UID)] == [100000, 300000]
    assert subids.rootless_maps() == (((0, 1000, 1), (1, 100000, 65536), (65537, 300000, 10)),
                                      ((0, 1000, 1), (1, 200000, 65536)))


def test_ranges_of_another_name_of_the_same_number_are_found(alice):
    alice(subuid="nobody-knows:1:1\nbob:2:1\nalias:5:5\n")
    assert [entry.start for entry in subids.subordinate(subids.UID)] == [5]


@pytest.mark.parametrize("files", [{}, {"subuid": "alice:100000:65536"}, {"subuid": "bob:1:1", "subgid": "alice:1:1"}])
def test_who_has_no_range_is_told_where_to_get_one(alice, files):
    alice(**files)
    error = kernel_error(subids.rootless_maps)
    kind = subids.GID if "alice" in files.get("subuid", "") else subids.UID
    assert (error.errno, error.step) == (errno.ENOENT, kind.step)
    assert f"{kind.path} has no range for uid 1000 (alice)" in str(error) and f"--add-sub{kind.step[:3]}s" in str(error)


def test_another_source_is_named(alice):
    alice(**{"subuid": "alice:100000:65536", "nsswitch.conf": "subid: sss\n"})
    error = kernel_error(subids.rootless_maps)
    assert (error.errno, error.step) == (errno.EOPNOTSUPP, "uid_map") and "says subid: sss" in str(error)


@given(content=FILES)
def test_any_file_is_a_map_or_one_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any-subuid"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    entries = idmap.parse_subids(subids._read(str(path)))
    assert idmap.check(idmap.rootless(1000, idmap.subids_of(entries, subids._owners(1000, entries))))


# --- which program ---

def program(directory, kind, mode=0o755):
    directory.mkdir(exist_ok=True)
    path = directory / kind.program
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(mode)
    return str(path)


@pytest.fixture
def only_path(monkeypatch, tmp_path):
    """PATH is two directories of this test, and there are no usual places."""
    monkeypatch.setattr(subids, "USUAL_PLACES", ())
    monkeypatch.setenv("PATH", f"{tmp_path / 'one'}:relative::{tmp_path / 'two'}")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=0))
    return tmp_path


def with_capability(monkeypatch, found):
    """Files have the capabilities that `found` says, {path: bits}, as the kernel stores them (VFS_CAP_REVISION_2)."""
    def getxattr(path, name):
        assert name == "security.capability"
        if path not in found:
            raise OSError(errno.ENODATA, "")
        return struct.pack("<IIIII", 0x02000001, found[path], 0, 0, 0)

    monkeypatch.setattr(os, "getxattr", getxattr)


@KINDS
def test_where_there_is_no_program_its_package_is_named(only_path, kind):
    error = kernel_error(subids.find_program, kind)
    assert (error.errno, error.step) == (errno.ENOENT, kind.step)
    assert f"no {kind.program} in PATH" in str(error) and "uidmap (Debian)" in str(error)


@KINDS
def test_a_program_without_privilege_is_told_from_one_that_has_it(only_path, kind, monkeypatch):
    one, two = program(only_path / "one", kind), program(only_path / "two", kind)
    with_capability(monkeypatch, {})
    error = kernel_error(subids.find_program, kind)
    assert (error.errno, error.step) == (errno.EPERM, kind.step)
    assert f"{one} is neither setuid root nor has the file capability {kind.capability}" in str(error)
    other = GID if kind is UID else UID
    with_capability(monkeypatch, {one: other.power, two: kind.power})
    assert subids.find_program(kind) == two


def test_a_setuid_program_must_be_roots(only_path, monkeypatch):
    path = program(only_path / "one", UID, 0o4755)
    with_capability(monkeypatch, {})
    real = os.stat

    def owned_by(uid):
        def status(path, *arguments, **options):
            found = real(path, *arguments, **options)
            return SimpleNamespace(st_uid=uid, st_mode=found.st_mode)
        monkeypatch.setattr(subids.os, "stat", status)

    owned_by(0)
    assert subids._powerless(path, UID) is None
    owned_by(65534)                     # root's, seen from a user namespace without root
    assert "neither setuid root" in subids._powerless(path, UID)


def test_what_keeps_a_program_from_its_privilege_is_named(only_path, monkeypatch):
    path = program(only_path / "one", GID)
    with_capability(monkeypatch, {path: GID.power})
    monkeypatch.setattr(os, "getuid", lambda: 1000)

    def status(text):
        monkeypatch.setattr(subids, "_read", lambda path: text)
        return subids._powerless(path, GID)

    assert status("Name:\tx\nNoNewPrivs:\t0\nCapBnd:\t000001ffffffffff\n") is None
    assert "no_new_privs" in status("NoNewPrivs:\t1\nCapBnd:\t000001ffffffffff\n")
    assert "cap_setgid is not in the bounding set" in status("NoNewPrivs:\t0\nCapBnd:\t0000000000000080\n")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOSUID))
    assert "nosuid" in status("")


@pytest.mark.parametrize("value", [b"", b"\1\0\0\2", b"\1\0\0\2\x80"])
def test_a_capability_that_is_cut_is_none(monkeypatch, value):
    monkeypatch.setattr(os, "getxattr", lambda path, name: value)
    assert subids._file_capabilities("/x") == 0


# --- before anything runs ---

@pytest.mark.parametrize("which, rows, named", [
    ("uid_map", [(0, 1000, 1), (1, 200000, 5)], "uid_map (1, 200000, 5): 200000 is neither"),
    ("gid_map", [(0, 1001, 1)], "gid_map (0, 1001, 1): 1001 is neither"),
    ("uid_map", [(0, 2**32, 1)], "4294967296"), ("gid_map", [(0, 100000, 65537)], "165536")])
def test_ids_of_others_are_refused_before_anything_runs(alice, nothing_runs, which, rows, named):
    alice(subuid="alice:100000:65536", subgid="alice:100000:65536")
    maps = {"uid_map": OWN, "gid_map": OWN, which: rows}
    with pytest.raises(UsageError) as caught:
        subids.write_maps(1, **maps)
    assert named in str(caught.value) and one_line(str(caught.value))


@pytest.mark.parametrize("pid", [0, -1, True, "1", None, 1.0])
def test_what_is_no_pid_is_refused(nothing_runs, pid):
    with pytest.raises(UsageError, match="pid"):
        subids.write_maps(pid, OWN, OWN)


@given(ROWS, ROWS, NUMBERS)
def test_whatever_is_asked_nothing_runs_but_for_a_map_that_is_allowed(uid_map, gid_map, pid):
    """Every file is empty: only the own single id is left, and for that a program is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subids, "_read", lambda path: "")
        patch.setattr(subids, "USUAL_PLACES", ())
        patch.setenv("PATH", "")
        try:
            subids.write_maps(pid, uid_map, gid_map)
        except UsageError as error:
            assert one_line(str(error))
        except KernelError as error:
            assert (error.errno, error.step) == (errno.ENOENT, "uid_map")
            assert all(item[1:] == (os.getuid(), 1) for item in uid_map)
            assert all(item[1:] == (os.getgid(), 1) for item in gid_map)
        else:
            raise AssertionError("it cannot have written anything")


def test_who_has_no_passwd_entry_is_told_so(alice, nothing_runs, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    error = kernel_error(subids.write_maps, 1, {0: 4711}, OWN)
    assert error.errno == errno.EPERM and "uid 4711 has no passwd entry" in str(error)


@given(st.binary(max_size=400))
def test_what_a_program_says_becomes_one_line(words):
    line = subids._one_line(words)
    assert len(line) <= subids.MAX_WORDS and line.isprintable()
    assert subids._one_line(b" newuidmap:\n write failed\x1b[31m\n") == "newuidmap: write failed?[31m"


@pytest.mark.parametrize("words, named", [
    ("newuidmap: open of uid_map failed: Permission denied", "PR_SET_DUMPABLE"),
    ("newuidmap: write to uid_map failed: Operation not permitted", "/proc/self/uid_map"),
    ("newuidmap: whatever", "see /etc/subuid and newuidmap(1)")])
def test_a_failure_of_the_program_has_a_hint(alice, monkeypatch, words, named):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(subids.os, "stat", lambda path: SimpleNamespace(st_uid=0))
    assert named in subids._why(UID, 4711, words)


def test_the_group_of_the_caller_is_a_hint(alice, monkeypatch):
    monkeypatch.setattr(os, "getgid", lambda: 20)
    assert "gid 20 is not the one of its passwd entry" in subids._why(UID, 4711, "owned by a different user")


def test_who_is_gone_has_no_hint(alice):
    assert subids._why(UID, 2**22 + 1, "newuidmap: open of uid_map failed: Permission denied") is None

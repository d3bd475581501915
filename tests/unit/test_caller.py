"""What is known of the caller: asked once, anew after a fork, and not kept while it may still change."""

import os

import pytest

from nsnet import caller, kernel

MAPS = {"/proc/self/uid_map": "0 1000 1\n",
        "/proc/self/gid_map": "0 1000 1\n5 70 2\n", "/proc/self/setgroups": "deny\n"}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """Nothing is remembered from before, and nothing of this afterwards."""
    monkeypatch.setattr(caller, "_ids", {})
    monkeypatch.setattr(caller, "_proc", {})
    caller.started.cache_clear()
    yield
    caller.started.cache_clear()


@pytest.fixture
def files(monkeypatch):
    """{path: content} of what is read instead of what is there; under "asked": what was asked for."""
    instead, real = {"asked": []}, kernel.read_file

    def read_file(path):
        instead["asked"].append(path)
        return instead[path] if path in instead else real(path)

    monkeypatch.setattr(kernel, "read_file", read_file)
    return instead


def in_a_fork(function):
    """What it returns there, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, repr(function()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        answer = told.read()
    os.waitpid(pid, 0)
    return answer


# --- ids ---

def test_ids_are_those_of_the_maps_and_asked_once(files):
    files.update(MAPS)
    found = caller.ids()
    assert [tuple(one) for one in found.uids] == [(0, 1000, 1)]
    assert [tuple(one) for one in found.gids] == [(0, 1000, 1), (5, 70, 2)] and not found.setgroups
    files.update({path: "" for path in MAPS})
    assert caller.ids() is found and len(files["asked"]) == 3


@pytest.mark.parametrize("empty", ["/proc/self/uid_map", "/proc/self/gid_map"])
def test_ids_of_a_namespace_whose_maps_are_not_both_written_are_asked_again(files, empty):
    files.update(MAPS)
    files[empty] = ""
    files["/proc/self/setgroups"] = "allow\n"
    assert caller.ids().setgroups
    files.update(MAPS)
    found = caller.ids()
    assert found.uids and found.gids and not found.setgroups


def test_ids_of_another_namespace_are_asked_for(files, monkeypatch):
    files.update(MAPS)
    before = caller.ids()
    monkeypatch.setattr(os, "readlink", lambda path: "user:[1]")
    files["/proc/self/uid_map"] = "0 0 4294967295\n"
    assert caller.ids().uids != before.uids
    monkeypatch.undo()


# --- processes ---

def test_when_it_started_is_asked_once_and_anew_after_a_fork(monkeypatch):
    asked, real = [], kernel.started
    monkeypatch.setattr(kernel, "started", lambda pid: asked.append(pid) or real(pid))
    assert caller.started() == caller.started() == real(os.getpid()) and asked == [os.getpid()]
    said = in_a_fork(lambda: (caller.started() == real(os.getpid()), asked == [os.getppid(), os.getpid()]))
    assert said == "(True, True)"


@pytest.fixture
def pidfd():
    with kernel.Descriptor.of(os.pidfd_open, os.getpid()) as own:
        yield own.fileno()


def test_a_number_is_that_of_proc(pidfd):
    assert caller.proc_number(pidfd, os.getpid()) == kernel.proc_pid(pidfd)


@pytest.mark.parametrize("said, trusted", [
    ("NSpid:\t{pid}\n", True),
    ("NSpid:\t7\t{pid}\n", False),      # /proc is of a pid namespace farther out: it has other numbers
    ("NSpid:\t0\n", False), ("Pid:\t0\n", False), ("", False)])
def test_a_number_is_ours_only_where_proc_was_mounted_for_our_pid_namespace(monkeypatch, files, pidfd, said, trusted):
    real = kernel.read_file
    monkeypatch.setattr(kernel, "read_file", lambda path: files["asked"].append(path) or said.format(pid=os.getpid()))
    monkeypatch.setattr(kernel, "proc_pid", lambda fd: 4711)
    for _ in range(3):
        assert caller.proc_number(pidfd, 12) == (12 if trusted else 4711)
    assert len(files["asked"]) == 1 and real is not kernel.read_file


def test_another_proc_is_asked_anew_and_so_does_a_fork(monkeypatch, pidfd):
    asked = []
    monkeypatch.setattr(caller, "_has_our_numbers", lambda: asked.append(os.getpid()) or True)
    caller.proc_number(pidfd, 1)
    assert in_a_fork(lambda: (caller.proc_number(pidfd, 1), asked == [os.getppid(), os.getpid()])) == "(1, True)"
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path: real("/") if path == "/proc" else real(path))
    caller.proc_number(pidfd, 1)
    assert asked == [os.getpid()] * 2
    monkeypatch.undo()


def test_no_proc_is_an_error_of_ours(monkeypatch, pidfd):
    def stat(path):
        raise FileNotFoundError(2, "No such file or directory")
    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(kernel.KernelError, match="read /proc"):
        caller.proc_number(pidfd, 1)
    monkeypatch.undo()

"""`nsnet exec`: into the namespaces of a process, of a container, of a network namespace with a name."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

import nsnet
from live_helpers import (IS_ROOT, PYTHON, Running, become_nobody, environment, has_ended, namespace_of, needs_root,
                          nsnet_argv, public_copy)

KINDS = ["user", "net", "pid", "mnt", "uts", "ipc", "cgroup"]
SHOW = ["/usr/bin/stat", "-Lc", "%i", *(f"/proc/self/ns/{kind}" for kind in KINDS)]


def enter(state, *words, **options):
    """`nsnet exec WORDS` to its end."""
    options.setdefault("timeout", 60)
    return subprocess.run(nsnet_argv("exec", *words), env=environment(state), stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def namespaces_of(done):
    assert done.returncode == 0, done.stderr
    return dict(zip(KINDS, map(int, done.stdout.split())))


def refused(done, code=1):
    """What it says in the one line that it ends with."""
    assert done.returncode == code and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("nsnet: ")
    return done.stderr


@contextmanager
def waiting(*kinds, **options):
    """A process in namespaces of its own."""
    uids, gids = nsnet.own_maps()
    box = nsnet.spawn(["/bin/sleep", "1000"], new=kinds, uid_map=uids, gid_map=gids, **options)
    try:
        yield box
    finally:
        box.kill()
        box.wait()
        box.close()


@contextmanager
def containers(host, *names):
    """A network "nsnet-x" with a container for each name."""
    with nsnet.Network("nsnet-x", address="10.0.0.1/24", netns=host) as network:
        yield [network.launch(["/bin/sleep", "1000"], address=f"10.0.0.{number}/24", host_ifname=name)
               for number, name in enumerate(names, 2)]


# --- a process ---

def test_all_namespaces_that_differ_are_entered(state):
    with waiting(*KINDS, proc=True) as box:
        assert namespaces_of(enter(state, "--pid", box.pid, "--", *SHOW)) == {
            kind: namespace_of(box.pid, kind) for kind in KINDS}
    with waiting("user", "uts") as box:
        found = namespaces_of(enter(state, "--pid", box.pid, "--", *SHOW))
        assert {kind for kind in KINDS if found[kind] != namespace_of("self", kind)} == {"user", "uts"}


def test_kinds_choose_what_is_entered(state):
    with waiting("user", "net", "uts") as box:
        found = namespaces_of(enter(state, "--pid", box.pid, "--kinds", "user,uts", "--", *SHOW))
        assert {kind for kind in KINDS if found[kind] != namespace_of("self", kind)} == {"user", "uts"}
        done = enter(state, "--pid", box.pid, "--kinds", "net", "--", *SHOW)
        if IS_ROOT:
            assert namespaces_of(done)["user"] == namespace_of("self", "user")
        else:
            assert "--kinds" in refused(done)
        assert "nothing to enter" in refused(enter(state, "--pid", box.pid, "--kinds", "ipc,mnt", "--", "/bin/true"))


def test_the_command_is_root_there_without_capabilities(state):
    show = ["/bin/sh", "-c", "id -u; grep -E '^(CapEff|NoNewPrivs):' /proc/self/status; echo $ONE; umask"]
    with waiting("user", "net") as box:
        done = enter(state, "--pid", box.pid, "--env", "ONE=1", "--umask", "77", "--", *show)
        assert done.stdout.split() == ["0", "CapEff:", "0" * 16, "NoNewPrivs:", "1", "1", "0077"]
        done = enter(state, "--pid", box.pid, "--cap", "net_admin", "--", *show)
        assert done.stdout.split()[2] == f"{1 << 12:016x}"


def test_where_there_is_no_root_the_ids_are_to_be_chosen(state):
    (((_, uid, _),), ((_, gid, _),)) = nsnet.own_maps()
    with nsnet.spawn(["/bin/sleep", "1000"], new={"user"}, uid_map={7: uid}, gid_map={8: gid}) as box:
        said = refused(enter(state, "--pid", box.pid, "--", "/bin/true"))
        done = enter(state, "--pid", box.pid, "--user", "7", "--group", "8", "--", "/bin/sh", "-c", "id -u; id -g")
        box.kill()
    assert "--user" in said and done.stdout.split() == ["7", "8"]


def test_the_directory_in_a_mount_namespace_is_its_root(state, tmp_path):
    with waiting("user", "mnt") as box:
        assert enter(state, "--pid", box.pid, "--", "/bin/pwd", cwd=tmp_path).stdout == "/\n"
        assert enter(state, "--pid", box.pid, "--cwd", "/usr", "--", "/bin/pwd", cwd=tmp_path).stdout == "/usr\n"
        assert "'nsnet-no-such'" in refused(enter(state, "--pid", box.pid, "--env", "PATH=/bin", "--", "nsnet-no-such"),
                                           127)
    with waiting("user", "uts") as box:
        assert enter(state, "--pid", box.pid, "--", "/bin/pwd", cwd=tmp_path).stdout == f"{tmp_path}\n"


def test_a_command_in_a_pid_namespace_is_attended_like_any_other(state):
    with waiting("user", "pid", "mnt", proc=True) as box:
        show = "import os, time; os.write(1, b'ready\\n'); time.sleep(1000)"
        with Running(None, state, "exec", "--pid", box.pid, "--", *PYTHON, "-c", show) as runner:
            assert runner.line() == "ready\n"
            runner.signal(signal.SIGTERM)
            assert runner.end()[0] == 143               # it is no init: the kernel does not keep signals from it
        assert enter(state, "--pid", box.pid, "--", "/bin/sh", "-c", "exit 4").returncode == 4


@pytest.mark.parametrize("with_parent", [True, False])
def test_after_sigkill_a_command_goes_on_unless_it_shall_not(state, with_parent):
    more = ["--kill-with-parent"] if with_parent else []
    with waiting("user", "net") as box:
        with Running(None, state, "exec", "--pid", box.pid, *more, "--", "/bin/sh", "-c",
                     "trap 'echo alive' USR1; echo $$; while :; do sleep 0.05; done") as runner:
            pid = int(runner.line())
            pidfd = os.pidfd_open(pid)
            try:
                runner.signal(signal.SIGKILL)
                if not with_parent:
                    runner.popen.wait()
                    signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
                    assert runner.line() == "alive\n"
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                assert has_ended(pidfd)
            finally:
                os.close(pidfd)


def test_a_process_that_is_not_there_is_said(state):
    with waiting("user") as box:
        pid = box.pid
    assert str(pid) in refused(enter(state, "--pid", pid, "--", "/bin/true"))


def test_a_process_in_the_callers_namespaces_is_none_to_enter(state):
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        try:
            assert "nothing to enter" in refused(enter(state, "--pid", process.pid, "--", "/bin/true"))
        finally:
            process.kill()


# --- a container ---

def test_a_container_by_its_ifname_or_by_its_bridge(state, host):
    with containers(host, "nsnet-x0") as (container,):
        for name in ("nsnet-x0", "nsnet-x"):
            found = namespaces_of(enter(state, name, "--", *SHOW))
            assert {kind for kind in KINDS if found[kind] != namespace_of("self", kind)} == {"user", "net"}
            assert [found[kind] for kind in ("user", "net")] == [
                namespace_of(container.pid, kind) for kind in ("user", "net")]
            done = enter(state, name, "--", "/bin/cat", "/proc/net/dev")
            assert {line.split(":")[0].strip() for line in done.stdout.splitlines()[2:]} == {"lo", "eth0"}
        assert enter(state, "nsnet-x0", "--json", "--", "/bin/sh", "-c", "exit 5").returncode == 5


def test_a_name_of_several_or_of_none_lists_what_there_is(state, host):
    with containers(host, "nsnet-x0", "nsnet-x1") as (one, two):
        said = refused(enter(state, "nsnet-x", "--", "/bin/true"))
        for part in (f"nsnet-x0 on nsnet-x (process {one.pid})", f"nsnet-x1 on nsnet-x (process {two.pid})"):
            assert part in said
            assert part in refused(enter(state, "nsnet-y", "--", "/bin/true"))
        one.kill()
        one.wait()
        assert "nsnet-x0 on" not in refused(enter(state, "nsnet-x0", "--", "/bin/true"))
        assert namespaces_of(enter(state, "nsnet-x", "--", *SHOW))["net"] == namespace_of(two.pid, "net")
    assert "there is none" in refused(enter(state, "nsnet-x0", "--", "/bin/true")) or os.path.isdir("/run/netns")


def test_a_claim_that_makes_no_sense_is_passed_over(state, host):
    with containers(host, "nsnet-x0") as (container,):
        bad = [b"", b"[]", b"\xff", b"{" * 100000, b'{"version": 1}', b'{"version": 1, "attachments": []}']
        files = [state / f"{number:012x}.json" for number in range(len(bad))]
        for file, content in zip(files, bad):
            file.write_bytes(content)
        try:
            assert namespaces_of(enter(state, "nsnet-x0", "--", *SHOW))["net"] == namespace_of(container.pid, "net")
        finally:
            for file in files:
                file.unlink()


@needs_root
def test_what_belongs_to_others_is_refused_by_the_kernel(state):
    with waiting("user", "net") as box:
        if public_copy() is None:
            pytest.skip("no copy of nsnet that another user can run")
        interpreter, directory = public_copy()
        argv = [interpreter, "-m", "nsnet", "exec", "--pid", str(box.pid), "--", "/bin/true"]
        done = subprocess.run(argv, preexec_fn=become_nobody, env={"PYTHONPATH": directory}, cwd="/", text=True,
                              stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        assert "EACCES" in refused(done)


# --- a network namespace ---

def test_a_network_namespace_by_a_file(state, host):
    with waiting("user", "net") as box:
        path = f"/proc/{box.pid}/ns/net"
        found = namespaces_of(enter(state, "--netns", path, "--", *SHOW))
        assert (found["user"], found["net"]) == (namespace_of(box.pid, "user"), namespace_of(box.pid, "net"))
        assert "nothing to enter" in refused(enter(state, "--netns", "/proc/self/ns/net", "--", "/bin/true"))
    assert "--netns '/etc/passwd'" in refused(enter(state, "--netns", "/etc/passwd", "--", "/bin/true"), 2)
    assert "/no/such" in refused(enter(state, "--netns", "/no/such", "--", "/bin/true"))


# In mount and user namespaces of its own, where /run is empty: pins a namespace with a link in it, and goes there.
PINNER = """
import ctypes, os, subprocess, sys
import nsnet
from nsnet import pins
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(b"none", b"/run", b"tmpfs", 0, b"mode=755") == 0, os.strerror(ctypes.get_errno())
with nsnet.Netns.new() as netns:
    netns.add_bridge("nsnet-d0")
    pins.pin(netns.fd, "blue")

def enter(*words):
    done = subprocess.run([sys.executable, "-m", "nsnet", "exec", *words], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    said = done.stdout
    print(done.returncode, "nsnet-d0" in said, said.count("\\n") == 1 and "blue" in said, flush=True)

enter("blue", "--", "cat", "/proc/self/net/dev")
enter("--netns", "blue", "--", "cat", "/proc/self/net/dev")
enter("--netns", "/run/netns/blue", "--", "cat", "/proc/self/net/dev")
enter("--netns", "red", "--", "cat", "/proc/self/net/dev")
enter("red", "--", "cat", "/proc/self/net/dev")
pins.unpin("blue")
"""


def test_a_network_namespace_by_its_name(state):
    uids, gids = nsnet.own_maps()
    with nsnet.spawn([sys.executable, "-c", PINNER], new={"user", "mnt", "net"}, uid_map=uids, gid_map=gids,
                     capabilities={"sys_admin", "net_admin"}, env=environment(state), stdout=nsnet.PIPE) as box:
        out, _ = box.communicate(timeout=60)
    assert out.decode().splitlines() == ["0 True False"] * 3 + ["1 False True"] * 2

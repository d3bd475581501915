"""Names for network namespaces, beside `ip netns`. Each test has a mount namespace, and a /run, of its own in a process of its own."""

import os
import subprocess
import sys
import textwrap

import pytest

import nsnet
from live_helpers import IS_ROOT, PATIENCE, TREE, environment, needs, which

PRELUDE = f"""
import ctypes, errno, os, signal, subprocess, sys
sys.path.insert(0, {str(TREE)!r})
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
LIBC = ctypes.CDLL(None, use_errno=True)
def need(result):
    assert result == 0, os.strerror(ctypes.get_errno())
IS_ROOT = {IS_ROOT}
uid, gid = os.geteuid(), os.getegid()
need(LIBC.unshare(0x20000 | 0x40000000 | (0 if IS_ROOT else 0x10000000)))       # mounts, net, and a user namespace
if not IS_ROOT:
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {{uid}} 1"), ("gid_map", f"0 {{gid}} 1")):
        with open(f"/proc/self/{{name}}", "w") as file:
            file.write(text)
need(LIBC.mount(b"none", b"/", None, 0x4000 | 1 << 18, None))                   # MS_REC | MS_PRIVATE
need(LIBC.mount(b"run", b"/run", b"tmpfs", 0, b"mode=755"))
import nsnet
from nsnet import pins
from live_helpers import descriptors
def ip(*words):
    return subprocess.run([{which("ip")!r}, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
def refusal(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except nsnet.NsnetError as error:
        return error
    raise AssertionError("not refused")
"""


def in_a_run_of_its_own(body):
    done = subprocess.run([sys.executable, "-c", PRELUDE + textwrap.dedent(body)], env=environment("/nonexistent"),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout


def test_a_pinned_namespace_outlives_its_holder_and_is_found_by_name():
    in_a_run_of_its_own("""
        made = nsnet.Netns.new()
        before, identity = descriptors(), made.identity
        assert made.pin("blue") == "/run/netns/blue" and pins.pinned() == ["blue"]
        made.add_bridge("br0")
        assert descriptors().keys() <= before.keys() | {made.fd}
        made.close()
        again = nsnet.Netns.open("/run/netns/blue")
        assert again.identity == identity and again.link("br0").ifname == "br0"
        again.close()
        nsnet.Netns.unpin("blue")
        assert pins.pinned() == [] and os.listdir("/run/netns") == []
    """)


@needs("ip")
@pytest.mark.skipif(not IS_ROOT, reason="needs root: ip netns mounts /sys, which a user namespace may not")
def test_ip_netns_sees_ours_and_we_see_its():
    in_a_run_of_its_own("""
        with nsnet.Netns.new() as made:
            made.pin("ours")
        assert ip("netns", "add", "theirs").returncode == 0
        assert ip("netns", "list").stdout.split() == ["theirs", "ours"] and pins.pinned() == ["ours", "theirs"]
        with nsnet.Netns.open("/run/netns/theirs") as theirs:
            theirs.add_bridge("br0")
        assert "br0" in ip("-n", "theirs", "link").stdout
        assert "lo" in ip("netns", "exec", "ours", "/bin/cat", "/proc/net/dev").stdout
        assert ip("netns", "delete", "ours").returncode == 0
        nsnet.Netns.unpin("theirs")
        assert pins.pinned() == [] and ip("netns", "list").stdout == ""
    """)


def test_what_is_in_the_way_is_said_and_left_alone():
    in_a_run_of_its_own("""
        with nsnet.Netns.new() as made:
            assert refusal(nsnet.Netns.unpin, "blue").errno == errno.ENOENT
            nsnet.Netns.unpin("blue", missing_ok=True)
            made.pin("blue")
            for taken in ("blue",):
                error = refusal(made.pin, taken)
                assert (error.step, error.errno) == ("pin", errno.EEXIST)
            with open("/run/netns/note", "w") as file:
                file.write("not a pin")
            os.mkdir("/run/netns/directory")
            os.mkfifo("/run/netns/fifo")
            os.symlink("/run/netns/blue", "/run/netns/link")
            for name in ("note", "directory", "fifo"):
                assert refusal(nsnet.Netns.unpin, name).errno == errno.EINVAL, name
            assert refusal(nsnet.Netns.unpin, "link").errno == errno.ELOOP
            assert pins.pinned() == ["blue"]
            assert sorted(os.listdir("/run/netns")) == ["blue", "directory", "fifo", "link", "note"]
            os.close(os.open("/run/netns/half", os.O_CREAT | os.O_WRONLY, 0))           # a pin() that was killed
            nsnet.Netns.unpin("half")
            assert not os.path.exists("/run/netns/half")
    """)


def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_made():
    in_a_run_of_its_own("""
        with nsnet.Netns.new() as made:
            for name in ("", ".", "..", "../x", "a/b", "-rf", "a b", "a\\0b", "x" * 256, "\\x1b[2J", None, 7):
                assert isinstance(refusal(made.pin, name), nsnet.UsageError), name
                assert isinstance(refusal(nsnet.Netns.unpin, name), nsnet.UsageError), name
        assert not os.path.exists("/run/netns")
    """)


def test_a_directory_that_others_can_write_to_is_refused():
    in_a_run_of_its_own("""
        os.mkdir("/run/netns")
        os.chmod("/run/netns", 0o777)
        with nsnet.Netns.new() as made:
            assert "/run/netns" in str(refusal(made.pin, "blue"))
            os.chmod("/run/netns", 0o755)
            os.rename("/run/netns", "/run/other")
            os.symlink("/run/other", "/run/netns")
            assert refusal(made.pin, "blue").step == "pin"
        assert os.listdir("/run/other") == []
    """)


def test_a_pin_reaches_the_mount_namespaces_that_are_already_there():
    """One made before, by a process that came after the directory was a mount; it sees the pin come and go."""
    in_a_run_of_its_own("""
        with nsnet.Netns.new() as made:
            made.pin("first")
            reader, writer = os.pipe()
            back, answer = os.pipe()
            pid = os.fork()
            if pid == 0:
                need(LIBC.unshare(0x20000))
                os.write(answer, b"x")
                for _ in range(2):
                    os.read(reader, 1)
                    os.write(answer, b"%d" % len(pins.pinned()))
                os._exit(0)
            os.read(back, 1)
            made.pin("second")
            os.write(writer, b"x")
            assert os.read(back, 1) == b"2"
            nsnet.Netns.unpin("first")
            nsnet.Netns.unpin("second")
            os.write(writer, b"x")
            assert os.read(back, 1) == b"0"
            os.waitpid(pid, 0)
    """)


def test_eight_at_once_pin_one_name_once():
    in_a_run_of_its_own("""
        pids = []
        with nsnet.Netns.new() as made:
            made.fd
            for _ in range(8):
                pid = os.fork()
                if pid == 0:
                    try:
                        pins.pin(made.fd, "one")
                    except nsnet.KernelError as error:
                        os._exit(error.errno)
                    os._exit(0)
                pids.append(pid)
            found = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
        assert found == [0] + [errno.EEXIST] * 7, found
        mounts = [line.split()[4] for line in open("/proc/self/mountinfo")]
        mounts = mounts[mounts.index("/run"):]              # what the machine has there lies below
        assert mounts.count("/run/netns/one") == mounts.count("/run/netns") == 1, mounts
    """)


@pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: root may")
def test_without_the_privilege_it_is_refused_and_nothing_stays():
    with nsnet.Netns.new() as made:
        with pytest.raises(nsnet.KernelError) as refused:
            made.pin("nsnet-test")
    assert refused.value.step == "pin" and not os.path.exists("/run/netns/nsnet-test")

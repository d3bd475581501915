"""Values that cannot be meant, given to a Netns, a Batch or a Monitor: one line, naming the value and what is one."""

import gc
import os
import signal
import socket

import pytest

import nsnet
from nsnet import kernel, requests
from nsnet.monitor import wait_link

NO_TIMES = ["x", b"1", True, False, float("nan"), -1, -0.001, float("-inf"), [1], 1j]
TIMED = {
    "wait_link": lambda netns, value: netns.wait_link("lo", up=False, timeout=value),
    "wait_link of another": lambda netns, value: wait_link(netns, 999999, timeout=value),
    "perform": lambda netns, value: netns.perform([requests.get_link(index=1)], timeout=value),
    "perform nothing": lambda netns, value: netns.perform([], timeout=value),
    "link": lambda netns, value: netns.link("lo", timeout=value),
    "talk": lambda netns, value: netns.socket_of_rtnl.talk(lambda first_seq: None, value),
    "connect": lambda netns, value: netns.connect(("127.0.0.1", 1), timeout=value),
}


def refused(call):
    """The one line that a call is refused with."""
    with pytest.raises(nsnet.UsageError) as error:
        call()
    text = str(error.value)
    assert "expected" in text and text.isprintable() and len(text) < 250, text
    return text


@pytest.fixture
def silent(host, monkeypatch):
    """A namespace of which nobody may ask the kernel anything."""
    def system_call(*arguments, **options):
        raise AssertionError("a system call")

    held = host.fd
    with monkeypatch.context() as patched:
        for name in ("nsnet_nl_talk", "nsnet_visit", "nsnet_nl_open"):
            assert hasattr(kernel.lib, name)
        patched.setattr(kernel, "lib", None)
        patched.setattr(kernel.fcntl, "ioctl", system_call)
        patched.setattr(os, "pidfd_open", system_call)
        patched.setattr(os, "open", system_call)
        patched.setattr(socket, "socket", system_call)
        yield host
    assert host.fd == held


@pytest.mark.parametrize("value", NO_TIMES, ids=repr)
@pytest.mark.parametrize("name", TIMED)
def test_what_is_no_time_is_refused(silent, name, value):
    assert refused(lambda: TIMED[name](silent, value)) == f"timeout {value!r}: expected seconds, 0 or more"


@pytest.mark.parametrize("value", NO_TIMES, ids=repr)
def test_what_is_no_time_to_read_is_refused(host, value):
    with host.monitor() as monitor:
        assert refused(lambda: monitor.read(value)) == f"timeout {value!r}: expected seconds, 0 or more"


@pytest.mark.parametrize("value", [0, 0.0, 1e-9, 1, 2**70, 1e300, float("inf")], ids=repr)
def test_any_other_time_is_one(host, value):
    assert host.link("lo", timeout=max(value, 1e-3)).index == 1
    assert host.wait_link("lo", timeout=value).index == 1
    with host.monitor() as monitor:
        if value <= 1e-9:
            assert monitor.read(value) is None


@pytest.mark.parametrize("pid", ["x", None, True, False, 0, -1, 1 << 31, 1 << 70, 1.0, b"1"], ids=repr)
def test_what_is_no_pid_is_refused(silent, pid):
    assert refused(lambda: nsnet.Netns.of_pid(pid)) == f"pid {pid!r}: expected 1 to 2147483647"


@pytest.mark.parametrize("path", [None, "a\0b", b"a\0b", "", b"", 5, True, ["x"], "\ud800"], ids=repr)
def test_what_is_no_path_is_refused(silent, path):
    assert refused(lambda: nsnet.Netns.open(path)) == (
        f"path {path!r}: expected the path of a file that is a net namespace")


def test_a_path_may_be_bytes_or_path_like(host, tmp_path):
    path = f"/proc/self/fd/{host.fd}"
    for one in (path, path.encode(), type(tmp_path)(path)):
        with nsnet.Netns.open(one) as again:
            assert again.identity == host.identity
    (tmp_path / "file").write_text("x")
    assert repr(str(tmp_path / "file")) in refused(lambda: nsnet.Netns.open(tmp_path / "file"))
    with pytest.raises(nsnet.KernelError, match="ENOENT"):
        nsnet.Netns.open(tmp_path / "nowhere")


@pytest.mark.parametrize("value", ["x", 5, True, object], ids=repr)
def test_what_is_no_namespace_is_refused(silent, value):
    for call in (lambda: nsnet.Netns.new(beside=value), lambda: silent.nsid(value)):
        assert refused(call) == f"network namespace {value!r}: expected a Netns"


@pytest.mark.parametrize("link", [1, 0, True, None, "", "x" * 16, "lo\0", "\ud800", b"lo", ["lo"]], ids=repr)
def test_the_carrier_of_what_is_no_name_is_refused(silent, link):
    assert refused(lambda: silent.sync_carrier(link)) == f"link {link!r}: expected a name of 1 to 15 bytes"


@pytest.mark.parametrize("index", [0, -1, -2**70, 1 << 31, 2**70])
def test_a_number_that_is_no_ifindex_is_refused(silent, index):
    for call in (silent.link, silent.index_of, silent.addresses, silent.qdiscs, silent.classes, silent.filters,
                 lambda link: silent.wait_link(link, timeout=0), lambda link: silent.set_link(link, up=True)):
        assert refused(lambda: call(index)) == f"ifindex {index}: expected 1 to 2147483647"


@pytest.mark.parametrize("link", [None, True, b"lo", 1.0, "", "lo\0", "x" * 128, "\ud800", ("lo", 1)], ids=repr)
def test_what_is_no_link_is_refused(silent, link):
    for call in (silent.link, silent.index_of, lambda link: silent.wait_link(link, timeout=0)):
        assert refused(lambda: call(link)).startswith(f"link {link!r}: expected a Link, an ifindex or a name of 1 to")


@pytest.mark.parametrize("value", ["x", None, 5, (16, 0, b"", "words"), [], nsnet.Request], ids=repr)
def test_what_is_no_request_is_refused(silent, value):
    batch = silent.batch()
    for call in (lambda: batch.add(value), lambda: silent.perform([requests.get_link(index=1), value])):
        assert refused(call) == f"request {value!r}: expected a Request, such as nsnet.requests makes"
    assert batch.requests == []


# --- what is closed ---

def closed_netns():
    netns = nsnet.Netns.new()
    netns.fd, netns.userns_fd
    netns.close()
    return netns


CLOSED = {
    "descriptor": lambda: kernel.Descriptor(-1).fileno(),
    "fd": lambda: closed_netns().fd,
    "hold": lambda: closed_netns().hold(),
    "socket": lambda: closed_netns().socket(),
    "monitor": lambda: closed_netns().monitor(),
    "wait_link": lambda: closed_netns().wait_link("lo", timeout=0),
    "nsid": lambda: closed_netns().nsid(closed_netns()),
    "beside": lambda: nsnet.Netns.new(beside=closed_netns()),
    "free_index": lambda: closed_netns().free_index(),
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_is_closed_says_so(name):
    if name == "beside":
        with nsnet.Netns.new() as fresh:
            if fresh.userns_fd is None:
                return                                      # then what is closed is not needed
    text = refused(CLOSED[name])
    assert text.endswith("is closed: expected one that is open")
    gc.collect()


def test_a_monitor_that_is_closed_says_so(host):
    monitor = host.monitor()
    monitor.close()
    for call in (monitor.read, lambda: monitor.read(0), monitor.fileno):
        assert refused(call) == "the monitor is closed: expected one that is open"


def test_a_process_that_has_ended_has_no_namespace():
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(nsnet.KernelError, match="ESRCH"):
        nsnet.Netns.of_pid(pid)

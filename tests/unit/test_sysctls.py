"""How a sysctl is named and what may be written to it, before anybody asks the kernel."""

import enum
import errno
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import one_line, refused

from nsnet import clone, sysctls
from nsnet.errors import KernelError, UsageError

NAME = st.text("abz09_-.@", min_size=1, max_size=15).filter(lambda name: name not in (".", ".."))
ANY = st.text(st.sampled_from("net./ipv4\0\n\t \u00e9\u2028\ud800\x7f-"), max_size=30)


# --- keys ---

@pytest.mark.parametrize("key, file", [
    ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
    ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
    ("net.core.somaxconn", "net/core/somaxconn"),
    ("net.ipv4.conf.eth0.rp_filter", "net/ipv4/conf/eth0/rp_filter"),
    ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
    ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),       # sysctl.d(5): interchanged
    ("net/ipv4/conf/a...b/rp_filter", "net/ipv4/conf/a...b/rp_filter"),
    ("net.ipv6.conf.\u00e9.mtu", "net/ipv6/conf/\u00e9/mtu"),
    ("net.unix", "net/unix"),
    ("net.ipv4.ip_forward=1", "net/ipv4/ip_forward=1"),     # the kernel has no such file; nothing else is wrong with it
])
def test_a_key_is_a_file(key, file):
    assert sysctls.path(key) == f"/proc/sys/{file}"


@pytest.mark.parametrize("key", [
    "", "net", "net.", ".net", "net/", "/net/ipv4/ip_forward", "net..ip_forward", "net//ip_forward",
    "net.ipv4.ip_forward.", "/proc/sys/net/ipv4/ip_forward", "kernel.hostname", "kernel/hostname", "fs.file-max",
    "network.x", "NET.ipv4.ip_forward", " net.ipv4.ip_forward", "net.ipv4.ip_forward ", "net.ipv4.ip forward",
    "net/../kernel/hostname", "net/./ipv4", "net/ipv4/..", "net.//.x", "net./.x", "net.ipv4.//.//.kernel.hostname",
    "net.ipv4\n", "net.ipv4\0", "net.\x1b[1m", "net.\x7f", "net.\x85", "net.\u2028", "net.\u00a0", "net.\udcff",
    None, 1, b"net.ipv4.ip_forward", ["net.ipv4.ip_forward"], ("net", "ipv4"),
    "net." + "a" * 256, "net" + ".a" * 300,
], ids=lambda key: repr(key)[:40])
def test_what_is_no_key_below_net_is_refused_by_name(key):
    text = refused(sysctls.path, key)
    assert text.startswith("sysctl ") and "expected a key below net" in text and text.isprintable() and len(text) < 250
    assert repr(key)[:90] in text


def test_the_caller_may_say_what_the_key_is_for():
    assert refused(sysctls.path, "x", what="sysctl of the bridge").startswith("sysctl of the bridge 'x': expected")


@given(ANY | st.text(max_size=20).map("net.".__add__) | st.text(max_size=20).map("net/".__add__))
@example("net/..")
@example("net.//")
def test_no_key_leads_out_of_net(key):
    try:
        path = sysctls.path(key)
    except UsageError as error:
        assert one_line(str(error))
        return
    assert path.startswith("/proc/sys/net/") and os.path.normpath(path) == path
    assert path.isprintable() and " " not in path and len(os.fsencode(path)) < 1024


@given(st.lists(NAME, min_size=1, max_size=5))
def test_the_two_ways_to_write_a_key_name_the_same_file(names):
    slashes = "/".join(["net", *names])
    dots = slashes.translate({ord("/"): ".", ord("."): "/"})
    assert sysctls.path(slashes) == f"/proc/sys/{slashes}" == sysctls.path(dots)


# --- values ---

class Mode(enum.IntEnum):
    STRICT = 1


class Scheduler(str, enum.Enum):
    CUBIC = "cubic"


@pytest.mark.parametrize("wanted, text", [
    (1, "1"), (0, "0"), (-1, "-1"), (True, "1"), (False, "0"), (2**64 - 1, "18446744073709551615"), (Mode.STRICT, "1"),
    (Scheduler.CUBIC, "cubic"), ("1", "1"), ("", ""), ("4096 87380 6291456", "4096 87380 6291456"), ("1\t2", "1\t2"),
    (" 1 ", " 1 "), ("a" * 4094, "a" * 4094),
])
def test_a_value_is_one_line(wanted, text):
    assert sysctls.value(wanted) == text and type(sysctls.value(wanted)) is str


@pytest.mark.parametrize("wanted", [
    None, 1.0, b"1", [1], {}, object(), "1\n", "\n", "1\0", "\r", "\x1b", "\u2028", "\ud800", "a" * 4095,
    "\u00e9" * 2048, 2**64, -2**63 - 1, 10**5000,
], ids=lambda wanted: type(wanted).__name__)
def test_what_is_no_value_is_refused(wanted):
    text = refused(sysctls.value, wanted, "sysctl net.x.y: value")
    assert text.startswith("sysctl net.x.y: value ") and "expected an int" in text and len(text) < 250


@given(st.text(max_size=20) | st.integers() | st.floats() | st.binary(max_size=5) | st.booleans() | st.none())
def test_any_value_is_one_line_or_refused(wanted):
    try:
        text = sysctls.value(wanted)
    except UsageError as error:
        assert one_line(str(error))
    else:
        assert not set(text) & set("\n\r\0") and isinstance(wanted, (str, int))


# --- calls ---

class Nobody:
    """Not a Netns."""

    def proc_sys(self, rows):
        raise AssertionError("the kernel was asked")


@pytest.mark.parametrize("call", [
    lambda: sysctls.read(Nobody(), ["net.ipv4.ip_forward"]),
    lambda: sysctls.read(None, []),
    lambda: sysctls.read(Nobody(), "net.ipv4.ip_forward"),
    lambda: sysctls.read(Nobody(), b"net.ipv4.ip_forward"),
    lambda: sysctls.read(Nobody(), None),
    lambda: sysctls.read(Nobody(), 7),
    lambda: sysctls.read(Nobody(), ["net.ipv4.ip_forward", "kernel.hostname"]),
    lambda: sysctls.read(Nobody(), [["net.ipv4.ip_forward"]]),
    lambda: sysctls.write(Nobody(), {"net.ipv4.ip_forward": 1}),
    lambda: sysctls.write(Nobody(), ["net.ipv4.ip_forward"]),
    lambda: sysctls.write(Nobody(), "net.ipv4.ip_forward=1"),
    lambda: sysctls.write(Nobody(), None),
    lambda: sysctls.write(Nobody(), {"net.ipv4.ip_forward": 1, "kernel.hostname": "x"}),
    lambda: sysctls.write(Nobody(), {"net.ipv4.ip_forward": 1, "net.ipv4.ip_default_ttl": None}),
])
def test_a_wrong_call_is_refused_before_the_kernel_is_asked(call):
    text = refused(call)
    assert "expected" in text and text.isprintable()


def test_a_refused_value_names_its_key():
    text = refused(sysctls.write, Nobody(), {"net.ipv4.ip_forward": 1.5})
    assert text.startswith("sysctl net.ipv4.ip_forward: value 1.5: expected an int")


@pytest.mark.parametrize("error, writing, words", [
    (errno.ENOENT, True, "no such setting"), (errno.EACCES, True, "CAP_NET_ADMIN"),
    (errno.EPERM, True, "only to be read"), (errno.EACCES, False, "only to be written"), (errno.EROFS, True, "read-only"),
    (errno.EXDEV, False, "not procfs"), (errno.EIO, True, "a part of the value"), (errno.EOVERFLOW, False, "16383 bytes"),
])
def test_a_refusal_has_a_hint(error, writing, words):
    made = sysctls._refused("net.ipv4.ip_forward", error, "x" * 1000 if writing else None)
    assert isinstance(made, KernelError) and made.errno == error and made.step == "sysctl net.ipv4.ip_forward"
    assert words in made.hint and one_line(str(made)) and len(str(made)) < 400
    assert ("value 'xxx" in str(made)) is writing


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EISDIR, errno.EOVERFLOW])
def test_where_the_kernels_word_is_enough_there_is_no_hint(error):
    assert sysctls._refused("net.ipv4.ip_forward", error, "x").hint is None


# --- visits ---

@given(st.lists(st.tuples(st.integers(1, 200).map("a".__mul__), st.none() | st.integers(0, 4096).map("1".__mul__)),
                min_size=1, max_size=60))
def test_a_visit_takes_as_many_as_fit_in_a_message(rows):
    taken = clone._fitting(rows)
    assert 1 <= len(taken) and taken == rows[:len(taken)]
    sizes = [len(path) + len(value or "") + clone.ffi.sizeof("struct nsnet_sysctl") for path, value in rows]
    assert len(taken) == 1 or sum(sizes[:len(taken)]) <= clone.VISIT_BYTES
    assert len(taken) == len(rows) or sum(sizes[:len(taken) + 1]) > clone.VISIT_BYTES

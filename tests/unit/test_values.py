"""What a person may write, and what is refused in one line that names it."""

import ipaddress
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ANY_TEXT, one_line, refused

from nsnet import values
from nsnet.errors import UsageError

ANY_NUMBER = st.integers(-2**70, 2**70)


@pytest.mark.parametrize("check", [values.ifname, values.lladdr, values.address, values.port, values.mtu,
                                   values.capabilities, values.command], ids=lambda check: check.__name__)
@given(text=ANY_TEXT)
def test_any_text_is_a_value_or_a_usage_error_that_names_it(check, text):
    try:
        check(text)
    except UsageError as error:
        assert repr(text) in str(error) and one_line(str(error))


@pytest.mark.parametrize("check", [values.host_address, values.addresses], ids=lambda check: check.__name__)
@given(text=st.one_of(ANY_TEXT, st.builds("{}/{}".format, st.ip_addresses(), st.integers(0, 140))))
def test_any_text_is_a_host_address_or_a_usage_error_that_names_it(check, text):
    try:
        check(text)
    except UsageError as error:
        assert one_line(str(error))
        assert repr(text) in str(error) or f"'{values.address(text)}'" in str(error)


@pytest.mark.parametrize("check", [values.ifname, values.lladdr, values.address, values.port, values.mtu],
                         ids=lambda check: check.__name__)
@pytest.mark.parametrize("value", [None, True, 1.5, b"eth0", ["eth0"], object, float("nan")], ids=repr)
def test_what_is_no_text_is_a_usage_error_that_names_it(check, value):
    assert str(value) in refused(check, value)


@pytest.mark.parametrize("check", [values.ifname, values.lladdr, values.address, values.host_address, values.addresses,
                                   values.port, values.mtu], ids=lambda check: check.__name__)
def test_a_refusal_says_what_the_value_was_meant_for(check):
    assert refused(check, "\n", "the thing").startswith("the thing '\\n': ")


# --- names ---

@pytest.mark.parametrize("name", ["a", "0", "eth0", "nsnet-ex-bridge", "br.100", "a_b", "A" * 15])
def test_a_name_is_taken_as_it_is(name):
    assert values.ifname(name) == name


@pytest.mark.parametrize("name", [
    "", "a" * 16, "a/b", "a b", "x%d", "-rf", ".", "..", ".a", "_a", "a\n", "\na", "a\0", "é", "eth٣", "all", "default",
    "$(id)", "\x1b[31m", "a:b", "a\\b", "a'b"])
def test_a_name_that_the_kernel_would_take_or_mistake_is_refused(name):
    assert repr(name) in refused(values.ifname, name)


@given(ANY_TEXT)
def test_an_accepted_name_is_one_that_a_shell_and_procfs_can_bear(text):
    try:
        name = values.ifname(text)
    except UsageError:
        return
    assert re.match(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}\Z", name, re.ASCII)


# --- link-layer addresses ---

@pytest.mark.parametrize("text", ["02:00:00:00:00:01", "00:00:6c:00:00:00", "fe:ff:ff:ff:ff:ff"])
def test_a_unicast_mac_is_taken(text):
    assert values.lladdr(text) == values.lladdr(text.upper()) == text


@pytest.mark.parametrize("text", [
    "", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "02-00-00-00-00-01", "020000000001",
    "02:00:00:00:00:0g", "02:00:00:00:00:01\n", "٠2:00:00:00:00:01", "00:00:00:00:00:00", "01:00:00:00:00:00", "ff:ff:ff:ff:ff:ff",
    "01:00:5e:00:00:01", "03:00:00:00:00:00"])
def test_what_is_no_unicast_mac_is_refused(text):
    assert repr(text) in refused(values.lladdr, text)


def test_a_refused_mac_is_named_as_it_was_written():
    assert "'FF:FF:FF:FF:FF:FF'" in refused(values.lladdr, "FF:FF:FF:FF:FF:FF")


# --- IP addresses ---

@given(st.ip_addresses(), st.data())
def test_an_address_is_what_the_standard_library_says(ip, data):
    prefixlen = data.draw(st.integers(0, ip.max_prefixlen))
    found = values.address(f"{ip}/{prefixlen}")
    network = ipaddress.ip_interface(f"{ip}/{prefixlen}").network
    assert (found.version, found.bits, found.prefixlen) == (ip.version, ip.max_prefixlen, prefixlen)
    assert found.packed == ip.packed and ipaddress.ip_address(found.ip) == ip
    assert found.host == int(ip) - int(network.network_address)
    assert found.broadcast == network.num_addresses - 1
    assert found.with_host(0).packed == network.network_address.packed
    assert found.with_host(found.broadcast).packed == network.broadcast_address.packed
    assert values.address(str(found)) == found and values.address(found) is found


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_an_address_lies_in_a_subnet_as_the_standard_library_says(one, other, prefixlen):
    inside = other in ipaddress.ip_interface(f"{one}/{prefixlen}").network
    assert (values.address(f"{other}/32") in values.address(f"{one}/{prefixlen}")) == inside


def test_only_an_address_of_the_same_family_lies_in_a_subnet():
    everything = values.address("0.0.0.0/0")
    assert values.address("10.0.0.1/8") in everything
    assert values.address("::1/128") not in everything and "10.0.0.1/8" not in everything


@pytest.mark.parametrize("text", [
    "10.0.0.1", "10.0.0.1/", "/24", "10.0.0.1/33", "fd00::1/129", "10.0.0.1/-1", "10.0.0.1/+1", "10.0.0.1/ 24",
    "10.0.0.1/24 ", "10.0.0.1/24\n", "10.0.0.1/٢٤", "10.0.0.1/255.255.255.0", "10.0.0.1/24/24", "10.0.0/24",
    "10.0.0.256/24", "0x0a.0.0.1/8", "10.1/8", "fe80::1%eth0/64", "[fd00::1]/64", "fd00::1::/64", "10.0.0.1/0024",
    "10.0.0.1/2_4", "\ud800/24", "10.0.0.1\0/24"])
def test_what_is_no_address_with_prefix_is_refused(text):
    assert repr(text) in refused(values.address, text)


@pytest.mark.parametrize("text", ["10.0.0.1/24", "10.0.0.254/24", "10.0.0.0/31", "10.0.0.1/31", "10.0.0.1/32",
                                  "0.0.0.1/8", "223.255.255.254/24", "fd00::1/64", "fd00::/127", "::1/128",
                                  "fd00::ffff/64"])
def test_the_address_of_a_host_is_taken(text):
    assert str(values.host_address(text)) == text


@pytest.mark.parametrize("text, why", [
    ("10.0.0.0/24", "the network itself"), ("10.0.0.255/24", "the broadcast address"),
    ("10.0.0.4/30", "the network itself"), ("10.0.0.7/30", "the broadcast address"), ("224.0.0.1/24", "unicast"),
    ("239.1.2.3/32", "unicast"), ("255.255.255.255/32", "unicast"), ("ff02::1/64", "unicast"), ("::/64", "unicast"),
    ("0.0.0.0/32", "unicast")])
def test_what_no_host_can_have_is_refused(text, why):
    message = refused(values.host_address, text)
    assert f"'{text}'" in message and why in message


def test_addresses_are_one_or_several_in_order():
    one, other = values.address("10.0.0.1/24"), values.address("fd00::1/64")
    assert values.addresses("10.0.0.1/24") == values.addresses(one) == (one,)
    assert values.addresses(["10.0.0.1/24", other]) == values.addresses(iter((one, other))) == (one, other)


@pytest.mark.parametrize("value", [[], (), iter(())])
def test_no_address_at_all_is_refused(value):
    assert "at least one" in refused(values.addresses, value)


def test_an_address_that_stands_twice_is_refused_however_it_is_written():
    assert "'fd00::1/64'" in refused(values.addresses, ["fd00::1/64", "fd00:0::1/64"])
    assert "twice" in refused(values.addresses, ["10.0.0.1/24", "10.0.0.1/16"])


# --- numbers ---

@given(ANY_NUMBER)
def test_a_port_is_a_number_from_1_to_65535(number):
    if 1 <= number <= 65535:
        assert values.port(number) == values.port(str(number)) == number
    else:
        assert str(number) in refused(values.port, number) and str(number) in refused(values.port, str(number))


@pytest.mark.parametrize("value", [0, 70000, "0", "70000", "65536", -1, "", " 80", "80 ", "+80", "8_0", "٨٠", "0x50",
                                   80.0, True])
def test_what_is_no_port_is_refused(value):
    assert repr(value) in refused(values.port, value)


@given(st.integers(0, 2**70), st.integers(0, 12))
def test_leading_zeros_hide_no_number_that_is_no_port(number, zeros):
    text = "0" * zeros + str(number)
    try:
        found = values.port(text)
    except UsageError as error:
        assert repr(text) in str(error)
    else:
        assert 1 <= found <= 65535


@pytest.mark.parametrize("text", ["000001999999", "00001" + "0" * 5000, "1" * 5000], ids=["hidden", "zeros", "ones"])
def test_a_long_number_is_no_port(text):
    assert repr(text) in refused(values.port, text)


@given(ANY_NUMBER)
def test_an_mtu_is_a_number_from_68_to_65535(number):
    if 68 <= number <= 65535:
        assert values.mtu(number) == number
    else:
        assert str(number) in refused(values.mtu, number)


@pytest.mark.parametrize("value", [67, 65536, True, "1500", 1500.0, None])
def test_what_is_no_mtu_is_refused(value):
    assert repr(value) in refused(values.mtu, value)


# --- capabilities ---

def test_capabilities_are_bits_by_their_number():
    assert values.capabilities(()) == 0
    assert values.capabilities({"chown"}) == 1 and values.capabilities(["net_admin"]) == 1 << 12
    assert values.capabilities(["net_bind_service", "CAP_NET_RAW", "Cap_Chown", "chown"]) == 1 << 10 | 1 << 13 | 1
    assert values.capabilities(values.CAPABILITIES) == (1 << 41) - 1


@given(st.sets(st.sampled_from(values.CAPABILITIES)), st.booleans())
def test_any_set_of_capabilities_has_as_many_bits(names, prefixed):
    mask = values.capabilities({f"CAP_{name.upper()}" if prefixed else name for name in names})
    assert {name for number, name in enumerate(values.CAPABILITIES) if mask >> number & 1} == names


@given(ANY_TEXT.filter(lambda text: text.upper().replace("CAP_", "", 1).lower() not in values.CAPABILITIES))
def test_a_name_that_is_no_capability_is_refused(name):
    assert repr(name) in refused(values.capabilities, [name])


@pytest.mark.parametrize("name", ["", "cap_", "net", "cap_cap_chown", "CAP_ALL", "12", "net_admin\n", "\u212aill", None,
                                  12, b"chown"])
def test_what_is_no_capability_is_refused(name):
    assert repr(name) in refused(values.capabilities, ["chown", name])


def test_a_text_is_no_set_of_capabilities():
    assert "'chown'" in refused(values.capabilities, "chown")


# --- commands ---

@given(st.lists(ANY_TEXT, max_size=4))
def test_any_words_are_a_command_that_execve_could_take_or_a_usage_error(words):
    try:
        argv = values.command(words)
    except UsageError as error:
        assert one_line(str(error))
        return
    assert list(argv) == words and argv[0]
    assert all(b"\0" not in os.fsencode(word) for word in argv)


@pytest.mark.parametrize("argv", [[], [""], ["", "a"], [b""], "sleep 60", b"sleep", ["a\0b"], ["a", "b\0"], [b"a\0"]])
def test_what_is_no_command_is_refused(argv):
    message = refused(values.command, argv)
    assert repr(argv) in message or any(repr(word) in message for word in argv)


def test_a_command_may_be_bytes_and_paths_and_empty_further_words():
    assert values.command([b"sleep", "", "60"]) == (b"sleep", "", "60")


def test_a_word_that_no_execve_can_take_is_refused():
    """A lone surrogate stands for no bytes: os.fsencode would raise UnicodeEncodeError after the clone was prepared."""
    assert repr("\ud800") in refused(values.command, ["sleep", "\ud800"])

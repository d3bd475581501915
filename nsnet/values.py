"""What a person may write for a name, an address, a port or a capability, and what is meant by it.

Pure. Each function takes the text, and returns the checked value or raises UsageError with one line that names the value
and what was expected. These checks are stricter than the kernel's, which takes "-rf", escape sequences and expands "%d".
"""

from __future__ import annotations

import operator

from nsnet.errors import UsageError
from nsnet.named import NamedTuple
from nsnet.wire import decode_ip, encode_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Union

_ALNUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_IN_NAMES = _ALNUM + "_.-"
_HEX = "0123456789ABCDEFabcdef"
_IFNAME_RESERVED = ("all", "default", "lo")     # directories of /proc/sys/net/ipv4/conf that are there already


# Spelling, without re: that would be a fifth of the time to import what builds a network. A text of which strip() leaves
# nothing has no other characters than those.

def is_name(value: Any, longest: int) -> bool:
    """Whether it is text of A-Z a-z 0-9 _ . - beginning with a letter or digit, of 1 to `longest` bytes."""
    return isinstance(value, str) and 1 <= len(value) <= longest and value[0] in _ALNUM and not value.strip(_IN_NAMES)


def is_number(value: str, longest: int) -> bool:
    """Whether a text is 1 to `longest` of 0-9."""
    return 1 <= len(value) <= longest and value.isascii() and value.isdigit()


def is_hex(value: str, longest: int) -> bool:
    """Whether a text is 0 to `longest` hex digits."""
    return len(value) <= longest and not value.strip(_HEX)


def _is_lladdr(value: Any) -> bool:
    return (isinstance(value, str) and len(value) == 17 and value[2::3] == ":::::" and value.count(":") == 5
            and not value.strip(_HEX + ":"))


def ifname(value: str, what: str = "ifname") -> str:
    """A name for a link that we create: 1 to 15 bytes of A-Z a-z 0-9 _ . - (IFNAMSIZ in <linux/if.h> is 16)."""
    if not is_name(value, 15) or value in _IFNAME_RESERVED:
        raise UsageError(f"{what} {value!r}: expected 1 to 15 of A-Z a-z 0-9 _ . - beginning with a letter or digit"
                         ", and none of 'all', 'default', 'lo'")
    return value


def altname(value: str, what: str = "altname") -> str:
    """An alternative name for a link: as ifname, but up to 127 bytes (ALTIFNAMSIZ in <linux/if.h> is 128)."""
    if not is_name(value, 127) or value in _IFNAME_RESERVED:
        raise UsageError(f"{what} {value!r}: expected 1 to 127 of A-Z a-z 0-9 _ . - beginning with a letter or digit"
                         ", and none of 'all', 'default', 'lo'")
    return value


def lladdr(value: str, what: str = "lladdr") -> str:
    """A unicast MAC, in lower case: 02:00:00:00:00:01. Zero and multicast are refused, as is_valid_ether_addr() does."""
    if not _is_lladdr(value):
        raise UsageError(f"{what} {value!r}: expected six bytes such as 02:00:00:00:00:01")
    if int(value[:2], 16) & 1 or value == "00:00:00:00:00:00":
        raise UsageError(f"{what} {value!r}: expected a unicast address that is not zero")
    return value.lower()


class Address(NamedTuple):
    """An IP address with its prefix: 10.0.0.2/24."""

    ip: str
    prefixlen: int
    packed: bytes

    @property
    def version(self) -> int:
        return 4 if len(self.packed) == 4 else 6

    @property
    def bits(self) -> int:
        return 8 * len(self.packed)

    @property
    def network(self) -> int:
        """The network part as a number, shifted to the right of the host part."""
        return int.from_bytes(self.packed, "big") >> (self.bits - self.prefixlen)

    @property
    def host(self) -> int:
        """The host part as a number."""
        return int.from_bytes(self.packed, "big") & ((1 << (self.bits - self.prefixlen)) - 1)

    @property
    def broadcast(self) -> int:
        """The host part of the subnet's last address."""
        return (1 << (self.bits - self.prefixlen)) - 1

    def __contains__(self, other: object) -> bool:
        """Whether another address lies in this one's subnet."""
        return (isinstance(other, Address) and other.bits == self.bits
                and int.from_bytes(other.packed, "big") >> (self.bits - self.prefixlen) == self.network)

    def with_host(self, host: int) -> "Address":
        """The address of this subnet with that host part."""
        packed = ((self.network << (self.bits - self.prefixlen)) | host).to_bytes(len(self.packed), "big")
        return Address(decode_ip(packed), self.prefixlen, packed)

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefixlen}"


def address(value: Union[str, Address], what: str = "address") -> Address:
    """An IP with its prefix: "10.0.0.2/24", "fd00::2/64". The prefix must be there."""
    if isinstance(value, Address):
        return value
    text = value if isinstance(value, str) else str(value)
    host, slash, prefix = text.partition("/")
    try:
        packed = encode_ip(host)
    except UsageError:
        raise UsageError(f"{what} {text!r}: expected an address with a prefix, such as 10.0.0.2/24") from None
    bits = 8 * len(packed)
    if not slash or not prefix.isascii() or not prefix.isdigit() or len(prefix) > 3 or int(prefix) > bits:
        raise UsageError(f"{what} {text!r}: expected a prefix of /0 to /{bits} behind the address")
    return Address(decode_ip(packed), int(prefix), packed)


def host_address(value: Union[str, Address], what: str = "address") -> Address:
    """An address that one host may have: not the network's own, not the broadcast address, not multicast."""
    result = address(value, what)
    packed, is_v4 = result.packed, len(result.packed) == 4
    if is_v4 and result.prefixlen < 31:
        host = result.host
        if host in (0, result.broadcast):
            kind = "the network itself" if host == 0 else "the broadcast address"
            raise UsageError(f"{what} '{result}': it is {kind}; expected the address of one host")
    if (is_v4 and packed[0] >= 224) or packed[0] == 0xFF or not any(packed):
        raise UsageError(f"{what} '{result}': expected a unicast address")
    return result


def network(value: Union[str, Address], what: str = "network") -> Address:
    """A network with its prefix: no bit behind the prefix is set. An address alone is a network of one."""
    if isinstance(value, str) and "/" not in value:
        try:
            value = f"{value}/{8 * len(encode_ip(value))}"
        except UsageError:
            raise UsageError(f"{what} {value!r}: expected a network such as 10.0.0.0/24") from None
    result = address(value, what)
    if result.host:
        raise UsageError(f"{what} '{result}': expected a network; bits behind the prefix are set")
    return result


def addresses(value: Union[str, Address, Iterable], what: str = "address") -> tuple:
    """One address or several, checked, in order; none twice."""
    items = (value,) if isinstance(value, (str, Address)) or not hasattr(value, "__iter__") else tuple(value)
    result = tuple(host_address(item, what) for item in items)
    if not result:
        raise UsageError(f"{what}: expected at least one")
    seen = set()
    for item in result:
        if item.packed in seen:
            raise UsageError(f"{what} '{item}': it stands twice")
        seen.add(item.packed)
    return result


def port(value: Union[int, str], what: str = "port") -> int:
    """A TCP or UDP port, 1 to 65535."""
    text = str(value)
    if isinstance(value, bool) or not is_number(text, 5) or not 1 <= int(text) <= 65535:
        raise UsageError(f"{what} {value!r}: expected 1 to 65535")
    return int(text)


def mtu(value: int, what: str = "mtu") -> int:
    """Bytes, 68 (RFC 791) to 65535 (IP_MAX_MTU)."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or not 68 <= found <= 65535:
        raise UsageError(f"{what} {value!r}: expected 68 to 65535 bytes")
    return found


# <linux/capability.h>, in the order of their numbers, 0 to 40
CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)


def capabilities(value: Iterable[str], what: str = "capability") -> int:
    """Names ("net_bind_service" or "CAP_NET_BIND_SERVICE") as a bit set, bit n for capability n."""
    if isinstance(value, str):
        raise UsageError(f"{what} {value!r}: expected a set of names")
    mask = 0
    for item in value:
        name = item.lower() if isinstance(item, str) and item.isascii() else ""
        name = name[4:] if name.startswith("cap_") else name
        if name not in CAPABILITIES:
            raise UsageError(f"{what} {item!r}: expected a name from capabilities(7), such as net_bind_service")
        mask |= 1 << CAPABILITIES.index(name)
    return mask


def command(argv: Iterable[str], what: str = "command") -> tuple:
    """What is to be run: at least one word, none with NUL, the first not empty."""
    if isinstance(argv, (str, bytes)):
        raise UsageError(f"{what} {argv!r}: expected a list of words")
    words = tuple(str(word) if not isinstance(word, bytes) else word for word in argv)
    if not words or not words[0]:
        raise UsageError(f"{what} {list(words)!r}: expected at least the name of a program")
    for word in words:
        try:
            plain = word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise UsageError(f"{what} {word!r}: expected text that stands for bytes") from None
        if b"\0" in plain:
            raise UsageError(f"{what} {word!r}: expected no NUL")
    return words


def descriptor(value: Any, what: str) -> int:
    """The number of a descriptor: given as it is, or by an object that has one (fileno())."""
    try:
        number = value if isinstance(value, int) else value.fileno()
    except (AttributeError, TypeError, ValueError):
        number = -1                     # a closed file among them
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**31:
        raise UsageError(f"{what} {value!r}: expected an open descriptor, or an object with one")
    return number


def pin_name(value: str, what: str = "name") -> str:
    """A name under /run/netns: a plain file name that no shell and no terminal takes for something else."""
    if not is_name(value, 255):
        raise UsageError(f"{what} {value!r}: expected 1 to 255 of A-Z a-z 0-9 _ . - beginning with a letter or digit")
    return value

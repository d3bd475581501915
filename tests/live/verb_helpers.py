"""What the tests of the verbs share: to run one at once or in a batch, and what iproute2 says of the result."""

import ctypes
import json
import os
import re
import struct

import pytest

import nsnet
from live_helpers import LIBC, check, inside, which

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}.get(os.uname().machine)
BPF_PROG_LOAD = 5                               # enum bpf_cmd, <linux/bpf.h>
SCHED_CLS, XDP = 3, 6                           # enum bpf_prog_type
PASS = 2                                        # XDP_PASS; of a classifier, TC_ACT_SHOT


@pytest.fixture(params=["at once", "in a batch"])
def act(request, playground):
    """Calls a function with something that has the verbs: the namespace, or a batch that is sent when it returns."""
    def run(function):
        if request.param == "at once":
            return function(playground)
        with playground.batch() as net:
            return function(net)
    return run


@pytest.fixture
def pair(playground):
    """Two ends of a veth, up, in the playground; IPv6 says nothing by itself."""
    left, right = playground.add_veth("left", peer="right", queues=1)
    for end in (left, right):
        playground.set_link(end, link_local=False, up=True)
    return left, right


@pytest.fixture
def wired(playground, pair):
    """The pair with addresses of both families; gateways for any number of neighbours."""
    playground.add_address(pair[0], "10.0.0.1/24")
    playground.add_address(pair[0], "fd00::1/64")
    return pair


def refused_by_kernel(kind, function):
    """The error with which the kernel refuses, of that very class."""
    with pytest.raises(nsnet.NetlinkError) as refused:
        function()
    assert type(refused.value) is kind, refused.value
    return refused.value


def words_of(program, netns, *words):
    """What bridge(8) or tc(8) says, parsed. Skips the test where it is not installed."""
    if which(program) is None:
        pytest.skip(f"{program} (iproute2) is not installed")
    done = inside(netns, [which(program), "-j", *words])
    assert done.returncode == 0, f"{program} {' '.join(map(str, words))}: {done.stderr}"
    return [row for row in json.loads(done.stdout or "[]") if row]


def bridge(netns, *words):
    return words_of("bridge", netns, "-d", *words)


def tc(netns, *words):
    return words_of("tc", netns, "-s", *words)


def tc_classes(netns, link):
    """{classid: (its line, packets)} of an HTB; not every tc(8) has JSON for classes."""
    said = inside(netns,
                  [which("tc") or pytest.skip("tc (iproute2) is not installed"), "-s", "class", "show", "dev", link])
    return {found[1]: (found[0].splitlines()[0], int(found[2])) for found in re.finditer(
        r"^class htb (\S+) .*?^ Sent \d+ bytes (\d+) pkt", said.stdout, re.M | re.S)}


def same(found, expected):
    """Two lists of nsnet's objects, by what they say and not by what their counters were when they were read."""
    return sorted(map(repr, found)) == sorted(map(repr, expected))


def load_program(kind):
    """The descriptor of the smallest BPF program: "r0 = 2; exit". Skips the test where bpf(2) is not for us."""
    if SYS_BPF is None:
        pytest.skip("the number of bpf(2) is not known for this machine")
    code = struct.pack("=BBhi", 0xB7, 0, 0, PASS) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    # union bpf_attr: prog_type, insn_cnt, insns, license, then zeros
    attr = struct.pack("=IIQQ", kind, 2, ctypes.addressof(instructions), ctypes.addressof(licence)).ljust(128, b"\0")
    LIBC.syscall.restype = ctypes.c_long
    try:
        return check(LIBC.syscall(SYS_BPF, BPF_PROG_LOAD, ctypes.create_string_buffer(attr, len(attr)), len(attr)))
    except PermissionError:
        pytest.skip("needs root of the machine: bpf(2) is not for others (kernel.unprivileged_bpf_disabled)")


# A process that holds a tun device and says so; the device goes when its standard input ends.
HOLDS_TUN = """
import fcntl, os, struct, sys
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("=16sH22x", b"tun7", 0x1001))      # TUNSETIFF: IFF_TUN | IFF_NO_PI
os.write(1, b"!")
sys.stdin.read()
"""

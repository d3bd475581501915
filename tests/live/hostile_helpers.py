"""What the tests of networks under attack share: one that is declared, what is on disk of it, who is in it."""

import json
import subprocess
import sys
from contextlib import contextmanager

import nsnet
from live_helpers import environment, go_inside, inside, kill_and_wait, links_of

SLEEP = ["/bin/sleep", "1000"]
OWN = {"uid_map": "0:0:1", "gid_map": "0:0:1"}
CONTAINER = {"name": "a", "command": SLEEP, "address": "10.0.0.2/24", "host_ifname": "va", **OWN}
LEFT = """
nsnet.Network(sys.argv[1], address="10.0.0.1/24", lifetime="owner").up()
os._exit(0)
"""
SILENT = {"stdin": nsnet.DEVNULL, "stdout": nsnet.DEVNULL, "stderr": nsnet.DEVNULL}


def declared(host, *attachments, bridge="br0", address="10.0.0.1/24", lifetime="declared", **more):
    return nsnet.Network(bridge, address=address, lifetime=lifetime, attachments=list(attachments), netns=host, **more)


def claim_of(state):
    """(its path, its content) of the only claim."""
    (path,) = state.glob("*.json")
    return path, json.loads(path.read_text())


def entries_of(state):
    """What the only claim says of its attachments, by their names."""
    return {entry["name"]: entry for entry in claim_of(state)[1]["attachments"].values()}


def snapshot(host, state):
    """What nobody who only looks may change: the links, and every byte of what is on disk."""
    return links_of(host), {path.name: path.read_bytes() for path in state.glob("*.json")}


def words(faults):
    return [str(fault) for fault in faults]


@contextmanager
def resident(host):
    """(a namespace beside the host's, the pid of a process in it), as long as the block lasts."""
    with nsnet.Netns.new(beside=host) as netns, process_in(netns) as process:
        yield netns, process.pid


@contextmanager
def process_in(netns):
    """One that was not launched by nsnet, dead after the block."""
    process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               preexec_fn=go_inside(netns.fd))
    try:
        yield process
    finally:
        kill_and_wait(process)


def script(host, state, code, *arguments, **options):
    """Run a program that uses nsnet in a namespace, to its end; what it printed. `nsnet` and `os` are there."""
    done = inside(host, [sys.executable, "-c", "import json, os, sys, nsnet\n" + code, *arguments],
                  env=environment(state), stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def declaration_file(directory, *networks):
    """A file for `nsnet up`."""
    path = directory / "networks.json"
    path.write_text(json.dumps({"network": list(networks)}))
    return path

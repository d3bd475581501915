"""What the tests of leases on disk share: what is in the files, read without nsnet, and a process that does something."""

import json
import os
import re

SUBNETS = ("10.0.0.1/24", "fd00::1/64")
OTHER_BOOT = "00000000-0000-0000-0000-000000000000"
HASH = re.compile(r"[0-9a-f]{32}\.([0-9a-f]{8}|[0-9a-f]{32})(\.[0-9]+)?")


def on_disk(place):
    """{ip: owner} of the files."""
    found = {}
    for name in os.listdir(place):
        if name not in ("lock", "boot", ".boot", "owners"):
            with open(os.path.join(place, name), encoding="utf-8") as file:
                found[name] = json.load(file)["owner"]
    return found


def strays(place):
    """Files that are none of what may be there."""
    return [name for name in os.listdir(os.path.join(place, "owners")) if not HASH.fullmatch(name)] + [
        name for name in os.listdir(place) if not re.fullmatch("lock|boot|owners|[0-9a-f.:]+", name)]


def shown(found):
    return [(str(lease.address), lease.owner) for lease in found]


def forked(work):
    """The pid of a fork that does this and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid

"""What the tests of declared networks share: how one is written down, what is in its containers, what is counted."""

import os
import socket
from contextlib import contextmanager

import nsnet
import nsnet.sysctls
from live_helpers import PATIENCE, inside, ip, links_of, which
from nsnet.leases import disk

SLEEP = ["/bin/sleep", "1000"]
# Container root is whoever runs the tests: what they can read, it can.
OWN = {"uid_map": "0:0:1", "gid_map": "0:0:1"}
V4, BOTH = "10.0.0.1/24", ["10.0.0.1/24", "fd00::1/64"]


def declared(host, *attachments, bridge="br0", address=V4, lifetime="declared", **more):
    """The Network of a declaration."""
    return nsnet.Network.from_dict({"bridge": bridge, "address": address, "lifetime": lifetime,
                                    "attachments": list(attachments), **more}, netns=host)


@contextmanager
def up(*arguments, **options):
    """A declared network that is up inside the block, and down after it."""
    network = declared(*arguments, **options)
    try:
        network.up()
        yield network
    finally:
        network.down()


def entry(network, name):
    """What entries() has of one attachment."""
    (found,) = [one for one in network.entries() if one["name"] == name]
    return found


def sh(netns, command):
    """`ip` in a namespace: sh(host, "link set br0 down")."""
    inside(netns, [which("ip"), *command.split()], check=True)


def told(netns, ifname):
    """{address with prefix: its flags and numbers} of a link, as iproute2 has them."""
    return {f"{row['local']}/{row['prefixlen']}": row for link in ip(netns, "address", "show", "dev", ifname)
            for row in link.get("addr_info", ())}


def route_table(netns, *families):
    """{(destination, gateway, device, metric)} of the main table, without what the kernel makes for itself."""
    return {(row["dst"], row.get("gateway"), row["dev"], row.get("metric"))
            for family in families or ("-4", "-6") for row in ip(netns, family, "route", "show")
            if row.get("protocol") != "kernel"}


def sysctl(netns, key):
    return inside(netns, ["/bin/cat", f"/proc/sys/{key}"], check=True).stdout.strip()


def reaches(source, target, *addresses):
    """Whether a TCP connection from one namespace gets to a listener in the other, at each of the addresses."""
    for address in addresses:
        with target.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, 7))
            listener.listen()
            with source.connect((address, 7), PATIENCE) as client, listener.accept()[0] as accepted:
                client.sendall(b"hello")
                if accepted.recv(100) != b"hello":
                    return False
    return True


def leased(state):
    """[(bridge, address, owner)] of all leases that are taken, by the records on disk."""
    place = state / "leases"
    return sorted((path.name.rpartition("-")[0], one.address.ip, one.owner)
                  for path in (place.iterdir() if place.is_dir() else ()) for one in disk.read_records(str(path)))


def strays(host):
    """The links that no test's fixture made."""
    return sorted(name for name in links_of(host) if name != "lo")


class Writes:
    """Counts what is asked of the kernel that changes something: netlink requests that are no GET, and sysctls."""

    def __init__(self, monkeypatch):
        self.words = []
        perform, write = nsnet.Netns.perform, nsnet.sysctls.write

        def counting(netns, requests, *arguments, **options):
            self.words += [request.words for request in requests if request.type % 4 != 2]      # 2: RTM_GET*
            return perform(netns, requests, *arguments, **options)

        def writing(netns, settings):
            self.words += [f"sysctl {key}" for key in settings]
            return write(netns, settings)
        monkeypatch.setattr(nsnet.Netns, "perform", counting)
        monkeypatch.setattr(nsnet.sysctls, "write", writing)

    def taken(self):
        """Those since the last time."""
        words, self.words = self.words, []
        return words


def fd_path(netns):
    """A path of a namespace that this process holds."""
    return f"/proc/{os.getpid()}/fd/{netns.fd}"

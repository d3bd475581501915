"""`nsnet show NAME`: one network, what is attached to it, and what of it is not as it was declared.

Also the route that a host behind its uplinks needs.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack

from nsnet import declaration, drift, forwarding, ownership, state
from nsnet.cli.list import about
from nsnet.cli.options import printable
from nsnet.drift import Fault
from nsnet.errors import NsnetError
from nsnet.netns import Netns
from nsnet.network import inspect
from nsnet.ownership import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the bridge")
    parser.add_argument("--json", action="store_true", help="print one object")


def run(options: argparse.Namespace) -> int:
    """Exit 0 if all is as declared, 1 if something is not, or there is no such network."""
    with Netns.current() as here:
        claim = _claim(here, options.name)
        with ExitStack() as opened:
            faults = inspect(here, claim, opened)
        spec = declaration.network(claim.declaration)
        routes = forwarding.routes_of_remote(here, spec)
        if options.json:
            print(json.dumps(_all(claim, faults, routes)))
        else:
            _print(claim, spec, faults, routes)
    return 1 if faults else 0


def _claim(here: Netns, name: str) -> Claim:
    directory, key = state.directory(), ownership.key_of(here.identity, name)
    try:
        claim = Claim.load(directory, key)
    except FileNotFoundError:
        there = sorted(one.bridge for one in ownership.claims(directory) if one.netns == here.identity)
        raise NsnetError(f"show {name!r}: no network of that name here; there "
                         f"{'is' if len(there) < 2 else 'are'} {', '.join(there) or 'none'}") from None
    except ValueError as error:
        raise NsnetError(f"show {name!r}: its claim cannot be read: {error}") from None
    if not claim.is_of_this_boot():
        raise NsnetError(f"show {name!r}: it was up before the machine was restarted; nsnet up brings it up again")
    return claim


def _all(claim: Claim, faults: List[Fault], routes: List) -> Dict[str, Any]:
    return {**about(claim, True), "declaration": claim.declaration,
            "attachments": [{**drift.entry_of(claim, host_ifname)} for host_ifname in claim.attachments],
            "forwarding": claim.forwarding,
            "remote_routes": [{"dst": dst, "via": via} for dst, via in routes],
            "faults": [{"where": fault.where, "what": fault.what} for fault in faults]}


def _print(claim: Claim, spec: declaration.NetworkSpec, faults: List[Fault], routes: List) -> None:
    one = about(claim, True)
    print(f"{claim.bridge}: {one['state']}, lifetime {claim.lifetime}" + (", adopted" if claim.adopted else ""))
    print(f"  address     {', '.join(map(str, spec.addresses))}")
    if spec.forward:
        print(f"  forwards    to and from {', '.join(spec.forward)}")
    for dst, via in routes:
        print(f"  remote      ip route add {dst} via {via}")
    for host_ifname in claim.attachments:
        entry = drift.entry_of(claim, host_ifname)
        process = f", process {entry['pid']}" if entry["pid"] is not None else ""
        print(printable(f"  attached    {entry['name']}: {host_ifname} to {entry['ifname']}, "
                        f"{', '.join(entry['addresses'])}{process}"))
    for fault in faults:
        print(f"  not so      {printable(str(fault))}")

"""`nsnet list`: the networks that there are, by the claims in the state directory; and those of this network namespace
that keep nothing on disk, by their links."""

from __future__ import annotations

import argparse
import json
import sys

from nsnet import ownership, state
from nsnet.cli.options import printable
from nsnet.errors import NsnetError
from nsnet.netns import Netns
from nsnet.ownership import Claim, Mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

_COLUMNS = ("bridge", "state", "lifetime", "address", "attached")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a list with an object for each network")


def run(options: argparse.Namespace) -> int:
    """Exit 1 if there is a claim that cannot be read."""
    with Netns.current() as here:
        found = networks(here)
    if options.json:
        print(json.dumps(found))
    elif not found:
        print("no networks")
    else:
        rows = [_COLUMNS, *([str(one[name]) if name != "address" else " ".join(one[name]) for name in _COLUMNS]
                            for one in found)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        for row in rows:
            print(printable("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip()))
    problems = unreadable()
    for problem in problems:
        print(f"nsnet: {printable(problem)}", file=sys.stderr)
    return 1 if problems else 0


def networks(here: Netns) -> List[Dict[str, Any]]:
    """Sorted by name. `here`: whether it is in this network namespace."""
    directory, identity = state.directory(), here.identity
    found = [about(claim, claim.netns == identity) for claim in ownership.claims(directory)]
    for one in found:
        if one["here"] and one["state"].startswith("up") and not here.find(one["bridge"]):
            one["state"] += ", but its bridge is gone"
    return sorted(found + _unwritten(here), key=lambda one: (one["bridge"], one["netns"]))


def unreadable() -> List[str]:
    """What is wrong with the claims that cannot be read."""
    directory, found = state.directory(), []
    for key in ownership.keys(directory):
        try:
            ownership.load(directory, key)
        except NsnetError as error:
            found.append(str(error))
    return found


def about(claim: Claim, here: bool) -> Dict[str, Any]:
    """One network, by its claim."""
    owner = claim.owner_process()
    return {"bridge": claim.bridge, "state": _state(claim) + ("" if here else ", in another network namespace"),
            "lifetime": claim.lifetime, "address": _listed(claim.declaration.get("address")),
            "attached": len(claim.attachments), "owner": owner.pid if claim.lifetime == "process" else None,
            "adopted": claim.adopted, "netns": claim.netns, "here": here, "key": claim.key}


def _state(claim: Claim) -> str:
    if not claim.is_of_this_boot():
        return "gone with a reboot; gc forgets it"
    if claim.lifetime == "process":
        owner = claim.owner_process()
        return (f"up, by process {owner.pid}" if owner.runs() is not False
                else f"left behind by process {owner.pid}; gc removes it")
    return claim.state


def _listed(value: Any) -> List[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _unwritten(here: Netns) -> List[Dict[str, Any]]:
    found: Dict[str, Dict[str, Any]] = {}
    links = [(link, Mark.parse(link.ifalias)) for link in here.links(stats=False)]
    for link, mark in links:
        if mark is not None and mark.group == link.group and link.kind == "bridge":
            found[mark.id] = {"bridge": link.ifname, "state": "up" if link.up else "down", "lifetime": "owner",
                              "address": [one.address for one in here.addresses(link.index)], "attached": 0,
                              "owner": None, "adopted": False, "netns": here.identity, "here": True, "key": mark.id}
    for link, mark in links:
        if mark is not None and mark.id in found and link.kind != "bridge":
            found[mark.id]["attached"] += 1
    return list(found.values())

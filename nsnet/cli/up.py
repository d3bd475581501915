"""`nsnet up FILE`: networks as a JSON or TOML file declares them; what is up already is looked at and repaired.

All of a file or nothing: if one network cannot be brought up, those that this call brought up are taken down again.
"""

from __future__ import annotations

import argparse
import errno
import json
import signal
import sys

from nsnet import declaration
from nsnet.cli.options import printable
from nsnet.cli.signals import Stop, stoppable
from nsnet.drift import Fault
from nsnet.errors import NotPermitted, NsnetError, UsageError
from nsnet.netns import Netns
from nsnet.network import Network, Step
from nsnet.ownership import SHARED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ("A network that was declared stays until `nsnet down`, whatever becomes of this command; run again, up"
                     " repairs what is not as declared, and sends nothing if nothing is wrong.")
    parser.add_argument("file", metavar="FILE", nargs="?", help="JSON or TOML; - for standard input")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, in words, and send nothing")
    parser.add_argument("--foreground", action="store_true", help="stay, and take all of it down at the end (Ctrl-C, or"
                        " SIGTERM); without CAP_NET_ADMIN, on a private host")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of FILE")
    parser.add_argument("--json", action="store_true", help="print one object")


def run(options: argparse.Namespace) -> int:
    """Exit 0 if all is as declared."""
    if options.schema:
        print(json.dumps(declaration.schema(), indent=2))
        return 0
    if options.file is None:
        raise UsageError("up: expected FILE")
    specs = declaration.load(options.file)
    for spec in specs:
        if spec.lifetime not in SHARED and not options.foreground and not options.dry_run:
            raise UsageError(f"{options.file}: network {spec.bridge}: lifetime {spec.lifetime!r} ends with this command;"
                             f" expected --foreground, or one of {', '.join(SHARED)}")
    with Netns.host() as host, stoppable() as stop:
        if host.private and not options.foreground:
            refused = NotPermitted(errno.EPERM, f"bridge {specs[0].bridge}")
            refused.hint = ("no CAP_NET_ADMIN over this network namespace; --foreground makes a private host, which lasts as"
                            " long as this command")
            raise refused
        progress = Progress(sum(len(spec.attachments) for spec in specs), options.json)
        networks = [Network.from_spec(spec, netns=host, on_step=progress) for spec in specs]
        if options.dry_run:
            return _preview(networks, options.json)
        done: Dict[str, List[Fault]] = {}
        stays = False
        try:
            for network in networks:
                progress.of(network.bridge)
                try:
                    done[network.bridge] = network.up()
                except NsnetError as error:
                    error.where = error.where or network.bridge
                    raise
            progress.end()
            stays = options.foreground
            _report(networks, done, options.json)
            if stays:
                if not options.json:
                    print("Up until Ctrl-C or SIGTERM.", flush=True)
                while True:
                    signal.pause()
        except BaseException:
            progress.end()
            _take_down([one for one in networks if stays or one.created], stop)
            raise


def _take_down(networks: List[Network], stop: Stop) -> None:
    with stop.shielded():
        for network in reversed(networks):
            try:
                if network.is_up:           # else it has undone what it did, or is another process's
                    network.down()
            except NsnetError as error:
                print(f"nsnet: {network.bridge}: {printable(str(error))}", file=sys.stderr)


def _report(networks: List[Network], done: Dict[str, List[Fault]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"networks": [
            {"bridge": network.bridge, "state": _state(network, done),
             "changes": [{"where": fault.where, "what": fault.what} for fault in done[network.bridge]],
             "attachments": network.entries()} for network in networks]}), flush=True)
        return
    for network in networks:
        state = _state(network, done)
        if state == "created":
            print(f"{network.bridge}: up, {len(network.entries())} attached", flush=True)
        elif state == "unchanged":
            print(f"{network.bridge}: it is as declared", flush=True)
        else:
            for fault in done[network.bridge]:
                words = printable(_words(network.bridge, fault.where, fault.what))
                print(f"{network.bridge}: repaired: {words}", flush=True)


def _state(network: Network, done: Dict[str, List[Fault]]) -> str:
    return "created" if network.created else "repaired" if done[network.bridge] else "unchanged"


def _preview(networks: List[Network], as_json: bool) -> int:
    """Nothing at all for what is as declared."""
    from nsnet.exchange import Exchange
    from nsnet.explainer import Explainer       # here: only a preview is in words

    found: List[Dict[str, Any]] = []
    for network in networks:
        for fault, requests in network.preview():
            data = Exchange(requests, 1).data if requests else b""
            found.append({"bridge": network.bridge, "where": fault.where, "what": fault.what, "then": _then(fault),
                          "messages": Explainer().text(data) if data else "", "hex": data.hex()})
    if as_json:
        print(json.dumps({"changes": found}))
        return 0
    for one in found:
        print(f"{one['bridge']}: {printable(_words(one['bridge'], one['where'], one['what']))}")
        for line in (*one["messages"].splitlines(), *map(printable, one["then"])):
            print(f"  {line}")
    return 0


def _words(bridge: str, where: str, what: str) -> str:
    """Of the bridge itself, its name is said already."""
    return what if where == bridge else f"{where}: {what}"


def _then(fault: Fault) -> List[str]:
    """What an up would do besides what it sends."""
    found = []
    if fault.kind in ("attach", "detach") and fault.entry is not None:
        found.append(f"what is attached as {fault.entry} goes first, with its process if nsnet launched it")
    if fault.kind == "attach" and fault.spec is not None:
        found += ["its addresses are found then"] * fault.spec.auto
        if fault.spec.command is not None:
            import shlex

            found.append("it runs " + shlex.join(fault.spec.command))
        found += [f"sysctl {key} = {value}" for key, value in fault.spec.sysctls]
    if fault.kind in ("sysctls", "forwarding"):
        found.append("by sysctls, or IFLA_INET_CONF")
    return found


class Progress:
    """How far a long `up` is, for a person at a terminal; one line, rewritten."""

    def __init__(self, attachments: int, quiet: bool):
        self._all, self._attached, self._bridge = attachments, 0, ""
        self._shown = not quiet and sys.stderr is not None and sys.stderr.isatty()

    def of(self, bridge: str) -> None:
        self._bridge = bridge
        self._show()

    def __call__(self, step: Step) -> None:
        if step.name == "container":
            self._attached += 1
            self._show()

    def _show(self) -> None:
        if self._shown:
            sys.stderr.write(f"\r\033[K{self._bridge}: {self._attached} of {self._all} attached")
            sys.stderr.flush()

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._shown = False

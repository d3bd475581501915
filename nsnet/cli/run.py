"""`nsnet run`: a command in new namespaces, in joined ones, or both, as a person would use unshare(1) or bwrap(1)."""

from __future__ import annotations

import argparse

from nsnet import idmap, kernel, process
from nsnet.cli import options as common
from nsnet.cli.attend import attend
from nsnet.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

DEFAULT_KINDS = ("user", "net")
_KINDS = ", ".join(sorted(kernel.CLONE_FLAGS))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "nsnet run [options] -- COMMAND [ARG ...]"
    parser.epilog = common.ATTENDED + """

In a new pid namespace the command is the first process: all others there end with it. The kernel keeps from it the
signals that it does not handle; nsnet then sends SIGKILL instead of SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and
SIGUSR2 (status 137), and SIGSTOP instead of SIGTSTP."""
    where = parser.add_argument_group("namespaces").add_argument
    where("--new", metavar="KIND[,...]",
          help=f"new namespaces, of {_KINDS}; none for none (user,net without what is joined)")
    where("--join", metavar="KIND=PATH", action="append", default=[],
          help="a namespace that exists, such as net=/run/netns/NAME or user=/proc/PID/ns/user; may be repeated")
    where("--uid-map", metavar="INSIDE:OUTSIDE:COUNT[,...]",
          help="user ids (0 inside is nobody if the caller is root, else the caller)")
    where("--gid-map", metavar="INSIDE:OUTSIDE:COUNT[,...]", help="group ids (the same)")
    where("--map-own", action="store_true",
          help="0 inside is the caller, root as well, without its capabilities outside")
    where("--hostname", metavar="NAME", help="of a new uts")
    where("--proc", action="store_true", help="mount a fresh /proc, in new pid and mnt")
    where("--no-loopback", action="store_true", help="leave lo down in a new net")
    common.add_shared(parser)


def run(options: argparse.Namespace) -> int:
    """The status of the command, as a shell gives it."""
    argv = common.command(options)
    join = _joins(options.join)
    new = tuple(kind for kind in DEFAULT_KINDS if kind not in join)
    if options.new is not None:
        new = common.kinds(options.new, "--new")
    what = {**_maps(options, "user" in new, "user" in join), **common.shared(options)}
    if options.hostname is not None:
        if "uts" not in new:
            raise UsageError(f"--hostname {options.hostname!r}: expected uts in --new")
        what["hostname"] = common.plain(options.hostname, "--hostname")
    if options.proc and not {"pid", "mnt"} <= set(new):
        raise UsageError("--proc: expected pid and mnt in --new")
    if options.no_loopback and "net" not in new:
        raise UsageError("--no-loopback: expected net in --new")
    return attend(argv, as_json=options.json, new=new, join=join, proc=options.proc,
                  loopback=not options.no_loopback, **what)


def _joins(given: List[str]) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for text in given:
        kind, _, path = text.partition("=")
        if kind not in kernel.CLONE_FLAGS or not path:
            raise UsageError(f"--join {text!r}: expected KIND=PATH with a kind of {_KINDS}")
        if kind in found:
            raise UsageError(f"--join {text!r}: expected one namespace of a kind, and there is {found[kind]!r}")
        found[kind] = common.path(path, "--join")
    return found


def _maps(options: argparse.Namespace, new_user: bool, joined_user: bool) -> Dict[str, Any]:
    given = {"uid_map": options.uid_map, "gid_map": options.gid_map}
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if not new_user:
            raise UsageError(f"{option} {value!r}: expected user in --new")
        if options.map_own:
            raise UsageError(f"{option} {value!r}: expected it or --map-own, not both")
        given[name] = idmap.parse_option(value, option)
    if options.map_own:
        if not new_user or joined_user:
            raise UsageError("--map-own: expected user in --new, and none in --join")
        given["uid_map"], given["gid_map"] = process.own_maps()
    return {name: value for name, value in given.items() if value is not None}

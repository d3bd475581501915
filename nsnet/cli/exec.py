"""`nsnet exec`: a command inside the namespaces of something that exists, as a person would use nsenter(1).

Finds out which namespaces are meant: those of a process, of a network namespace with a name, or of a container that a
network of ours launched, which its claim in the state directory tells. Entering them is nsnet.spawn's.
"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack

from nsnet import kernel, ownership, pins, process, state
from nsnet.cli import options as common
from nsnet.cli.attend import attend
from nsnet.errors import KernelError, NsnetError, UsageError
from nsnet.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Tuple, TypeAlias

Namespaces: TypeAlias = "Dict[str, kernel.Descriptor]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "nsnet exec (NAME | --pid PID | --netns NAME|PATH) [options] -- COMMAND [ARG ...]"
    parser.epilog = common.ATTENDED + """

Of the namespaces of a process those are entered that are not the caller's; of a network namespace, it and the user
namespace that owns it, if that is another one. Whoever owns that user namespace needs no privilege. In a user
namespace that is entered the command is its root, without capabilities unless --cap gives some. In a mount namespace
that is entered its directory is /, unless --cwd gives another, and it is looked for there."""
    where = parser.add_argument_group("where").add_argument
    where("name", metavar="NAME", nargs="?", help="a container that nsnet launched: its host's ifname, or its bridge's"
          " if it is the only one on that; else a network namespace in /run/netns")
    where("--pid", metavar="PID", help="the namespaces of that process")
    where("--netns", metavar="NAME|PATH",
          help="a network namespace: its name in /run/netns, or a file (with a / in it)")
    where("--kinds", metavar="KIND[,...]", help="enter only namespaces of these kinds, of "
          + ", ".join(sorted(kernel.CLONE_FLAGS)))
    common.add_shared(parser)


def run(options: argparse.Namespace) -> int:
    """The status of the command, as a shell gives it."""
    argv = common.command(options)
    targets = [value for value in (options.name, options.pid, options.netns) if value is not None]
    if len(targets) != 1:
        raise UsageError(f"exec {' '.join(targets)!r}: expected one of NAME, --pid and --netns")
    wanted = tuple(kernel.CLONE_FLAGS) if options.kinds is None else common.kinds(options.kinds, "--kinds")
    if not wanted:
        raise UsageError(f"--kinds {options.kinds!r}: expected at least one kind")
    what = common.shared(options)
    if options.pid is not None:
        pid = common.number(options.pid, "--pid", "[0-9]{1,10}", 1, 2**31 - 1, "the number of a process")
    for name, value in (("NAME", options.name), ("--netns", options.netns)):
        if value is not None:
            common.path(value, name)
    with ExitStack() as opened:
        if options.pid is not None:
            found = process.namespaces(pid)
        elif options.netns is not None:
            found = _of_netns(options.netns)
        else:
            found = _of_name(options.name)
        for descriptor in found.values():
            opened.enter_context(descriptor)
        join = {kind: descriptor for kind, descriptor in found.items() if kind in wanted}
        if not join:
            kinds = "namespaces" if options.kinds is None else f"{options.kinds} namespaces"
            raise NsnetError(f"exec {targets[0]!r}: its {kinds} are the caller's own; there is nothing to enter")
        try:
            return attend(argv, as_json=options.json, join=join, **what)
        except KernelError as error:
            if error.step == "setns" and "user" in found and "user" not in join:
                error.hint = "without user among --kinds this needs CAP_SYS_ADMIN here"
            elif error.step in ("setuid", "setgid") and "user" in join:
                error.hint = "--user and --group choose ids that are mapped there"
            raise


# --- a network namespace ---

def _of_netns(target: str) -> Namespaces:
    if "/" in target:
        try:
            return _with_owner(target)
        except UsageError as error:
            raise UsageError(f"--netns {error}") from None
    if target not in pins.pinned():
        raise NsnetError(f"--netns {target!r}: no such name in {pins.DIRECTORY}; there {_are(pins.pinned())}")
    return _with_owner(os.path.join(pins.DIRECTORY, target))


def _with_owner(path: str) -> Namespaces:
    """A network namespace and the user namespace that owns it, unless they are ours.

    The first without the second only root of the second's parent may enter.
    """
    found = {"net": kernel.open_namespace(path, "net")}
    try:
        owner = kernel.owner_userns(found["net"].fileno())
        if owner is not None:                   # else it lies above us, and the kernel will say that we may not enter
            found["user"] = owner
        for kind in list(found):
            if os.path.samestat(os.fstat(found[kind].fileno()), os.stat(f"/proc/thread-self/ns/{kind}")):
                found.pop(kind).close()
    except BaseException:
        _close(found)
        raise
    return found


def _close(found: Namespaces) -> None:
    for descriptor in found.values():
        descriptor.close()


# --- a container ---

class _Container(NamedTuple):
    bridge: str
    host_ifname: str
    name: str
    process: ownership.Process

    def __str__(self) -> str:
        alias = "" if self.name == self.host_ifname else f"{self.name}, "
        return f"{self.host_ifname} on {self.bridge} ({alias}process {self.process.pid})"


def _containers() -> List[_Container]:
    """Those that live, by the claims of all networks, as far as these can be read: gc says more of the others."""
    found = []
    for claim in ownership.claims(state.directory()):
        if claim.is_of_this_boot():
            found += [_Container(claim.bridge, host_ifname, entry["name"], claim.process_of(host_ifname))
                      for host_ifname, entry in claim.attachments.items() if entry.get("pid") is not None]
    return sorted(one for one in found if one.process.runs())


def _pinned() -> List[str]:
    """The names in /run/netns; none where that cannot be trusted, as seen from a user namespace without its owner."""
    try:
        return pins.pinned()
    except NsnetError:
        return []


def _of_name(name: str) -> Namespaces:
    there, names = _containers(), _pinned()
    meant = ([one for one in there if one.host_ifname == name] or [one for one in there if one.name == name]
             or [one for one in there if one.bridge == name])
    if len(meant) > 1:
        raise NsnetError(f"exec {name!r}: expected the name of one container; there {_are(meant)}")
    if meant:
        return _of_container(meant[0])
    if name in names:
        return _with_owner(os.path.join(pins.DIRECTORY, name))
    raise NsnetError(f"exec {name!r}: no container and no network namespace of that name;"
                     f" there {_are([*there, *names])}")


def _of_container(container: _Container) -> Namespaces:
    found = process.namespaces(container.process.pid)
    if not container.process.runs():            # now that they are open: nobody else's
        _close(found)
        raise NsnetError(f"exec {container.host_ifname!r}: its process {container.process.pid} has ended")
    return found


def _are(things: Tuple) -> str:
    return f"{'is' if len(things) < 2 else 'are'} {', '.join(map(str, things)) or 'none'}"

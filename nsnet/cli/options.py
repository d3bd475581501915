"""The options that `nsnet run` and `nsnet exec` share: who the command is, what it is given, and how it is attended.

Words of a command line in, arguments of `nsnet.spawn` out; each refusal names its option. Opens nothing, starts
nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import signal
from contextlib import contextmanager

from nsnet import kernel, values
from nsnet.cli import RawFormatter
from nsnet.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple, Union

# The parameters of nsnet.spawn, with whose names its refusals begin, as they are called here.
_OPTIONS = {
    "new": "--new", "join": "--join", "uid_map": "--uid-map", "gid_map": "--gid-map", "user": "--user",
    "group": "--group", "groups": "--groups", "env": "--env", "cwd": "--cwd", "hostname": "--hostname",
    "proc": "--proc", "cgroup": "--cgroup", "rlimits": "--rlimit", "umask": "--umask",
    "oom_score_adj": "--oom-score-adj", "pass_fds": "--pass-fd", "no_new_privs": "--allow-new-privs",
}
_LIMITS = {name[len("RLIMIT_"):].lower(): getattr(resource, name) for name in dir(resource)
           if name.startswith("RLIMIT_")}

ATTENDED = """\
Exit status: the command's own; 128 + n if signal n ended it; 127 if it is not found, 126 if it cannot be run, 1 if
the kernel refuses one of the steps before it, 2 for bad usage.

SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH and SIGCONT are sent on to the command, except those that
were ignored when nsnet began; SIGTSTP (Ctrl-Z) stops the command and nsnet, SIGCONT continues both. A signal that
comes before the command runs ends nsnet, and the command never runs. If nsnet itself is killed with SIGKILL, a
command that runs goes on, unless there is --kill-with-parent.

The command has a session of its own and no controlling terminal, so that it can neither type into the caller's
(TIOCSTI) nor become its foreground job; an interactive shell wants --terminal. It gets no descriptor but 0, 1, 2 and
those of --pass-fd."""


def add_shared(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = RawFormatter
    who = parser.add_argument_group("who the command is").add_argument
    who("--user", metavar="USER", help="its uid inside, or a name that the caller's passwd knows")
    who("--group", metavar="GROUP", help="its gid inside, or a name (that of a --user given by name)")
    who("--groups", metavar="GROUP[,...]", help="its supplementary groups (none)")
    who("--cap", metavar="NAME[,...]", action="append", default=[],
        help="a capability that it has inside; may be repeated (none)")
    who("--allow-new-privs", action="store_true", help="let set-uid programs give it more than that")
    what = parser.add_argument_group("what it is given").add_argument
    what("--env", metavar="NAME[=VALUE]", action="append", default=[],
         help="a variable; without a value that of the caller, if there is one; may be repeated")
    what("--clear-env", action="store_true", help="no variables but those of --env (the caller's); the command is then"
         " looked for in /bin and /usr/bin, unless --env gives PATH")
    what("--cwd", metavar="PATH", help="its directory (the caller's; / in a mount namespace that was joined)")
    what("--umask", metavar="OCTAL", help="(the caller's)")
    what("--rlimit", metavar="NAME=SOFT[:HARD]", action="append", default=[],
         help="a limit of getrlimit(2), such as nofile=1024; without HARD both; numbers or unlimited; may be repeated")
    what("--oom-score-adj", metavar="N", help="-1000 to 1000")
    what("--cgroup", metavar="PATH", help="the directory of a cgroup v2 that it begins in")
    what("--pass-fd", metavar="N", action="append", default=[],
         help="a descriptor of the caller's, under the same number; may be repeated")
    how = parser.add_argument_group("how it is attended").add_argument
    how("--terminal", action="store_true", help="leave it in the caller's session, with the caller's controlling"
        " terminal: for commands that you trust, since whoever has the terminal can type into it where the kernel still"
        " has TIOCSTI")
    how("--kill-with-parent", action="store_true", help="SIGKILL for it (not for its children) when nsnet ends, however"
        " that is")
    how("--json", action="store_true", help="print one object on stderr after the command's end: pid, returncode (minus"
        " the signal that ended it), signal; stdout is the command's")


def command(options: argparse.Namespace) -> Tuple[str, ...]:
    """What stands behind --."""
    if options.trailing is None:
        raise UsageError(f"{options.command}: expected -- COMMAND [ARG ...] at the end")
    return values.command(options.trailing, "command behind --")


def shared(options: argparse.Namespace) -> Dict[str, Any]:
    """The arguments of nsnet.spawn that add_shared()'s options say; those that were not given are left out."""
    names = words(options.cap)
    values.capabilities(names, "--cap")
    found = {
        "user": _id(options.user), "group": _id(options.group),
        "groups": None if options.groups is None else [_id(one) for one in words([options.groups])],
        "env": _environment(options.env, options.clear_env),
        "cwd": None if options.cwd is None else path(options.cwd, "--cwd"),
        "umask": None if options.umask is None else _umask(options.umask),
        "oom_score_adj": None if options.oom_score_adj is None else _score(options.oom_score_adj),
        "cgroup": None if options.cgroup is None else path(options.cgroup, "--cgroup"),
    }
    return {**{name: value for name, value in found.items() if value is not None},
            "capabilities": names, "no_new_privs": not options.allow_new_privs, "rlimits": _rlimits(options.rlimit),
            "pass_fds": [_passed(one) for one in options.pass_fd], "new_session": not options.terminal,
            "pdeathsig": signal.SIGKILL if options.kill_with_parent else 0}


@contextmanager
def said_as_options() -> Iterator[None]:
    """What nsnet.spawn refuses in here is called as the command line calls it."""
    try:
        yield
    except UsageError as error:
        text = re.sub("^[a-z_]+", lambda name: _OPTIONS.get(name.group(), name.group()), str(error))
        raise UsageError(f"--join {text}" if text.startswith("'") else text) from None     # a file that is no namespace


def words(given: Iterable[str]) -> List[str]:
    """Those between the commas."""
    return [word for text in given for word in text.split(",") if word]


def kinds(text: str, what: str) -> Tuple[str, ...]:
    """Kinds of namespaces, separated by commas; "none" and nothing are none."""
    found = () if text in ("", "none") else tuple(text.split(","))
    for kind in found:
        if kind not in kernel.CLONE_FLAGS:
            _refuse(what, text, f"none, or some of {','.join(sorted(kernel.CLONE_FLAGS))}, without {kind!r}")
    return found


def path(value: str, what: str) -> str:
    """Text that can be the name of a file."""
    return plain(value, what) if value else _refuse(what, value, "a path")


def plain(value: str, what: str) -> str:
    """Text that stands for bytes, without NUL: what else there is came through main(), for no shell gives it."""
    try:
        return _refuse(what, value, "no NUL") if b"\0" in os.fsencode(value) else value
    except UnicodeEncodeError:
        _refuse(what, value, "text that stands for bytes")


def number(value: str, what: str, pattern: str, low: int, high: int, expected: str, base: int = 10) -> int:
    """A number written as `pattern` has it, from `low` to `high`."""
    if not re.fullmatch(pattern, value, re.ASCII) or not low <= int(value, base) <= high:
        _refuse(what, value, expected)
    return int(value, base)


def _refuse(what: str, value: str, expected: str) -> Any:
    raise UsageError(f"{what} {value!r}: expected {expected}")


def _id(value: Optional[str]) -> Union[None, int, str]:
    """spawn takes numbers and names."""
    return int(value) if value is not None and re.fullmatch(r"[0-9]{1,10}", value, re.ASCII) else value


def _environment(given: List[str], clear: bool) -> Optional[Dict[str, str]]:
    """None for the caller's, as it is."""
    if not given and not clear:
        return None
    env = {} if clear else dict(os.environ)
    for text in given:
        name, assigned, value = plain(text, "--env").partition("=")
        if not name:
            _refuse("--env", text, "NAME or NAME=VALUE")
        if assigned:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
    return env


def _umask(value: str) -> int:
    return number(value, "--umask", "[0-7]{1,4}", 0, 0o777, "an octal number from 0 to 777", base=8)


def _score(value: str) -> int:
    return number(value, "--oom-score-adj", "-?[0-9]{1,4}", -1000, 1000, "a number from -1000 to 1000")


def _rlimits(given: List[str]) -> Dict[int, Tuple[int, int]]:
    found = {}
    for text in given:
        name, _, limits = text.partition("=")
        soft, several, hard = limits.partition(":")
        if name.lower() not in _LIMITS:
            _refuse("--rlimit", text, f"NAME=SOFT[:HARD] with a name of {', '.join(sorted(_LIMITS))}")
        pair = _limit(text, soft), _limit(text, hard if several else soft)
        if pair[0] > pair[1]:
            _refuse("--rlimit", text, "SOFT to be no more than HARD")
        found[_LIMITS[name.lower()]] = pair
    return found


def _limit(text: str, value: str) -> int:
    """RLIM64_INFINITY is the largest number (getrlimit(2))."""
    if value == "unlimited":
        return 2**64 - 1
    if not re.fullmatch("[0-9]{1,19}", value, re.ASCII):
        _refuse("--rlimit", text, "NAME=SOFT[:HARD] in numbers, or unlimited")
    return int(value)


def _passed(value: str) -> int:
    fd = number(value, "--pass-fd", "[0-9]{1,9}", 3, 2**31 - 1, "the number of a descriptor, from 3 on")
    try:
        given = os.get_inheritable(fd)          # what is not was opened by this program, not by the caller
    except OSError:
        given = False
    return fd if given else _refuse("--pass-fd", value, "a descriptor that the caller has opened")


def printable(text: str) -> str:
    """For a terminal: the names of links may have escape sequences in them."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)

"""The command line: `python -m nsnet COMMAND`, and `nsnet` as a console script.

Knows which file holds which command, exit codes, and that an error is one line on stderr. Each command's file defines
`add_arguments(parser)` and `run(options) -> exit code`; only the one that is called is imported.

Exit codes: 0 done; 1 refused by the kernel or found wanting; 2 bad usage; 126 and 127 for a command that cannot be run
or found, as shells have it; 128 + n when ended by signal n.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from gc import disable, enable, isenabled      # the module's name is that of a command here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, NoReturn, Optional

COMMANDS = {
    "demo": "build a bridge and a container on it, talk to it, take it all down",
    "up": "bring up the networks that a file declares, or repair them",
    "down": "take networks down",
    "list": "list the networks that there are",
    "show": "show one network, and what of it is not as declared",
    "run": "run a command in new namespaces, in existing ones, or both",
    "exec": "run a command in the namespaces of a container, a process, or a network namespace with a name",
    "gc": "remove what networks without a living owner left behind",
    "explain": "show netlink messages, in hex or captured on an nlmon device, in words",
}

RUN_COMMANDS = ("demo", "run", "exec")      # behind --


class Formatter(argparse.HelpFormatter):
    """As wide as the terminal; argparse, which wants one to look at each argument, would import shutil to find that out."""

    def __init__(self, prog: str):
        super().__init__(prog, width=_columns() - 2)


class RawFormatter(Formatter, argparse.RawDescriptionHelpFormatter):
    """That leaves the lines of a description and an epilog as they are."""


def _columns() -> int:
    """As shutil.get_terminal_size() has it."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80
    except (AttributeError, ValueError, OSError):       # no stdout, a closed one, no terminal
        return 80


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def __init__(self, **options: Any):
        super().__init__(**{"formatter_class": Formatter, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command. Returns the exit code; argparse exits by itself with 0 (--help) or 2."""
    try:
        from nsnet.cli.signals import Interrupted
        from nsnet.errors import KernelError, NsnetError, UsageError

        try:
            options = _parse(sys.argv[1:] if argv is None else argv)
            return _command(options.command).run(options)
        except UsageError as error:
            return _complain(error, 2)
        except KernelError as error:
            if error.step == "execve" and options.command in RUN_COMMANDS:
                return _complain(error, 127 if error.errno == errno.ENOENT else 126)
            return _complain(error, 1)
        except (NsnetError, OSError) as error:
            return _complain(error, 1)
        except Interrupted as interrupted:
            return 128 + interrupted.number
    except KeyboardInterrupt:               # before there was a handler, or behind it
        return 130


def _parse(argv: List[str]) -> argparse.Namespace:
    from nsnet import __version__

    parser = _Parser(prog="nsnet", description="User and network namespaces, joined to a bridge on the host.")
    parser.add_argument("--version", action="version", version=f"nsnet {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser, prog="nsnet")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    # Of nine parsers, eight are made in vain where a command comes first: argparse looks for translations of each.
    for name in [chosen] if chosen in COMMANDS and argv[0] == chosen else COMMANDS:
        summary = COMMANDS[name]
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name == chosen:
            _command(name).add_arguments(command)
    words, trailing = _split(argv)
    options, unknown = parser.parse_known_args(words)
    if unknown:
        lacking = options.command in RUN_COMMANDS and trailing is None
        parser.error(f"unrecognized arguments: {' '.join(unknown)}"
                     + ("; expected -- before the command to be run" if lacking else ""))
    if options.command is None:
        parser.error(f"COMMAND: expected one of {', '.join(COMMANDS)}")
    if trailing is not None and options.command not in RUN_COMMANDS:
        parser.error(f"{options.command}: expected nothing behind --, not {' '.join(trailing)!r}")
    options.trailing = trailing
    return options


def _command(name: str) -> Any:
    """The module of a command. Nothing that it imports is garbage, and to look for some takes a tenth of the time."""
    was_enabled = isenabled()
    disable()
    try:
        return importlib.import_module(f"nsnet.cli.{name}")
    finally:
        if was_enabled:
            enable()


def _split(argv: List[str]):
    """(words before "--", words behind it or None): the command to be run may have options of its own."""
    if "--" not in argv:
        return argv, None
    at = argv.index("--")
    return argv[:at], argv[at + 1:]


def _complain(error: BaseException, code: int) -> int:
    from nsnet.cli.options import printable

    where = getattr(error, "where", None)
    text = str(error) if where is None or where in str(error) else f"{where}: {error}"
    print(f"nsnet: {printable(' '.join(text.split()))}", file=sys.stderr)
    return code

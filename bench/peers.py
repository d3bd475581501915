"""Who else does it: pyroute2, and programs. Knows which are here, in which version, and why one is not."""

import re
import subprocess
from importlib import import_module
from typing import Callable, Dict, Optional, Sequence, Tuple

from bench import rivals


def _pyroute2() -> Optional[str]:
    try:
        import_module("pyroute2")
    except ImportError as error:
        return f"not installed ({error})" if error.name == "pyroute2" else f"does not import: {error}"
    return None


def _program(*names: str) -> Callable[[], Optional[str]]:
    def look() -> Optional[str]:
        absent = [name for name in names if rivals.which(name) is None]
        return f"{absent[0]}: not in PATH" if len(names) > 1 and absent else "not in PATH" if absent else None
    return look


def _cni() -> Optional[str]:
    return None if rivals.cni() else f"no bridge plugin in {', '.join(rivals.CNI_DIRECTORIES)}"


def _netavark() -> Optional[str]:
    if rivals.netavark() is None:
        return f"neither in PATH nor {', '.join(rivals.NETAVARK)}"
    return None if rivals.which("iptables") else "iptables, which it calls, is not in PATH"


PEERS: Dict[str, Callable[[], Optional[str]]] = {
    "pyroute2": _pyroute2, "ip": _program("ip"), "hooks": _program("ip", "nsenter"), "cni": _cni, "netavark": _netavark,
    "unshare": _program("unshare"),
}


def roll_call(wanted: Sequence[str], can: Sequence[str] = tuple(PEERS)) -> Tuple[Sequence[str], Dict[str, str]]:
    """Of the wanted peers those that can do it and are here, and why others of these are not."""
    wanted = [name for name in wanted if name in can]
    absent = {name: why for name, why in ((name, PEERS[name]()) for name in wanted) if why is not None}
    return [name for name in wanted if name not in absent], absent


def versions() -> Dict[str, str]:
    """Of those that are here and tell, and of the compiler of the floors."""
    asked = {"gcc": ("gcc", "-dumpfullversion"), "ip": ("ip", "-V"), "brctl": ("brctl", "--version"),
             "unshare": ("unshare", "--version"), "netavark": (rivals.netavark() or "netavark", "--version")}
    found = {}
    if _pyroute2() is None:
        found["pyroute2"] = import_module("pyroute2").__version__
    for name, (program, *words) in asked.items():
        path = rivals.which(program)
        if path is not None:
            done = subprocess.run([path, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, universal_newlines=True)
            number = re.search(r"\d+\.\d+[\w.]*", done.stdout)
            if number:
                found[name] = number[0]
    return found

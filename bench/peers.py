"""Who else does it: pyroute2 as a library, iproute2's `ip` as a process. Knows which are here, and why one is not."""

import shutil
from importlib import import_module
from typing import Callable, Dict, Optional, Sequence, Tuple


def _pyroute2() -> Optional[str]:
    try:
        import_module("pyroute2")
    except ImportError as error:
        return f"not installed ({error})" if error.name == "pyroute2" else f"does not import: {error}"
    return None


def _ip() -> Optional[str]:
    return None if shutil.which("ip") else "not in PATH"


PEERS: Dict[str, Callable[[], Optional[str]]] = {"pyroute2": _pyroute2, "ip": _ip}


def roll_call(wanted: Sequence[str]) -> Tuple[Sequence[str], Dict[str, str]]:
    """The wanted peers that are here, and why the others are not."""
    absent = {name: why for name, why in ((name, PEERS[name]()) for name in wanted) if why is not None}
    return [name for name in wanted if name not in absent], absent

"""Names of a package that are imported when they are asked for (PEP 562): who wants one family waits for no other."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict


def where(home: "Dict[str, str]") -> "Dict[str, str]":
    """{name: module}, from {module: names}."""
    return {name: module for module, names in home.items() for name in names.split()}


def importer(package: str, modules: "Dict[str, str]") -> "Callable[[str], object]":
    """The `__getattr__` of a package. `modules`: {name: the module below it that has it}.

    Of threads that ask at once each imports, and all get the same: import waits for whoever is at it.
    """
    def find(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(__import__(f"{package}.{modules[name]}", fromlist=[name]), name)
        setattr(sys.modules[package], name, value)          # found there from now on
        return value
    return find

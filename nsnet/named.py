"""NamedTuple as typing has it, without typing: that takes as long to import as half of this package.

For the same reason no other module imports typing when it runs: annotations are text, and their names stand under
TYPE_CHECKING, which is true for checkers alone.
"""

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    class _Maker(type):
        """Makes of a class body with annotated fields what collections.namedtuple() makes of their names."""

        def __new__(cls, name, bases, body):
            fields = tuple(body["__annotations__"])
            made = namedtuple(name, fields, defaults=[body.pop(field) for field in fields if field in body],
                              module=body["__module__"])
            for key, value in body.items():
                setattr(made, key, value)
            return made

    NamedTuple = type.__new__(_Maker, "NamedTuple", (), {})

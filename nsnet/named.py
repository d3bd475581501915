"""NamedTuple as typing has it, without typing: that takes as long to import as half of this package.

For the same reason no other module imports typing when it runs: annotations are text, and their names stand under
TYPE_CHECKING, which is true for checkers alone.

A class made here is what collections.namedtuple() makes, but quicker made: its methods are inherited, not made for it, and
its `__new__` is not compiled but one of some that are, with other names of arguments.
"""

from collections import _tuplegetter, namedtuple        # type: ignore[attr-defined]

_new_tuple = tuple.__new__
_NEW = [new.__code__ for new in (                       # by the number of fields, less one
    lambda _cls, a: _new_tuple(_cls, (a,)),
    lambda _cls, a, b: _new_tuple(_cls, (a, b)),
    lambda _cls, a, b, c: _new_tuple(_cls, (a, b, c)),
    lambda _cls, a, b, c, d: _new_tuple(_cls, (a, b, c, d)),
    lambda _cls, a, b, c, d, e: _new_tuple(_cls, (a, b, c, d, e)),
    lambda _cls, a, b, c, d, e, f: _new_tuple(_cls, (a, b, c, d, e, f)),
    lambda _cls, a, b, c, d, e, f, g: _new_tuple(_cls, (a, b, c, d, e, f, g)),
    lambda _cls, a, b, c, d, e, f, g, h: _new_tuple(_cls, (a, b, c, d, e, f, g, h)),
)]
_Function = type(lambda: None)


class _Named(tuple):
    """The methods of a named tuple."""

    __slots__ = ()

    @classmethod
    def _make(cls, iterable):
        """A new one from a sequence of all fields."""
        made = _new_tuple(cls, iterable)
        if len(made) != len(cls._fields):
            raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
        return made

    def _replace(self, /, **changes):
        """A new one with other values of some fields."""
        made = _new_tuple(type(self), map(changes.pop, self._fields, self))
        if changes:
            raise TypeError(f"Got unexpected field names: {list(changes)!r}")
        return made

    __replace__ = _replace                              # copy.replace(), Python 3.13

    def _asdict(self):
        """{field: value}."""
        return dict(zip(self._fields, self))

    def __repr__(self):
        return type(self).__name__ + self._form % self

    def __getnewargs__(self):
        """For pickle and copy."""
        return tuple(self)


def _constructor(name, fields, defaults):
    """`__new__` of a class with these fields, the last ones with these defaults."""
    if len(fields) > len(_NEW):
        return namedtuple(name, fields, defaults=defaults).__new__
    made = _Function(_NEW[len(fields) - 1].replace(co_name="__new__", co_varnames=("_cls", *fields)), globals(), "__new__",
                     defaults)
    made.__qualname__ = f"{name}.__new__"
    return made


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    class _Maker(type):
        """Makes a named tuple of a class body with annotated fields."""

        def __new__(cls, name, bases, body):
            fields = tuple(body["__annotations__"])
            defaults = {field: body[field] for field in fields if field in body}
            if any(field.startswith("_") for field in fields) or tuple(defaults) != fields[len(fields) - len(defaults):]:
                raise TypeError(f"{name}: expected fields without _ in front, those with a default last")
            return type(name, (_Named,), {
                "__doc__": f"{name}({', '.join(fields)})", **body, "__slots__": (), "__match_args__": fields,
                "_fields": fields, "_field_defaults": defaults, "_form": f"({', '.join(f'{field}=%r' for field in fields)})",
                "__new__": _constructor(name, fields, tuple(defaults.values())),
                **{field: _tuplegetter(place, f"Alias for field number {place}") for place, field in enumerate(fields)}})

    NamedTuple = type.__new__(_Maker, "NamedTuple", (), {})

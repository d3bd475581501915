"""Our NamedTuple beside the one of typing: whoever has one in his hands sees no difference."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import typing

import pytest

from nsnet import named, network, values

FIELDS = ["host", "port", "words", "flags", "tolerate", "kind", "held", "more", "and_more", "last"]


def made(base, count, defaults=0):
    """A class with so many fields, of which the last ones have defaults."""
    body = {"__module__": __name__, "__qualname__": "Made", "__annotations__": dict.fromkeys(FIELDS[:count], "int"),
            **{field: place * 10 for place, field in enumerate(FIELDS[:count]) if place >= count - defaults}}
    if base is named.NamedTuple:
        return type(base)("Made", (base,), body)
    return typing.NamedTupleMeta("Made", (typing._NamedTuple,), body)


def pair(count, defaults=0):
    return made(named.NamedTuple, count, defaults), made(typing.NamedTuple, count, defaults)


SHAPES = [(count, defaults) for count in range(1, len(FIELDS) + 1) for defaults in range(count + 1)]


@pytest.mark.parametrize("count, defaults", SHAPES)
def test_it_is_made_and_shown_as_typings_is(count, defaults):
    ours, theirs = pair(count, defaults)
    for given in range(count - defaults, count + 1):
        one, other = ours(*range(given)), theirs(*range(given))
        assert one == other and repr(one) == repr(other) and one._asdict() == other._asdict() and hash(one) == hash(other)
        assert [getattr(one, field) for field in FIELDS[:count]] == list(other)
        by_name = ours(**dict(zip(FIELDS[:given], range(given))))
        assert by_name == one and type(by_name) is ours and len(one) == count
    for name in ("_fields", "_field_defaults", "__slots__", "__module__", "__qualname__"):
        assert getattr(ours, name) == getattr(theirs, name), name
    if sys.version_info >= (3, 10):
        assert ours.__match_args__ == theirs.__match_args__
    assert list(inspect.signature(ours).parameters.values()) == [
        parameter.replace(annotation=inspect.Parameter.empty) for parameter in inspect.signature(theirs).parameters.values()]
    assert not hasattr(one, "__dict__") and type(ours) is type


@pytest.mark.parametrize("count, defaults", [(1, 0), (3, 1), (8, 2), (9, 2)])
def test_what_does_not_fit_is_refused_as_typings_does(count, defaults):
    for arguments, named_ones in (((0,) * (count - defaults - 1), {}), ((0,) * (count + 1), {}),
                                  ((0,) * count, {"nosuch": 1}), ((0,) * count, {"host": 1})):
        for one in pair(count, defaults):
            with pytest.raises(TypeError, match="__new__|<lambda>"):
                one(*arguments, **named_ones)
    one, other = (kind(*range(count)) for kind in pair(count, defaults))
    for each in (one, other):
        with pytest.raises(TypeError):
            each._make(range(count + 1))
        with pytest.raises((TypeError, ValueError), match="nosuch"):
            each._replace(nosuch=1)
        with pytest.raises(AttributeError):
            each.host = 1
        assert each._replace(host=77) == (77, *each[1:]) and type(each._replace(host=77)) is type(each)
        assert type(each)._make(iter(each)) == each


@pytest.mark.parametrize("annotations, defaults", [(["_hidden"], {}), (["host", "port"], {"host": 1})])
def test_a_body_that_cannot_be_meant_is_refused(annotations, defaults):
    with pytest.raises(TypeError, match="expected fields"):
        type(named.NamedTuple)("Made", (named.NamedTuple,), {
            "__module__": __name__, "__annotations__": dict.fromkeys(annotations, "int"), **defaults})


def test_those_that_are_public_can_be_copied_and_kept():
    for one in (values.address("10.0.0.2/24"), network.Step("bridge", ("br0",), 0.5)):
        for again in (copy.copy(one), copy.deepcopy(one), *(pickle.loads(pickle.dumps(one, protocol))
                                                            for protocol in range(pickle.HIGHEST_PROTOCOL + 1))):
            assert again == one and type(again) is type(one)


def test_methods_and_properties_of_the_body_are_there():
    class Pair(named.NamedTuple):
        """Two."""

        first: int
        second: int = 2

        @property
        def sum(self) -> int:
            return self.first + self.second

        def __str__(self) -> str:
            return f"{self.first}+{self.second}"

        @classmethod
        def of(cls, text: str) -> Pair:
            return cls(*map(int, text.split("+")))

    class Triple(Pair):
        __slots__ = ()

    assert (Pair(1).sum, str(Pair.of("3+4")), Pair.__doc__, repr(Triple(1))) == (3, "3+4", "Two.", "Triple(first=1, second=2)")
    assert type(Triple(1)._replace(first=5)) is Triple and Triple(5) == Pair(5)

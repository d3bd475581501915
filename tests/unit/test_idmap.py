"""Id maps: nothing beyond 32 bits, nothing twice, nothing that wraps, whatever is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ANY_TEXT, one_line, refused

from nsnet import idmap
from nsnet.errors import UsageError
from nsnet.idmap import MAX_ID, Range

LAST = 2**32 - 2
EDGES = st.sampled_from([0, 1, LAST - 1, LAST, LAST + 1, 2**32, 2**32 + 1, 2**63, 2**64, -1])
NUMBERS = st.one_of(st.integers(-2**70, 2**70), st.integers(0, 2**33), st.integers(0, 20), EDGES)
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=6)


def overlap(ranges, side):
    """Whether two ranges share an id, on one side; said another way than idmap says it."""
    return any(a[side] < b[side] + b.count and b[side] < a[side] + a.count
               for position, a in enumerate(ranges) for b in ranges[:position])


@st.composite
def good_maps(draw):
    """Ranges that do not overlap on either side, in any order."""
    counts = draw(st.lists(st.integers(1, 2**16), min_size=1, max_size=6))
    sides = []
    for _ in range(2):
        at, starts = 0, []
        for count in counts:
            at += draw(st.integers(0, 2**20))
            starts.append(at)
            at += count
        sides.append(starts)
    return draw(st.permutations([Range(*row) for row in zip(*sides, counts)]))


@given(ROWS)
def test_nothing_beyond_the_range_is_accepted(rows):
    try:
        ranges = idmap.check(rows)
    except UsageError as error:
        assert one_line(str(error))
        return
    assert ranges == tuple(rows)
    for item in ranges:
        assert item.count >= 1
        for start in (item.inside, item.outside):
            assert 0 <= start <= start + item.count - 1 <= LAST
    assert not overlap(ranges, 0) and not overlap(ranges, 1)


@given(good_maps())
def test_a_good_map_is_accepted_in_its_order(ranges):
    assert idmap.check(ranges) == tuple(ranges)


@given(good_maps(), st.integers(0, 1), st.data())
def test_a_map_that_overlaps_is_refused(ranges, side, data):
    again = data.draw(st.sampled_from(ranges))
    into = again[side] + data.draw(st.integers(0, again.count - 1))
    row = [2**31, 2**31, 1]
    row[side] = into
    assert "overlap" in refused(idmap.check, [*ranges, tuple(row)])


@given(st.dictionaries(NUMBERS, NUMBERS, max_size=4))
def test_a_mapping_is_single_ids(mapping):
    try:
        ranges = idmap.check(mapping)
    except UsageError:
        return
    assert ranges == tuple(Range(inside, outside, 1) for inside, outside in mapping.items())
    assert all(0 <= number <= LAST for pair in mapping.items() for number in pair)


@pytest.mark.parametrize("row", [
    (0, 2**32, 1), (2**32, 0, 1), (0, 0, 2**32), (0, LAST + 1, 1), (0,
     0, LAST + 2), (0, 1, LAST + 1), (LAST, 0, 2), (0, LAST, 2),
    (-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, -1), (0, 4294967296, 1), (0, 2**64, 1), (2**63, 2**63, 1)])
def test_a_number_that_the_kernel_would_wrap_is_refused(row):
    assert str(row) in refused(idmap.check, [row], "uid_map")


@pytest.mark.parametrize("row", [(LAST, 0, 1), (0, LAST, 1), (1, 0, LAST), (0, 1, LAST)])
def test_a_range_may_end_with_the_last_id(row):
    assert idmap.check([row]) == (Range(*row),)


@pytest.mark.parametrize("row", [(True, 0, 1), (0, False, 1), (0, 0, True), ("0", 0, 1), (0.0, 0, 1), (None, 0, 1),
                                 (0, 0), (0, 0, 1, 1), ()])
def test_what_is_no_row_is_refused(row):
    assert repr(row) in refused(idmap.check, [row])


@pytest.mark.parametrize("value", [5, None, [5], [None], "0 0 1"], ids=repr)
def test_what_is_no_map_is_refused(value):
    assert refused(idmap.check, value, "uid_map").startswith("uid_map")


def test_the_number_of_lines_is_the_kernels():
    assert "1 to 340 lines, not 0" in refused(idmap.check, [])
    assert len(idmap.check({number: number for number in range(340)})) == 340
    assert "not 341" in refused(idmap.check, {number: number for number in range(341)})


def test_a_map_fits_one_write():
    rows = [(LAST - number, LAST - number, 1) for number in range(340)]
    assert "4095 bytes" in refused(idmap.check, rows)
    fitting = rows[:4095 // len(idmap.text([Range(*rows[0])]))]
    assert len(idmap.text(idmap.check(fitting))) <= 4095
    assert "4095 bytes" in refused(idmap.check, rows[:len(fitting) + 1])


@given(good_maps())
def test_a_map_is_read_as_it_was_written(ranges):
    assert idmap.parse(idmap.text(ranges)) == tuple(ranges)


def test_a_map_is_read_as_the_kernel_writes_it():
    assert idmap.parse("         0          0 4294967295\n") == (Range(0, 0, 4294967295),)
    assert idmap.parse("") == ()
    assert idmap.text([Range(0, 1000, 1), Range(1, 100000, 65536)]) == "0 1000 1\n1 100000 65536\n"


@given(good_maps(), st.integers(0, 2**32))
def test_an_id_is_outside_where_its_range_says(ranges, inside):
    found = [item.outside + inside - item.inside for item in ranges
             if item.inside <= inside <= item.inside + item.count - 1]
    assert idmap.outside_of(ranges, inside) == (found[0] if found else None)


@given(good_maps())
def test_an_option_is_the_map(ranges):
    assert idmap.parse_option(",".join(":".join(map(str, row)) for row in ranges), "--uid-map") == tuple(ranges)


@given(st.one_of(ANY_TEXT, st.lists(st.one_of(st.sampled_from(":,"), NUMBERS.map(str)), max_size=8).map("".join)))
def test_any_text_is_a_map_or_a_usage_error(text):
    try:
        ranges = idmap.parse_option(text, "--uid-map")
    except UsageError as error:
        assert str(error).startswith("--uid-map") and one_line(str(error))
    else:
        assert idmap.check(ranges) == ranges


@pytest.mark.parametrize("text", ["", "0", "0:0", "0:0:1:1", "0:0:1,", ":0:1", "0:-1:1", "0:+1:1", "0: 1:1", "0:1_0:1",
                                  "٠:0:1"])
def test_an_option_that_is_no_map_is_refused(text):
    assert repr(text) in refused(idmap.parse_option, text, "--uid-map")


def test_an_option_with_a_number_that_python_would_not_read_is_refused():
    """int() of more than 4300 digits is a ValueError of Python's own, which no command catches."""
    assert refused(idmap.parse_option, "9" * 5000 + ":0:1", "--uid-map").startswith("--uid-map")


def test_the_bounds_are_those_of_the_kernel():
    assert (MAX_ID, idmap.MAX_LINES, idmap.MAX_BYTES) == (LAST, 340, 4095)

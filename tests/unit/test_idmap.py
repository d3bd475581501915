"""Id maps: nothing beyond 32 bits, nothing twice, nothing that wraps, whatever is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ANY_TEXT, one_line, refused

from nsnet import idmap
from nsnet.errors import UsageError
from nsnet.idmap import MAX_ID, Range, Subordinate

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


# --- subordinate ids ---

WORDS = st.one_of(NUMBERS.map(str), ANY_TEXT, st.sampled_from(
    ["alice", "bob", "1000", "", " ", "+", "0x", "0x1F", "010", "08", "#", "\r", "\x85", "\u2028", "٣", "9" * 20,
     "9" * 5000]))
FILES = st.lists(st.lists(WORDS, max_size=5).map(":".join), max_size=5).map("\n".join)
SUBORDINATE = st.lists(st.builds(Subordinate, st.just("alice"), NUMBERS, NUMBERS), max_size=6)
GIVEN = st.lists(st.builds(Subordinate, st.just("alice"), st.integers(0, 60), st.integers(1, 20)), max_size=6)


def ids_of(entries):
    """Every single id of small ranges, or of the outside of a small map."""
    return {number for entry in entries for number in range(entry[1], entry[1] + entry[2])}


@given(FILES)
def test_any_file_is_ranges(content):
    for entry in idmap.parse_subids(content):
        assert entry.owner and ":" not in entry.owner and "\n" not in entry.owner
        assert 0 <= entry.start < 2**64 and 0 < entry.count < 2**64
        assert idmap.rootless(1000, [entry])


@given(st.lists(st.builds(Subordinate, st.sampled_from(["alice", "1000", "_x.y-z"]), st.integers(0, 2**64 - 1),
                          st.integers(1, 2**64 - 1)), max_size=6),
       st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0{:o}", " +{}"]))
def test_a_good_file_is_read_in_its_order(entries, form):
    content = "".join(f"{owner}:{form.format(start)}:{form.format(count)}\n" for owner, start, count in entries)
    assert idmap.parse_subids(content) == tuple(entries)
    assert idmap.parse_subids(content[:-1]) == tuple(entries)


@pytest.mark.parametrize("line", [
    "", ":", "::", "alice", "alice:1", "alice:1:", "alice::1", ":1:1", "alice:1:-1", "alice:-1:1", "alice:1:0",
    "alice:1:0x", "alice:08:1", "alice:1 :1", "alice:1:1 ", "alice:1:1\r", "alice:1_0:1", "alice:٣:1", "alice:1.0:1",
    "alice:a:1", "alice:1;1", "alice:1:18446744073709551616", "alice:" + "0" * 1020 + ":1", "+alice:1:1", "-alice:1:1",
    "alice:1:1\0", "alice:1:\x851"])
def test_a_line_that_is_no_range_is_passed_over(line):
    good = Subordinate("bob", 100000, 65536)
    assert idmap.parse_subids(f"bob:100000:65536\n{line}\n") == (good,)
    assert idmap.parse_subids(f"{line}\nbob:100000:65536") == (good,)


def test_what_shadow_takes_though_nobody_would_write_it():
    assert idmap.parse_subids("#alice:1:2\n alice:1:2\nalice: 1:\t2\nalice:1:2:3\nalice:1:2:\nalice:0:1") == (
        ("#alice", 1, 2), (" alice", 1, 2), ("alice", 1, 2), ("alice", 1, 2), ("alice", 1, 2), ("alice", 0, 1))


def test_the_longest_line_is_shadows():
    line = "alice:" + "0" * 1014 + "1:7"
    assert len(line) == 1023 and idmap.parse_subids(line) == (("alice", 1, 7),)
    assert idmap.parse_subids("a" + line) == ()


def test_ranges_belong_to_a_name_and_a_number():
    entries = idmap.parse_subids("alice:1:1\nbob:2:1\n1000:3:1\nalice:4:1\n01000:5:1\nalic:6:1")
    assert [entry.start for entry in idmap.subids_of(entries, {"alice", "1000"})] == [1, 3, 4]
    assert idmap.subids_of(entries, {"carol"}) == ()


@pytest.mark.parametrize("content, expected", [
    ("", "files"), ("passwd: files sss\n", "files"), ("subid: sss\n", "sss"), ("passwd: x\nSubID:\tsss files\n", "sss"),
    ("subid: files\nsubid: sss", "files"), ("#subid: sss", "files"), (" subid: sss", "files"),
    ("subid:\nsubid: ldap", "ldap"), ("subids: sss", "files")])
def test_who_knows_the_ranges(content, expected):
    assert idmap.subid_source(content) == expected


@given(ANY_TEXT)
def test_any_nsswitch_names_a_source(content):
    assert idmap.subid_source(content) and idmap.subid_source("subid:" + content)


@given(good_maps(), st.integers(0, 2**20))
def test_only_the_own_single_id_needs_no_privilege(ranges, own):
    alone = len(ranges) == 1 and ranges[0].count == 1 and ranges[0].outside == own
    assert idmap.beyond_own(ranges, own) is not alone


def test_the_own_single_id_may_be_anything_inside():
    assert not idmap.beyond_own(idmap.check({0: 1000}), 1000) and not idmap.beyond_own(idmap.check({5: 1000}), 1000)
    assert idmap.beyond_own(idmap.check({0: 1001}), 1000) and idmap.beyond_own(idmap.check([(0, 1000, 2)]), 1000)
    assert idmap.beyond_own(idmap.check({0: 1000, 1: 1001}), 1000)


@given(st.lists(st.builds(Range, st.integers(0, 90), st.integers(0, 90), st.integers(1, 30)), min_size=1, max_size=4),
       st.integers(0, 90), GIVEN)
def test_a_map_is_allowed_if_each_line_is_the_callers(ranges, own, given_ids):
    """As newuidmap has it, said with sets of single ids."""
    mine = ids_of(given_ids)
    good = [(item.count == 1 and item.outside == own) or ids_of([item]) <= mine for item in ranges]
    if all(good):
        idmap.check_allowed(ranges, own, given_ids)
    else:
        said = refused(idmap.check_allowed, ranges, own, given_ids, "gid_map")
        assert said.startswith(f"gid_map {tuple(ranges[good.index(False)])!r}: ") and one_line(said)


@given(ROWS, NUMBERS, SUBORDINATE)
def test_whatever_is_asked_of_whatever_file_it_is_allowed_or_refused(rows, own, given_ids):
    try:
        idmap.check_allowed(idmap.check(rows), own, given_ids)
    except UsageError as error:
        assert one_line(str(error))


@pytest.mark.parametrize("row, at", [
    ((0, 999, 1), 999), ((0, 1000, 2), 1000), ((1, 100000, 65537), 165536), ((1, 99999, 2), 99999),
    ((1, 300000, 5), 300000), ((1, 165535, 34466), 165536)])
def test_the_first_id_that_is_not_the_callers_is_named(row, at):
    given_ids = [Subordinate("alice", 200000, 10), Subordinate("alice", 100000, 65536)]
    said = refused(idmap.check_allowed, [Range(*row)], 1000, given_ids)
    assert said.startswith(f"uid_map {row!r}: {at} is neither the caller's own id 1000 (count 1)")
    assert said.endswith("100000-165535, 200000-200009")


def test_who_has_nothing_is_told_so_and_a_long_list_is_cut():
    assert refused(idmap.check_allowed, [Range(0, 5, 1)], 1000, []).endswith("which are none")
    many = [Subordinate("alice", 1000 * number, 1) for number in range(2, 400)]
    assert refused(idmap.check_allowed, [Range(0, 5, 1)], 1000, many).endswith(", ...")


def test_ranges_that_touch_are_one():
    idmap.check_allowed([Range(1, 100000, 30)], 1000, [Subordinate("a", 100010, 20), Subordinate("a", 100000, 10)])


def test_the_usual_map():
    entries = idmap.parse_subids("alice:100000:65536\nalice:300000:1000\n")
    assert idmap.rootless(1000, entries) == ((0, 1000, 1), (1, 100000, 65536), (65537, 300000, 1000))
    assert idmap.rootless(1000, ()) == ((0, 1000, 1),)


def test_an_id_is_mapped_once_and_none_beyond_the_last():
    assert idmap.rootless(5, [Subordinate("a", 0, 10), Subordinate("a", 8, 4)]) == (
        (0, 5, 1), (1, 0, 5), (6, 6, 4), (10, 10, 2))
    assert idmap.rootless(0, [Subordinate("a", LAST - 1, 2**63)]) == ((0, 0, 1), (1, LAST - 1, 2))
    assert idmap.rootless(0, [Subordinate("a", 0, 2**64 - 1)]) == ((0, 0, 1), (1, 1, LAST))
    assert idmap.rootless(0, [Subordinate("a", 2**32 - 1, 5), Subordinate("a", 2**32, 5)]) == ((0, 0, 1),)


@given(NUMBERS, SUBORDINATE)
def test_whatever_the_file_says_the_usual_map_is_one(own, given_ids):
    try:
        ranges = idmap.rootless(own, given_ids, "gid_map")
    except UsageError as error:
        assert not 0 <= own <= LAST and str(error).startswith("gid_map")
        return
    assert idmap.check(ranges) == ranges and ranges[0] == (0, own, 1)
    assert not overlap(ranges, 0) and not overlap(ranges, 1)


@given(st.integers(0, 90), GIVEN)
def test_the_usual_map_has_all_ids_and_is_allowed(own, given_ids):
    ranges = idmap.rootless(own, given_ids)
    assert ids_of(ranges) == ids_of(given_ids) | {own}
    assert [item.inside for item in ranges] == [sum(item.count for item in ranges[:at]) for at in range(len(ranges))]
    idmap.check_allowed(ranges, own, given_ids)


@pytest.mark.parametrize("step", [3, 2**20])
def test_the_usual_map_is_never_too_long(step):
    """340 lines of few digits, or as many as 4095 bytes hold."""
    ranges = idmap.rootless(0, [Subordinate("a", 2 + step * number, 1) for number in range(2000)])
    assert idmap.check(ranges) == ranges
    assert len(ranges) == 340 or 4095 - len(idmap.text(ranges)) < 33

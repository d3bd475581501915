"""Any error from any system call of `nsnet up`, `down`, `gc` and of a repair: it works nevertheless, or it fails in one
line that says where, and nothing is left of what it did.

strace lets the n-th system call of a kind fail that once; a first run counts them. close is not among them: the kernel
closes in any case, and a call that never came to it does not.
"""

import errno
import re

import pytest

from crash_helpers import ALL, BRIDGE, UPLINK, Place, abandoned, broken, counted, done, spread
from crash_runner import Runners
from live_helpers import needs

MEMORY, FILES, QUEUE = ["ENOMEM"], ["EMFILE", "ENOMEM"], ["EINTR", "EAGAIN"]
ERRORS = {
    "sendto": ["ENOBUFS", "EPERM", *QUEUE, *MEMORY], "recvmsg": ["ENOBUFS", *QUEUE, *MEMORY],
    "poll": ["EINTR", *MEMORY], "recvfrom": ["EINTR", *MEMORY],
    "socket": [*FILES, "ENOBUFS", "EPERM"], "socketpair": FILES, "connect": ["EPERM", *MEMORY],
    "bind": MEMORY, "setsockopt": ["ENOBUFS", *MEMORY], "getsockopt": MEMORY, "getsockname": ["ENOBUFS"],
    "openat": [*FILES, "EINTR", "ENOSPC", "EPERM"], "read": ["EINTR", *MEMORY], "pread64": ["EINTR", *MEMORY],
    "write": ["ENOSPC", "EINTR", "EPERM"], "pwrite64": ["ENOSPC", "EINTR"], "fsync": ["ENOSPC", "EINTR"],
    "rename": ["ENOSPC", "EPERM"], "link": ["ENOSPC", "EPERM"], "unlink": ["EPERM", *MEMORY], "rmdir": MEMORY,
    "mkdir": ["ENOSPC", "EPERM"], "getdents64": MEMORY, "readlink": MEMORY, "newfstatat": MEMORY, "faccessat2": MEMORY,
    "fstatfs": MEMORY, "flock": ["EINTR", *MEMORY], "fcntl": ["EMFILE"],
    "clone3": ["EAGAIN", "EPERM", "ENOSPC", *MEMORY], "setns": ["EPERM", *MEMORY], "ioctl": ["EPERM", *MEMORY],
    "pidfd_open": FILES, "pidfd_send_signal": ["EPERM", *MEMORY],
    "capget": ["EPERM"], "getrandom": ["EINTR"],
}
CANNOT_FAIL = r'newfstatat\([0-9]+, ""|ioctl\(.*NS_GET_NSTYPE|flock\(.*LOCK_UN'
PENDING = re.compile("left behind|still pending")
pytestmark = needs("strace")


@pytest.fixture(scope="module")
def runners():
    made = Runners()
    yield made
    made.close()


def of_up(place, ended, earlier):
    if ended.status == 0:
        assert place.lacks() == []
        done(place.down())
    elif PENDING.search(ended.err):
        done(place.nsnet("gc"))


def of_repair(place, ended, earlier):
    if ended.status == 0:
        assert place.lacks() == []
    elif not PENDING.search(ended.err):
        now = place.look()
        assert set(now[0]["links"]) <= set(earlier[0]["links"]) and now[1] == earlier[1]
        assert place.runner.children() == []
        assert now[0]["forwarding"][UPLINK] == earlier[0]["forwarding"][UPLINK]
    done(place.up())
    assert place.lacks() == []
    done(place.down())


def of_down(place, ended, earlier):
    if ended.status:
        done(place.down())


def of_gc(place, ended, earlier):
    if ended.status:
        done(place.nsnet("gc"))


# how it begins, with which lifetime; the command; what must be true then; how many points of a kind by default
STAGES = {
    "up": (None, "declared", ["up"], of_up, 2),
    "repair": (broken, "declared", ["up"], of_repair, 1),
    "down": (Place.up, "declared", ["down", BRIDGE], of_down, 2),
    "gc": (abandoned, "process", ["gc"], of_gc, 2),
}


@pytest.mark.parametrize("stage", STAGES)
def test_any_call_fails(tmp_path, runners, stage):
    begin, lifetime, words, judge, most = STAGES[stage]

    def spoilt(point):
        name, number, error = point
        with runners.one() as runner, Place(tmp_path / f"{name}-{number}-{error}", runner, lifetime) as place:
            if begin is not None:
                begin(place)
            earlier = place.look()
            ended = place.nsnet(*words, strace=["-e", f"trace={name}", "-e",
                                                f"inject={name}:error={error}:when={number}"])
            try:
                assert ended.status in ((0, 1, 126) if "execve: " in ended.err else (0, 1))
                assert "Traceback" not in ended.err
                if ended.status:
                    assert re.fullmatch(r"nsnet: \S[^\n]*: [^\n]+\n", ended.err)
                judge(place, ended, earlier)
                left = place.left()
            except AssertionError as problem:
                left = str(problem)
            return point, ended, left

    with runners.one() as runner:
        calls = counted(tmp_path / "count", runner, lifetime, begin, words, CANNOT_FAIL)
    points = [(*call, error) for call in calls for error in ERRORS.get(call[0], ())]
    assert all(hasattr(errno, error) for *_, error in points)
    some = points if ALL else [point for name in ERRORS for point in spread(
        [one for one in points if one[0] == name], most * (4 if name == "openat" else 1))]
    results = runners.each(spoilt, some)
    failed = sum(ended.status != 0 for _, ended, _ in results)
    print(f"{stage}: {len(points)} points, {len(some)} tried, {failed} failed")
    assert [result for result in results if result[2]] == []
    assert failed


@pytest.mark.parametrize("words, read", [(["up"], 1), (["down", BRIDGE], 1), (["gc"], 1)])
def test_a_claim_that_cannot_be_read_stays(tmp_path, runners, words, read):
    with runners.one() as runner, Place(tmp_path / "place", runner) as place:
        done(place.up())
        (path,) = place.state.glob("*.json")
        before = path.read_bytes()
        ended = place.nsnet(*words, strace=["-P", str(path), "-e", "trace=openat", "-e",
                                            f"inject=openat:error=EMFILE:when={read}"])
        assert ended.status == 1 and str(path) in ended.err and ended.err.count("\n") == 1, ended
        assert path.read_bytes() == before and place.lacks() == []
        done(place.down())
        assert place.left() == []

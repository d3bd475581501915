"""SIGKILL at any moment of `nsnet up`, `down`, `gc` and of a repair: what comes after it finds its way.

strace kills the command when it is about to make its n-th system call of a kind; a first run counts them. Then gc, down
or up again: all of the network is there, or nothing of it. A dropped fsync cannot be seen here, only after a power cut.
"""

import os
import signal

import pytest

from crash_helpers import ALL, BRIDGE, OTHER, Place, abandoned, broken, counted, done, spread
from crash_runner import Runners
from live_helpers import needs

CHANGES = {"sendto", "rename", "link", "unlink", "rmdir", "clone3", "mkdir", "write", "pwrite64", "flock", "fsync",
           "pidfd_send_signal"}
pytestmark = needs("strace")


@pytest.fixture(scope="module")
def runners():
    made = Runners()
    yield made
    made.close()


def otherwise(place):
    """Up, as it was declared before."""
    text = place.file.read_text()
    place.file.write_text(text.replace(OTHER, "10.0.0.9"))
    done(place.up())
    place.file.write_text(text)


def worn(place):
    """Up, with attachments that have ended."""
    done(place.up())
    (process,) = place.runner.children()
    os.kill(process, signal.SIGKILL)
    place.host.del_link("v2")


def half_built(place):
    """What an `up` leaves that is killed when it has a process, both links and a lease."""
    ended = place.nsnet("up", strace=["-e", "trace=clone3", "-e", "inject=clone3:signal=KILL:when=3"])
    assert ended.status == -signal.SIGKILL and place.left()


def whole_or_nothing(place):
    """What gc leaves is the whole network, which goes by `down`, or nothing."""
    done(place.nsnet("gc"))
    if place.claim() is not None:
        assert place.lacks() == []
        done(place.down())


def gone(place):
    done(place.nsnet("gc"))


def down(place):
    """What was leased before there was a claim goes with the next gc."""
    done(place.down())
    done(place.nsnet("gc"))


def up_again(place):
    done(place.up())
    assert place.lacks() == []
    done(place.down())


def sound(place):
    """What gc leaves attached works."""
    done(place.nsnet("gc"))
    for entry in place.claim()["attachments"].values():
        assert place.runner.witness(place.host.fd, "reach", entry["addresses"][0].partition("/")[0]), entry
    up_again(place)


def kept(place):
    """Nothing is attached any more, and the network stays."""
    done(place.nsnet("gc"))
    assert place.claim()["attachments"] == {} and place.claim()["state"] == "up"
    done(place.down())


# how it begins, with which lifetime; the command; what comes after the kill; how many points by default
STAGES = {
    "up": (None, "declared", ["up"], [whole_or_nothing, up_again, down], 26),
    "repair": (broken, "declared", ["up"], [up_again, down], 16),
    "change": (otherwise, "declared", ["up"], [sound], 14),
    "down": (Place.up, "declared", ["down", BRIDGE], [whole_or_nothing, down, up_again], 14),
    "gc of a killed owner's": (abandoned, "process", ["gc"], [gone], 10),
    "gc of what keeps nothing on disk": (abandoned, "owner", ["gc"], [gone], 3),
    "gc of what was half built": (half_built, "declared", ["gc"], [gone, up_again], 8),
    "gc of what ended": (worn, "declared", ["gc"], [kept, up_again], 8),
}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_system_call(tmp_path, runners, stage):
    begin, lifetime, words, endings, most = STAGES[stage]

    def killed(point):
        name, number, after = point
        with runners.one() as runner, Place(tmp_path / f"{name}-{number}-{after.__name__}", runner, lifetime) as place:
            if begin is not None:
                begin(place)
            ended = place.nsnet(*words, strace=["-e", f"trace={name}", "-e",
                                                       f"inject={name}:signal=KILL:when={number}"])
            try:
                after(place)
                left = place.left()
            except AssertionError as error:
                left = str(error)
            return (name, number, after.__name__), ended.status, left

    with runners.one() as runner:
        calls = counted(tmp_path / "count", runner, lifetime, begin, words)
    kinds = {"sendto"} if stage == "change" else CHANGES    # there, what counts lies between two of them
    some = calls if ALL else spread([call for call in calls if call[0] in kinds], most)
    points = [(*call, after) for place, call in enumerate(some)
              for after in (endings if ALL else [endings[place % len(endings)]])]
    results = runners.each(killed, points)
    assert [result for result in results if result[2]] == []
    died = sum(status == -signal.SIGKILL for _, status, _ in results)
    print(f"{stage}: {len(calls)} calls, {len(points)} points, {died} killed")
    assert {status for _, status, _ in results} <= {0, -signal.SIGKILL} and died >= 0.7 * len(points)

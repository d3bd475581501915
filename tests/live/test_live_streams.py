"""Talking to a process and waiting for it: communicate() and wait_async(), as subprocess and asyncio have them; its namespaces."""

import asyncio
import contextlib
import errno
import os
import signal
import threading
import time

import pytest

import nsnet
from live_helpers import IS_ROOT, PATIENCE, children, descriptors, namespace_of

CAT, SH = ["/bin/cat"], "/bin/sh"
OWN = {"uid_map": {0: os.geteuid()}, "gid_map": {0: os.getegid()}}
BOTH = {"stdin": nsnet.PIPE, "stdout": nsnet.PIPE}


def shell(script, **options):
    return nsnet.spawn([SH, "-c", script], new={"user"}, **options)


def test_more_than_a_pipe_holds_goes_both_ways():
    data = os.urandom(1 << 20)
    with nsnet.spawn(CAT, new={"user"}, **BOTH) as process:
        assert process.communicate(data) == (data, None)
        assert process.returncode == 0 and process.stdin.closed and process.stdout.closed


def test_both_outputs_are_read_while_the_other_is_full():
    with shell("head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; exit 3", stdout=nsnet.PIPE,
               stderr=nsnet.PIPE) as process:
        out, err = process.communicate(timeout=PATIENCE)
        assert (len(out), len(err), process.returncode) == (300000, 300000, 3)


def test_a_command_that_reads_nothing_is_no_error():
    with nsnet.spawn(["/bin/true"], new={"user"}, stdin=nsnet.PIPE) as process:
        assert process.communicate(b"x" * (1 << 20), timeout=PATIENCE) == (None, None)
        assert process.returncode == 0


def test_what_was_read_before_the_timeout_is_not_lost():
    with shell("echo one; exec sleep 60", **BOTH) as process:
        start = time.monotonic()
        with pytest.raises(TimeoutError, match="still writes or reads after 0.2 s"):
            process.communicate(timeout=0.2)
        assert time.monotonic() - start < PATIENCE / 4
        process.kill()
        assert process.communicate(timeout=PATIENCE) == (b"one\n", None)
        assert process.returncode == -signal.SIGKILL


def test_input_is_written_once_and_needs_a_pipe():
    with nsnet.spawn(["/bin/true"], new={"user"}) as process:
        with pytest.raises(nsnet.UsageError, match="stdin=PIPE"):
            process.communicate(b"x")
    with nsnet.spawn(CAT, new={"user"}, **BOTH) as process:
        process.communicate(b"x")
        with pytest.raises(nsnet.UsageError, match="expected none"):
            process.communicate(b"y")
        assert process.communicate() == (b"x", None)


def test_waiting_in_an_event_loop():
    async def main():
        process = shell("read line; exit 5", stdin=nsnet.PIPE)
        waiters = [asyncio.ensure_future(process.wait_async()) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(waiter.done() for waiter in waiters)
        waiters[0].cancel()
        process.stdin.close()
        assert await asyncio.wait_for(asyncio.gather(*waiters[1:]), PATIENCE) == [5, 5]
        assert waiters[0].cancelled() and await process.wait_async() == 5
        process.close()
    before = descriptors()
    asyncio.run(main())
    assert descriptors() == before and children() == set()


def test_an_event_loop_sees_many_ends_each_its_own():
    async def one(status):
        with shell(f"exit {status}") as process:
            return await process.wait_async()

    async def main():
        return await asyncio.wait_for(asyncio.gather(*(one(status) for status in range(20))), PATIENCE)
    assert asyncio.run(main()) == list(range(20))


def test_waiting_for_what_is_closed_is_refused():
    process = nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE)
    pid = process.pid
    process.close()
    with pytest.raises(nsnet.KernelError) as refused:
        asyncio.run(process.wait_async())
    assert refused.value.errno == errno.ECHILD
    with contextlib.suppress(ChildProcessError):            # it had ended before it was let go, and was collected then
        os.waitpid(pid, 0)


def test_a_thread_that_waits_is_told_when_another_kills():
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE) as process:
        found = []
        threads = [threading.Thread(target=lambda: found.append(process.wait(PATIENCE))) for _ in range(4)]
        for thread in threads:
            thread.start()
        process.kill()
        for thread in threads:
            thread.join()
        assert found == [-signal.SIGKILL] * 4


# --- its namespaces ---

@pytest.mark.parametrize("new", [{"user"}, {"user", "net"}])
def test_its_user_namespace_can_be_joined(new):
    with nsnet.spawn(CAT, new=new, stdin=nsnet.PIPE) as box:
        assert os.fstat(box.userns.fileno()).st_ino == namespace_of(box.pid, "user")
        with nsnet.spawn(CAT, join={"user": box.userns}, stdin=nsnet.PIPE) as guest:
            assert namespace_of(guest.pid, "user") == namespace_of(box.pid, "user")


def test_the_owner_of_a_netns_is_joined_by_the_netns():
    with nsnet.spawn(CAT, new={"user", "net"}, stdin=nsnet.PIPE) as box:
        with nsnet.spawn(CAT, join={"user": box.netns, "net": box.netns}, stdin=nsnet.PIPE) as guest:
            for kind in ("user", "net"):
                assert namespace_of(guest.pid, kind) == namespace_of(box.pid, kind)


def test_all_that_differs_is_found_and_can_be_joined():
    kinds = {"user", "net", "pid", "mnt", "uts", "ipc", "cgroup"}
    with nsnet.spawn(CAT, new=kinds, stdin=nsnet.PIPE, proc=True, hostname="box", **OWN) as box:
        found = nsnet.namespaces(box.pid)
        try:
            assert set(found) == kinds
            with nsnet.spawn(["/bin/sh", "-c", "uname -n; cat /proc/1/comm"], join=found, stdout=nsnet.PIPE) as guest:
                assert guest.communicate()[0] == b"box\ncat\n"
        finally:
            for descriptor in found.values():
                descriptor.close()
    assert nsnet.namespaces(os.getpid()) == {}


def test_a_namespace_of_root_without_a_user_namespace_is_joined_too():
    """The netns belongs to our own user namespace, the other belongs to the child: each is entered with the power that it needs."""
    if not IS_ROOT:
        pytest.skip("needs root: a network namespace of one's own user namespace")
    with nsnet.Netns.new() as ours, nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE) as box:
        with nsnet.spawn(CAT, join={"user": box.userns, "net": ours}, stdin=nsnet.PIPE) as guest:
            assert namespace_of(guest.pid, "net") == os.fstat(ours.fd).st_ino
            assert namespace_of(guest.pid, "user") == namespace_of(box.pid, "user")


def test_namespaces_of_nobody():
    with nsnet.spawn(["/bin/true"], new={"user"}) as process:
        process.wait()
        pid = process.pid
    with pytest.raises(nsnet.KernelError) as refused:
        nsnet.namespaces(pid)
    assert refused.value.errno == errno.ESRCH

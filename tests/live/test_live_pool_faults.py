"""Pool: slots that are killed, errors of their making, interrupts at every step, and owners that are killed."""

import errno
import gc
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

import nsnet
import nsnet.pool
from live_helpers import (PATIENCE, Running, children, claims, descriptors, environment, go_inside, has_ended, is_gone, links_of,
                          needs, run_nsnet, which)
from network_helpers import leased, strays
from nsnet import clone, job, process

OWN = {"uid_map": {0: 0}, "gid_map": {0: 0}}               # whoever runs the tests: an ordinary user is root of `host`
CAT, TRUE = ["/bin/cat"], ["/bin/true"]
SOAK = os.environ.get("NSNET_HYPOTHESIS") == "long"
LIFETIMES = ("process", "declared", "attachments", "owner")


@pytest.fixture
def network(host):
    with nsnet.Network("br0", address="10.0.0.1/24", netns=host) as made:
        yield made


def kill(pids):
    for pid in pids:
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert has_ended(pidfd)
        os.close(pidfd)


def wholly(network, pool, taken=()):
    """Whether all there is of the network is what is ready and what was taken."""
    network.settle()
    return (len(network.attachments) == pool.ready + len(taken) == len(children())
            and len(strays(network.netns)) == 1 + pool.ready + len(taken))


# --- slots that die ---

def test_a_slot_that_was_killed_is_replaced(network):
    with nsnet.Pool(network, size=4, low=0) as pool:
        before = {one.host_ifname for one in network.attachments}
        kill([one.pid for one in list(pool._ready)[:2]])  # the oldest is taken first
        with pool.launch(CAT, stdin=nsnet.PIPE, oom_score_adj=1000) as container:
            assert container.attachment.host_ifname in before and container.poll() is None
            with open(f"/proc/{container.pid}/oom_score_adj", encoding="ascii") as file:
                assert file.read() == "1000\n"
            assert wholly(network, pool, [container]) and pool.ready == 1
    assert children() == set()


def test_all_of_them_killed_are_all_replaced(network):
    with nsnet.Pool(network, size=6) as pool:
        kill(children())
        with pool.launch(CAT, stdin=nsnet.PIPE) as container:
            assert container.poll() is None
            pool.fill(PATIENCE)
            assert wholly(network, pool, [container]) and pool.ready == 6


def test_a_slot_that_dies_when_it_is_told_is_replaced_with_all_its_pipes(network, monkeypatch):
    give, killed = clone.Child.give, []

    def killing(child, spec):
        if len(killed) < 2:
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGSTOP)              # it does not get as far as execve, though it was told
            threading.Timer(0.01, os.kill, [child.pid, signal.SIGKILL]).start()
        return give(child, spec)
    monkeypatch.setattr(clone.Child, "give", killing)
    with nsnet.Pool(network, size=3, low=0) as pool:
        with pool.launch(CAT, stdin=nsnet.PIPE, stdout=nsnet.PIPE) as container:
            assert len(killed) == 2 and container.pid not in killed
            assert container.communicate(b"hello", timeout=PATIENCE)[0] == b"hello"
        assert wholly(network, pool)


def test_a_command_that_ends_every_slot_is_an_error_at_last(network, monkeypatch):
    def stopping(child, spec):
        os.kill(child.pid, signal.SIGKILL)
        return give(child, spec) or True
    give = clone.Child.give
    monkeypatch.setattr(clone.Child, "give", stopping)
    with nsnet.Pool(network, size=4, low=0) as pool:
        with pytest.raises(nsnet.KernelError) as refused:
            pool.launch(CAT, stdin=nsnet.PIPE)
        assert refused.value.errno == errno.ECHILD and pool.ready == 1 and wholly(network, pool)


@pytest.mark.parametrize("step, limits", [("receive", {resource.RLIMIT_NOFILE: (50, 50)}), ("go", {})])
def test_a_slot_that_is_ended_while_it_is_told_is_closed_by_nobody_until_then(network, monkeypatch, step, limits):
    """The number of its channel, or its pid, would be another's meanwhile."""
    def call(child, real=getattr(clone.Child, step)):
        if not ending:
            ending.append(threading.Thread(target=network.down))
            ending[0].start()
            assert has_ended(child.pidfd)
            ending[0].join(0.1)
            still.append(child.pidfd >= 0)
        return real(child)
    with nsnet.Pool(network, size=1) as pool:
        network.settle()
        ending, still = [], []
        monkeypatch.setattr(clone.Child, step, call)
        with pool.launch(CAT, stdin=nsnet.PIPE, rlimits=limits, timeout=PATIENCE) as container:
            ending[0].join(PATIENCE)
            assert still == [True] and not container.is_slot


def test_a_command_that_fails_is_the_end_of_its_slot_and_of_nothing_else(network, tmp_path):
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    tmp_path.chmod(0o755)
    before = descriptors()
    with nsnet.Pool(network, size=4, low=0, **OWN) as pool:
        for argv, options, step, number in (([str(tmp_path / "text")], {}, "execve", errno.ENOEXEC),
                                            (CAT, {"cwd": str(tmp_path / "none")}, "chdir", errno.ENOENT),
                                            (CAT, {"rlimits": {resource.RLIMIT_NOFILE: (9, 8)}}, "rlimit", errno.EINVAL)):
            with pytest.raises(nsnet.KernelError) as refused:
                pool.launch(argv, stdin=nsnet.PIPE, stdout=nsnet.PIPE, **options)
            assert (refused.value.step, refused.value.errno) == (step, number)
        assert pool.ready == 1 and wholly(network, pool)
        with pytest.raises(nsnet.KernelError, match="No such file"):
            pool.launch(["no-such-command"])                # seen before a slot is touched
    del refused
    gc.collect()
    assert {fd: name for fd, name in descriptors().items() if before.get(fd) != name and "socket" not in name} == {}


# --- making fails ---

class Refusing:
    """launch_many() that raises as long as `error` is set, and counts."""

    def __init__(self, monkeypatch):
        self.error, self.calls = None, 0
        launch_many = nsnet.Network.launch_many

        def call(network, wanted, **options):
            self.calls += 1
            if self.error is not None:
                raise self.error
            return launch_many(network, wanted, **options)
        monkeypatch.setattr(nsnet.Network, "launch_many", call)


def test_what_goes_wrong_is_told_once_and_tried_again_slowly(network, monkeypatch):
    monkeypatch.setattr(nsnet.pool, "_PAUSE", 1000)
    refusing = Refusing(monkeypatch)
    with nsnet.Pool(network, size=2, low=0) as pool:
        refusing.error = nsnet.KernelError(errno.ENOSPC, "sabotage")
        taken = [pool.launch(TRUE), pool.launch(TRUE)]      # these were ready
        with pytest.raises(nsnet.KernelError, match="sabotage"):
            pool.launch(TRUE)
        assert refusing.calls == 2 and pool.failure is refusing.error
        for call in (lambda: pool.launch(TRUE, timeout=0.01), lambda: pool.fill(0.01)):
            with pytest.raises(TimeoutError, match="still being made"):     # told already; the next try is far away
                call()
        assert refusing.calls == 2
        network.detach_many(taken)


@pytest.mark.parametrize("fewer", [nsnet.Pool.drain, lambda pool: pool.resize(1)])
def test_whoever_waits_for_more_than_there_are_to_be_waits_no_longer(network, monkeypatch, fewer):
    monkeypatch.setattr(nsnet.pool, "_PAUSE", 1000)
    refusing = Refusing(monkeypatch)
    with nsnet.Pool(network, size=1) as pool:
        refusing.error = nsnet.KernelError(errno.ENOSPC, "sabotage")
        pool.resize(2)
        with pytest.raises(nsnet.KernelError, match="sabotage"):
            pool.fill(PATIENCE)
        filling = threading.Thread(target=pool.fill, daemon=True)
        filling.start()
        while not pool._waiting["fill"]:
            os.sched_yield()
        fewer(pool)
        filling.join(PATIENCE)
        assert not filling.is_alive()


@pytest.mark.parametrize("end", [nsnet.Pool.close, nsnet.Pool.drain])
def test_what_comes_back_when_none_are_wanted_goes(network, monkeypatch, end):
    def take(*_):
        end(pool)
        raise nsnet.KernelError(errno.E2BIG, "handover")
    with nsnet.Pool(network, size=2) as pool:
        monkeypatch.setattr(nsnet.Container, "take", take)
        with pytest.raises(nsnet.KernelError, match="handover"):
            pool.launch(TRUE)
        assert pool.ready == 0 and wholly(network, pool)


def test_whoever_waits_is_told(network, monkeypatch):
    refusing = Refusing(monkeypatch)
    refusing.error = nsnet.KernelError(errno.ENOSPC, "sabotage")
    pool = nsnet.Pool(network, size=2)
    for _ in range(3):                                      # each by a try of its own
        with pytest.raises(nsnet.KernelError, match="sabotage"):
            pool.launch(TRUE, timeout=PATIENCE)
    with pytest.raises(nsnet.KernelError, match="sabotage"):
        pool.__enter__()
    assert threading.enumerate() == [threading.main_thread()]
    with pytest.raises(nsnet.UsageError, match="it is closed"):
        pool.fill()


def test_it_recovers(network, monkeypatch):
    refusing = Refusing(monkeypatch)
    with nsnet.Pool(network, size=2, low=1) as pool:
        refusing.error = nsnet.KernelError(errno.ENOSPC, "sabotage")
        taken = [pool.launch(TRUE)]
        while pool.failure is None:
            os.sched_yield()
        taken.append(pool.launch(TRUE))                     # one is ready: the error is not its affair
        refusing.error = None
        try:
            pool.fill(PATIENCE)
        except nsnet.KernelError:                           # it had not been told yet
            pool.fill(PATIENCE)
        assert pool.failure is None and pool.ready == 2
        network.detach_many(taken)


def test_as_many_are_made_as_there_are_addresses_for(host):
    with nsnet.Network("br0", address="10.0.0.1/29", netns=host) as network:       # five of them
        cold = network.launch_many([{"argv": CAT, "stdin": nsnet.PIPE}] * 3)
        pool, deadline = nsnet.Pool(network, size=4, low=3), time.monotonic() + PATIENCE
        try:
            with pytest.raises(nsnet.NoFreeAddress):
                pool.fill(PATIENCE)
            while pool.ready < 2:                           # one by one, when four at once did not go
                assert time.monotonic() < deadline
                os.sched_yield()
            warm = [pool.launch(CAT, stdin=nsnet.PIPE, timeout=PATIENCE) for _ in range(2)]
            with pytest.raises(nsnet.NoFreeAddress):
                pool.launch(TRUE, timeout=PATIENCE)
            network.detach_many(cold + warm)
        finally:
            pool.close()


def test_an_error_has_no_traceback_that_keeps_things_alive(network, monkeypatch):
    refusing = Refusing(monkeypatch)
    with nsnet.Pool(network, size=1) as pool:
        refusing.error = nsnet.KernelError(errno.ENOSPC, "sabotage")
        with pool.launch(TRUE) as container:
            container.wait(PATIENCE)
        while pool.failure is None:
            os.sched_yield()
        assert pool.failure.__traceback__ is None


# --- interrupts ---

PLACES = [(clone.Child, "give"), (clone.Child, "go"), (process.Process, "take"), (nsnet.Pool, "_take"), (nsnet.Pool, "_wait"),
          (job.Command, "from_here"), (job.Command, "close"), (process.Process, "_own")]


class Saboteur:
    """Raises at the k-th call of any of the places, by the thread that made it, before it or when it has been done."""

    def __init__(self, monkeypatch, when):
        self.left, self.struck, self.when = 0, None, when
        self.thread = threading.get_ident()
        for owner, name in PLACES:
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name), name))

    def wrap(self, function, name):
        def call(*arguments, **options):
            strike = threading.get_ident() == self.thread and self.left == 1
            if threading.get_ident() == self.thread:
                self.left = max(self.left - 1, 0)
            if strike and self.when == "before":
                self.struck = name
                raise KeyboardInterrupt
            result = function(*arguments, **options)
            if strike:
                self.struck = name
                raise KeyboardInterrupt
            return result
        return call


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_at_any_step_loses_no_slot(network, monkeypatch, when, tmp_path):
    saboteur, struck = Saboteur(monkeypatch, when), []
    with nsnet.Pool(network, size=8, low=0) as pool:
        pool.fill()
        network.settle()
        before = descriptors()
        for number in range(1, 30):
            saboteur.left, saboteur.struck, ready = number, None, pool.ready
            try:
                container = pool.launch(CAT, stdin=nsnet.PIPE, stdout=nsnet.PIPE, rlimits={resource.RLIMIT_NOFILE: (50, 50)})
            except KeyboardInterrupt:
                struck.append(saboteur.struck)
                saboteur.left = 0
                gc.collect()
                assert wholly(network, pool), struck
                assert pool.ready == ready - (struck[-1] not in ("_take", "take", "give") or when == "after" and
                                              struck[-1] != "_take"), struck
                pool.fill(PATIENCE)
            else:
                assert saboteur.struck is None
                container.remove()
                break
            assert len(descriptors()) <= len(before) + 8
        assert {"give", "go", "take", "_take", "close", "_own"} <= set(struck), struck
    assert children() == set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")      # in a __del__ it is nobody's
def test_an_interrupt_at_any_time_loses_no_slot(network):
    """By a real signal, whenever it comes."""
    def interrupt(*_):
        raise KeyboardInterrupt
    before, interrupted, launched = signal.signal(signal.SIGALRM, interrupt), 0, 0
    try:
        with nsnet.Pool(network, size=8, low=2) as pool:
            for number in range(600 if SOAK else 60):
                taken = []
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.00002 + 0.00001 * (number % 60))
                    taken.append(pool.launch(CAT, stdin=nsnet.PIPE, stdout=nsnet.PIPE))
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    launched += 1
                except KeyboardInterrupt:
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                for one in list(network._containers.values()):      # interrupted behind its end, before it was kept here
                    if not one.is_slot and one not in taken:
                        one.remove()
                network.detach_many(taken)
            pool.fill(PATIENCE)
            assert pool.ready == 8 and wholly(network, pool)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 5


# --- owners that end ---

OWNER = """
import nsnet, os, signal, sys
network = nsnet.Network("br0", address="10.0.0.1/24", lifetime=sys.argv[1], netns=nsnet.Netns.current())
network.up()
pool = nsnet.Pool(network, size=3, low=0)
pool.fill()
taken = pool.launch(["/bin/sleep", "1000"], pdeathsig=int(sys.argv[2]), stdin=nsnet.DEVNULL, stdout=nsnet.DEVNULL)
slots = [one.pid for one in pool._ready]
"""


def own(host, state, lifetime, deathsig, then):
    return Running(host, state, argv=[sys.executable, "-c", OWNER + then, lifetime, deathsig])


def pids_of(line):
    return [int(word) for word in line.split()]


def gone(pids):
    """Wait until they are; they are not our children."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert has_ended(pidfd)
        os.close(pidfd)
    return True


@pytest.mark.parametrize("lifetime", LIFETIMES)
def test_what_a_killed_owner_leaves_is_collected(host, state, lifetime):
    say = "print(taken.pid, *slots, flush=True); sys.stdin.read(); signal.pause()"
    with own(host, state, lifetime, 0, say) as owner:
        taken, *slots = pids_of(owner.line())
        assert len(slots) == 2 and len(strays(host)) == 4 and len(leased(state)) == (0 if lifetime == "owner" else 3)
        owner.signal(signal.SIGKILL)
        owner.popen.wait(PATIENCE)
        assert gone(slots) and not is_gone(taken)           # the slots end by themselves, a command runs on
        done = run_nsnet(host, state, "gc")
        assert done.returncode == 0, done.stderr
        if lifetime in ("process", "owner"):
            assert gone([taken]) and strays(host) == [] and leased(state) == []
        else:                                               # that network stays, with the command in it
            assert not is_gone(taken) and len(strays(host)) == 2 and len(leased(state)) == 1
            assert nsnet.network.take_down("br0", netns=host) and gone([taken]) and strays(host) == []


@pytest.mark.parametrize("calls", range(1, 40, 1 if SOAK else 13))
@needs("strace")
def test_an_owner_that_is_killed_while_it_makes_slots_leaves_what_gc_collects(host, state, calls):
    """SIGKILL at one of the calls by which slots come to be."""
    script = ("import nsnet, os, sys\n"
              "network = nsnet.Network('br0', address='10.0.0.1/24', netns=nsnet.Netns.current()); network.up()\n"
              "sys.stdin.readline()\n"
              "nsnet.Pool(network, size=5).fill()")
    with go_below(host, state, script) as owner:
        tracer = subprocess.Popen([which("strace"), "-f", "-p", str(owner.pid), "-o", "/dev/null", "-e", "trace=sendto,rename,clone3",
                                   "-e", f"inject=sendto,rename,clone3:signal=KILL:when={calls}"], stderr=subprocess.PIPE, text=True,
                                  stdin=subprocess.DEVNULL)
        try:
            assert "attached" in tracer.stderr.readline()
            slots = children_of(owner.pid)
            owner.stdin.write(b"\n")
            owner.wait(PATIENCE)
        finally:
            if owner.poll() is None:
                owner.kill()
            tracer.communicate(timeout=PATIENCE)
    assert gone(slots)
    done = run_nsnet(host, state, "gc")
    assert done.returncode == 0 and strays(host) == [] and claims(state) == [], done.stderr


def go_below(host, state, script):
    return subprocess.Popen([sys.executable, "-c", PTRACER + script], env=environment(state), stdin=subprocess.PIPE, bufsize=0,
                            stderr=subprocess.DEVNULL, preexec_fn=go_inside(host.fd))


PTRACER = "import ctypes; ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)\n"


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return pids_of(file.read())


def test_a_command_that_is_to_die_with_the_process_outlives_the_pool(host, state):
    """The kernel watches the thread that made the slot; it lasts."""
    say = "pool.close(); print(taken.pid, *slots, flush=True); sys.stdin.read(); signal.pause()"
    with own(host, state, "process", int(signal.SIGKILL), say) as owner:
        taken, *slots = pids_of(owner.line())
        assert gone(slots) and not is_gone(taken)
        owner.signal(signal.SIGKILL)
        owner.popen.wait(PATIENCE)
        assert gone([taken])
    assert run_nsnet(host, state, "gc").returncode == 0 and strays(host) == []


@pytest.mark.parametrize("deathsig", [0, 9])
def test_a_process_that_does_not_close_its_pool_ends_all_the_same(host, state, deathsig):
    with own(host, state, "process", deathsig, "taken.remove(); print(*slots, flush=True)") as owner:
        slots = pids_of(owner.line())
        assert owner.end()[0] == 0 and gone(slots), owner.complaint()
    assert run_nsnet(host, state, "gc").returncode == 0 and strays(host) == []


# --- what it costs ---

@needs("strace")
def test_a_slot_is_taken_by_few_system_calls(host, state, tmp_path):
    """Of the taker: the directory, the files, one message, one wait, two reads; no lock, no write to disk, no netlink."""
    script = PTRACER + ("import nsnet, os, sys\n"
                        "with nsnet.Network('br0', address='10.0.0.1/24', netns=nsnet.Netns.current()) as network:\n"
                        "    with nsnet.Pool(network, size=2, low=0) as pool:\n"
                        "        pool.launch(['/bin/true']).wait()\n"
                        "        sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
                        "        os.stat('/BEGIN') if os.path.exists('/BEGIN') else 0\n"
                        "        taken = pool.launch(['/bin/true'])\n"
                        "        os.path.exists('/END')\n")
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", script], env=environment(state), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          bufsize=0, preexec_fn=go_inside(host.fd)) as owner:
        assert owner.stdout.readline() == b"ready\n"
        tracer = subprocess.Popen([which("strace"), "-p", str(owner.pid), "-o", str(log)], stderr=subprocess.PIPE, text=True,
                                  stdin=subprocess.DEVNULL)
        assert "attached" in tracer.stderr.readline()
        owner.stdin.write(b"\n")
        assert owner.wait(PATIENCE) == 0
        tracer.communicate(timeout=PATIENCE)
    text = log.read_text().partition("/BEGIN")[2].partition("/END")[0]
    calls = re.findall(r"^(\w+)\(", text, re.MULTILINE)
    calls = [name for name in calls if name != "futex"]     # of the interpreter's threads among themselves
    print(len(calls), calls)
    told = [name for name in calls if name not in ("getpid", "newfstatat", "faccessat2", "fcntl", "close")]
    assert told == ["sendmsg", "poll", "recvmsg", "recvmsg"] and len(calls) <= 20, calls
    assert links_of(host).keys() == {"lo"}

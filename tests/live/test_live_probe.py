"""A command is given exactly what was asked for, and nothing else of a very dirty parent: a C program as its witness.

probe.c tells what it was given; probe_parent.py is the parent. The control is the same program after a plain fork and
exec in the same thread: it shows that the dirt is there, and what is inherited by the kernel's rule. Every word of the
probe is accounted for: clean (CLEAN), inherited with a reason (INHERITED), or asked for (`wanted`).

NSNET_TEST_PYTHONS: more interpreters to run the parent with, separated by colons; each must have cffi.
"""

import functools
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile

import pytest

import nsnet
from live_helpers import IS_ROOT, PATIENCE
from nsnet import values

HERE = pathlib.Path(__file__).resolve().parent
THREADS = ("main", "other")
EVERY_KIND = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
NOBODY = 65534
BLOCKED = (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN + 3, signal.SIGRTMAX)
IGNORED = (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGRTMIN + 5, signal.SIGRTMAX,
           32, 33)                              # the C library's own
AMBIENT = ("chown", "kill", "net_bind_service", "sys_nice")
KEEP_CAPS = 1 << 4                              # SECBIT_KEEP_CAPS <linux/securebits.h>
PROBE_STATUS = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")

# What the probe must say, whatever its parent is like.
CLEAN = {
    "signal_mask": 0, "signals_pending": 0, "signal_actions": ["default"] * 64, "signal_stack": 0,
    "itimers": [0, 0, 0], "posix_timers": "", "foreign_mappings": [], "children": "",
    "exit_signal": int(signal.SIGCHLD), "child_subreaper": 0, "keepcaps": 0, "dumpable": 1,
    "capget": 0, "sched_getattr": 0,            # the calls themselves went well
}

# What the probe has from its parent without anybody asking, and why that is right.
INHERITED = {
    "nice": "who starts the launcher with nice(1) means its work, and only privilege could undo it",
    "policy": "as nice", "policy_flags": "as nice", "priority": "as nice",
    "affinity": "as nice: taskset(1)", "io_priority": "as nice: ionice(1)", "memory_policy": "as nice: numactl(8)",
    "oom_score_adj": "to lower it takes privilege; whoever raised it for us meant our children",
    "cgroup": "where the caller's resources are accounted; the option cgroup says otherwise",
    "rlimits": "the caller's limits bind what it starts; the option rlimits says otherwise",
    "root": "the caller's: nobody asked for another",
    "proc_mount": "nobody asked for a mount",
    "status.Umask": "as Popen: the shell's or the service manager's choice",
    "timer_slack": "a power setting of the caller's; no secret, no power",
    "personality": "setarch(1) means what it starts",
    "coredump_filter": "what the caller wants to see in dumps",
    "thp_disable": "a performance setting of the caller's", "memory_merge": "as thp_disable",
    "machine_check": "a policy for broken memory",
    "mdwe": "it only restricts, and cannot be undone", "tsc": "it only restricts", "speculation": "it only restricts",
    "seccomp": "a filter cannot be undone", "status.Seccomp": "as seccomp", "status.Seccomp_filters": "as seccomp",
    "request_key_destination": "where new keys go: the keyrings it names are the command's own",
    "loginuid": "who logged in: audit follows the session",
    "status.TracerPid": "a debugger that follows forks was told to",
}

DIRT = {
    "lax": {"umask": 0o000, "securebits": 0, "ignore_sigchld": False, "closed": False, "dumpable": 1},
    # securebits: NOROOT, NO_SETUID_FIXUP, KEEP_CAPS. dumpable: the child of an ordinary user that hides its own memory
    # hides its map files as well, so that nobody could write them.
    "odd": {"umask": 0o777, "securebits": 0x15, "ignore_sigchld": True, "closed": True,
            "dumpable": 0 if IS_ROOT else 1},
}

CAPABILITIES = int(pathlib.Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1       # that this kernel has
TERMINAL = 171                                  # the slave's place among probe_parent.py's descriptors
PIPES = {"stdin": "PIPE", "stdout": "PIPE", "stderr": "DEVNULL"}
CASES = {
    "nothing asked": {},
    "user and net": {"new": ["net", "user"]},
    "every kind": {"new": EVERY_KIND, **PIPES},
    "a pid namespace in the caller's session": {"new": ["pid", "user"], "new_session": False, **PIPES},
    "every capability": {"new": ["net", "user"], "capabilities": list(values.CAPABILITIES[:CAPABILITIES]), **PIPES},
    "every option": {
        "new": ["net", "user"], "capabilities": ["net_admin", "net_raw"], "no_new_privs": False, "new_session": False,
        "env": {"Z": "last", "A": "first in the alphabet", "NSNET_PROBE": "\xe4"}, "cwd": "/proc",
        "pass_fds": [101, 129],
        "stdin": "DEVNULL", "stdout": "PIPE", "stderr": "STDOUT", "pdeathsig": int(signal.SIGUSR1),
        "rlimits": {str(resource.RLIMIT_NOFILE): [64, 128], str(resource.RLIMIT_CORE): [0, 0]}, "cgroup": True,
        "arguments": ["1", "", "with space"],
    },
    "held, with a terminal that is not its own": {
        "new": ["net", "user"], "hold": True, "stdin": TERMINAL, "stdout": "PIPE", "stderr": TERMINAL},
    "an empty environment": {"env": {}, "stdin": "DEVNULL", "stdout": "PIPE", "stderr": "DEVNULL"},
    "namespaces that are there": {"join": ["net", "user"], **PIPES},
    "below namespaces that are there": {"join": ["user"], "new": ["net", "user"], "capabilities": ["chown"], **PIPES},
}
if IS_ROOT:
    CASES.update({
        "net without user": {"new": ["net"], "capabilities": ["net_admin"], **PIPES},
        "a range of ids": {"new": ["net", "user"], "uid_map": [[0, 100000, 10], [10, 5, 1]],
                           "gid_map": [[0, 100000, 30]], "setgroups": True, **PIPES},
    })


def interpreters():
    """[(version, interpreter)]: the one that runs the tests, and those that the environment names."""
    found = [("this", sys.executable)]
    for path in filter(None, os.environ.get("NSNET_TEST_PYTHONS", "").split(":")):
        version = subprocess.run([path, "-c", "import platform; print(platform.python_version())"], check=True,
                                 stdout=subprocess.PIPE, text=True).stdout.strip()
        found.append((version, path))
    return found


INTERPRETERS = interpreters()
each_interpreter = pytest.mark.parametrize(
    "python", [path for _, path in INTERPRETERS], ids=[version for version, _ in INTERPRETERS])
each_dirt = pytest.mark.parametrize("dirt", sorted(DIRT))
each_thread = pytest.mark.parametrize("thread", THREADS)


@pytest.fixture(scope="module")
def place():
    """A directory that container root may read: the compiled probe, and nsnet without what lies beside it."""
    with tempfile.TemporaryDirectory(prefix="nsnet-probe-") as directory:
        os.chmod(directory, 0o755)
        os.symlink(os.path.dirname(os.path.abspath(nsnet.__file__)), os.path.join(directory, "nsnet"))
        compile = [*os.environ.get("CC", "cc").split(), "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror",
                   str(HERE / "probe.c"), "-o", os.path.join(directory, "probe")]
        for kind in ("-static", "-DDYNAMIC"):           # where there is no static C library, the loader is its own too
            done = subprocess.run([*compile, kind], stderr=subprocess.PIPE, text=True)
            if done.returncode == 0:
                break
        assert done.returncode == 0, done.stderr
        yield directory


@pytest.fixture(scope="module")
def parent(place):
    """A function that runs the parent once for all tests about the same interpreter and dirt."""
    @functools.lru_cache(maxsize=None)
    def run(python, dirt):
        return run_parent(place, python, {"probe": os.path.join(place, "probe"), "dirt": DIRT[dirt], "cases": CASES})
    return run


def run_parent(place, python, plan):
    """What the parent reports. PYTHONPATH has nsnet only: another interpreter must not find this one's packages."""
    env = {**os.environ, "PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([python, str(HERE / "probe_parent.py")], input=json.dumps(plan), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, env=env, timeout=3 * PATIENCE)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["failure"] == []
    return report


# --- what should be ---

def rows(text):
    """A map of /proc as lists of numbers."""
    return [[int(word) for word in line.split()] for line in text.splitlines()]


def maps(case, state):
    """(uid_map, gid_map) as seen from inside."""
    if "join" in case and "user" not in case.get("new", ()):
        case = {"new": case["join"]}
    if "user" not in case.get("new", ()):
        return rows(state["uid_map"]), rows(state["gid_map"])
    if "join" in case:
        return [[0, 0, 1]], [[0, 0, 1]]
    uid, gid = (NOBODY, NOBODY) if IS_ROOT else (os.geteuid(), os.getegid())
    return case.get("uid_map", [[0, uid, 1]]), case.get("gid_map", [[0, gid, 1]])


def wanted(case, control, state, result):
    """All that the probe should say. `control`: what it said after a plain fork and exec; `state`: the parent's own."""
    new, joined = case.get("new", []), case.get("join", [])
    own_user = "user" in new or "user" in joined
    pid = 1 if "pid" in new else result["pid"]
    want = {**CLEAN, **{name: control[name] for name in INHERITED if "." not in name}}

    want["pid"], want["ppid"] = pid, 0 if "pid" in new else state["pid"]
    if case.get("new_session", True):
        want.update(sid=pid, pgid=pid, tty=0)
    else:
        want.update(sid=0, pgid=0) if "pid" in new else want.update(sid=state["sid"], pgid=state["pgid"])
        want["tty"] = control["tty"]
    want["argv"] = [control["exe"], *case.get("arguments", [])]
    want["exe"], want["comm"], want["cwd"] = control["exe"], "probe", case.get("cwd", state["cwd"])
    env = case.get("env")
    want["environ"] = state["environ"] if env is None else [
        f"{name}={value}".encode().decode("latin-1") for name, value in env.items()]
    want["fds"] = result["expected_fds"]
    want["rlimits"] = [case.get("rlimits", {}).get(str(number), pair) for number, pair in enumerate(control["rlimits"])]
    if result["cgroup"]:
        want["cgroup"] = "\n".join(f"0::{result['cgroup'][1]}" if line.startswith("0::") else line
                                   for line in control["cgroup"].splitlines())
    if "cgroup" in new:
        want["cgroup"] = "\n".join(line.rpartition(":")[0] + ":/" for line in control["cgroup"].splitlines())

    want["namespaces"] = dict(state["namespaces"])
    for kind, name in result.get("joined", {}).items():
        want["namespaces"][kind] = name
    for kind in new:                            # a name that nobody else has
        for entry in (kind, f"{kind}_for_children"):
            if entry in want["namespaces"]:
                seen = result["probe"]["namespaces"][entry]
                assert seen.startswith(f"{kind}:[") and seen not in (want["namespaces"][entry], None)
                want["namespaces"][entry] = seen

    want["uid_map"], want["gid_map"] = maps(case, state)
    if own_user:
        want["uids"] = want["gids"] = [0] * 4
        # An ordinary user may not drop its groups; but for its own, they are nobody's inside.
        want["groups"] = [] if IS_ROOT else [0 if group == os.getegid() else NOBODY for group in state["groups"]]
        want["setgroups"] = "allow" if IS_ROOT and not ("user" in joined and "user" in new) else "deny"
    else:
        want.update({name: control[name] for name in ("uids", "gids", "groups", "setgroups")})

    asked = values.capabilities(case.get("capabilities", ()))
    sets = dict.fromkeys(("inheritable", "permitted", "effective", "bounding", "ambient"), asked)
    if not own_user and not IS_ROOT:            # it takes a capability to drop from the bounding set
        sets["bounding"] = control["cap_bounding"]
    want.update({f"cap_{name}": number for name, number in sets.items()})
    want["securebits"] = 0 if own_user else state["securebits"] & ~KEEP_CAPS     # the kernel's: only ever stricter
    want["no_new_privs"] = 1 if case.get("no_new_privs", True) else control["no_new_privs"]
    want["pdeathsig"] = case.get("pdeathsig", 0)

    keyring = result["probe"]["session_keyring"]
    if state["session_keyring"] > 0:            # without keys in the kernel: the same error
        assert keyring > 0 and keyring != state["session_keyring"]
    want["session_keyring"] = keyring if state["session_keyring"] > 0 else state["session_keyring"]
    want["session_keyring_name"] = "_ses" if keyring > 0 else ""        # the name of one that was made without a name

    want["status"] = {
        "Threads": "1", "VmLck": "0 kB", "NoNewPrivs": str(want["no_new_privs"]),
        **dict.fromkeys(PROBE_STATUS, "0" * 16),
        **{name: text for name, text in control["status"].items() if f"status.{name}" in INHERITED},
        **{f"Cap{short}": f"{mask:016x}" for short, mask in zip(("Inh", "Prm", "Eff", "Bnd", "Amb"), sets.values())}}
    return want


def differences(probe, want):
    """{what: (is, should be)}, one level deep: easier to read than two long dictionaries."""
    found = {}
    for name in sorted({*probe, *want}):
        left, right = probe.get(name, "not said"), want.get(name, "nobody knows")
        if isinstance(left, dict) and isinstance(right, dict):
            found.update({f"{name}.{key}": pair for key, pair in differences(left, right).items()})
        elif left != right:
            found[name] = (left, right)
    return found


# --- the tests ---

@each_thread
@each_dirt
@each_interpreter
def test_the_dirt_is_there_to_leak(parent, python, dirt, thread):
    """The control: without this the tests below would prove nothing."""
    report = parent(python, dirt)[thread]
    probe, state = report["plain"]["probe"], report["state"]
    targets = {row["target"] for row in probe["fds"].values()}
    assert max(map(int, probe["fds"])) >= state["rlimits"][resource.RLIMIT_NOFILE][0] and len(probe["fds"]) > 30
    assert str(state["rlimits"][resource.RLIMIT_NOFILE][0] - 1) in probe["fds"]
    for kind in ("eventpoll", "eventfd", "timerfd", "signalfd", "inotify"):
        assert f"anon_inode:[{kind}]" in targets or f"anon_inode:{kind}" in targets
    for word in ("/proc", "/", "net:[", "/memfd:secret (deleted)", "socket:[", "pipe:[", "/dev/ptmx"):
        assert any(target.startswith(word) for target in targets), word
    for number in BLOCKED:
        assert probe["signal_mask"] >> number - 1 & 1
    ignored = {number for number, action in enumerate(probe["signal_actions"], 1) if action == "ignored"}
    assert ignored >= {*IGNORED, *([signal.SIGCHLD] if DIRT[dirt]["ignore_sigchld"] else [])}
    assert state["handlers"][signal.SIGUSR2 - 1][0] not in (0, 1) and all(state["itimers"])
    assert int(state["status"]["ShdPnd"], 16) >> signal.SIGUSR1 - 1 & 1
    assert state["dumpable"] == DIRT[dirt]["dumpable"] and state["umask"] == DIRT[dirt]["umask"]
    assert int(probe["status"]["Umask"], 8) == DIRT[dirt]["umask"]
    assert state["keepcaps"] == state["child_subreaper"] == 1 and state["pdeathsig"] == signal.SIGUSR2
    assert state["signal_stack"][1] and probe["timer_slack"] == 123456 and probe["personality"] == 0x0040000
    assert probe["thp_disable"] == 1 and int(probe["oom_score_adj"]) >= 77 and len(probe["affinity"]) == 1
    assert probe["session_keyring"] == state["session_keyring"] and probe["tty"] != 0
    assert {"LD_BIND_NOW=1", "EMPTY=", "BYTES=\xff\xfe"} <= set(probe["environ"])
    if IS_ROOT:
        assert probe["groups"] == [0, 4, 24] and probe["securebits"] == DIRT[dirt]["securebits"] & ~KEEP_CAPS
        has = [name for name in AMBIENT if int(state["status"]["CapPrm"], 16) & values.capabilities([name])]
        assert probe["cap_ambient"] == probe["cap_inheritable"] == values.capabilities(has) != 0


@pytest.mark.parametrize("case", CASES)
@each_thread
@each_dirt
@each_interpreter
def test_exactly_what_was_asked_and_nothing_else(parent, python, dirt, thread, case):
    report = parent(python, dirt)[thread]
    result = report["cases"][case]
    assert "failed" not in result, result["failed"]
    probe = dict(result["probe"])
    probe["uid_map"], probe["gid_map"] = rows(probe["uid_map"]), rows(probe["gid_map"])
    assert differences(probe, wanted(CASES[case], report["plain"]["probe"], report["state"], result)) == {}
    assert result["returncode"] == 0


@pytest.mark.parametrize("case", CASES)
@each_thread
@each_dirt
@each_interpreter
def test_the_parent_is_as_before(parent, python, dirt, thread, case):
    """Dumpable, signals, directory, credentials, umask, namespaces, limits, descriptors, children and all the rest."""
    result = parent(python, dirt)[thread]["cases"][case]
    assert "failed" not in result, result["failed"]
    assert differences(result["after"], result["before"]) == {}


def test_the_parent_is_as_before_after_a_thousand_launches(place):
    plan = {"dirt": DIRT["lax"], "many": {
        "argv": [os.path.join(place, "probe")], "count": 500,
        "options": {"new": ["net", "user"], "stdin": "DEVNULL", "stdout": "DEVNULL", "stderr": "DEVNULL"}}}
    report = run_parent(place, sys.executable, plan)
    for thread in THREADS:
        result = report[thread]["many"]
        assert differences(result["after"], result["before"]) == {}
        assert result["after"]["children"] == []

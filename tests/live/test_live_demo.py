"""`python -m nsnet demo` as a person runs it: its three modes, what it prints, and that nothing is left."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

import nsnet
from live_helpers import (CLONE_NEWNET, CLONE_NEWUSER, IS_ROOT, LIBC, PATIENCE, TREE, Running, check, children, claims,
                          descriptors, environment, ifnames, in_parallel, inside, ip, is_gone, needs, needs_root,
                          nsnet_argv, public_copy, run_nsnet, which)

KEYS = {"mode", "steps", "sent", "received", "setup_us", "teardown_us", "left_behind"}
STEPS = ["clone", "claim", "bridge", "namespaces", "veth", "container", "execve", "process", "veth", "bridge"]


def report_of(done):
    """The one object that --json prints, checked for its form."""
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == KEYS and done.stdout.count("\n") == 1
    assert all(set(step) == {"name", "us"} and step["us"] >= 0 for step in report["steps"])
    assert [step["name"] for step in report["steps"]] == STEPS
    assert report["sent"] == report["received"] != "" and report["left_behind"] == []
    assert report["setup_us"] > 0 and report["teardown_us"] > 0
    return report


# --- the three modes ---

def test_demo_on_a_host_that_it_may_administer(host, state):
    """Root of the namespace's owner: the machine's root, or an ordinary user in a user namespace of its own."""
    before = ip(host, "link"), descriptors(), children()
    report = report_of(run_nsnet(host, state, "demo", "--json"))
    assert report["mode"] == "root" and report["sent"] == "hello\n"
    assert (ip(host, "link"), descriptors(), children()) == before
    assert claims(state) == []


def test_demo_without_privilege_makes_a_private_host(state):
    """What an ordinary user gets. Root sees it as nobody, with a copy of nsnet that nobody can read."""
    with unprivileged(state) as (argv, options):
        before = sorted(line.split(":")[0].strip() for line in open("/proc/net/dev").read().splitlines()[2:])
        report = report_of(subprocess.run([*argv, "--json"], **options))
        assert report["mode"] == "private"
        assert sorted(line.split(":")[0].strip() for line in open("/proc/net/dev").read().splitlines()[2:]) == before
        told = subprocess.run(argv, **options)
        assert told.returncode == 0 and "private" in told.stdout.splitlines()[0]
        assert told.stdout.splitlines()[-1] == "Left behind: nothing"


@contextlib.contextmanager
def unprivileged(state):
    """(argv of demo, options for subprocess.run) for a user without any privilege."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
               "timeout": PATIENCE, "env": environment(state)}
    if not IS_ROOT:
        yield nsnet_argv("demo"), options
        return
    with copied_for(65534) as (interpreter, tree, own_state):
        options["env"].update(PYTHONPATH=tree, NSNET_STATE_DIR=own_state, PYTHONDONTWRITEBYTECODE="1")
        drop = [which("setpriv"), "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all"]
        yield [*drop, interpreter, "-m", "nsnet", "demo"], {**options, "cwd": tree}


@contextlib.contextmanager
def copied_for(uid):
    """(interpreter, tree, state directory) for another user; skips where that user reaches no interpreter."""
    if which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    found = public_copy()
    if found is None:
        pytest.skip(f"neither {sys.executable} nor /usr/bin/python3 can be run by another user with cffi")
    directory = tempfile.mkdtemp(prefix="nsnet-live-state-")
    os.chown(directory, uid, uid)
    try:
        yield found[0], found[1], directory
        assert claims(directory) == []
    finally:
        shutil.rmtree(directory)


@needs_root
@pytest.mark.parametrize("uid", [1000, 65534])
def test_demo_with_net_admin_alone(host, state, uid):
    """The privilege that the seed asks of its caller, and no other: no CAP_SYS_ADMIN, none in the bounding set."""
    with copied_for(uid) as (interpreter, tree, own_state):
        argv = [which("setpriv"), "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps", "+net_admin",
                "--ambient-caps", "+net_admin", "--bounding-set", "-all,+net_admin", interpreter, "-m", "nsnet", "demo"]
        env = environment(own_state, PYTHONPATH=tree, PYTHONDONTWRITEBYTECODE="1")
        before = ip(host, "link")
        report = report_of(inside(host, [*argv, "--json"], env=env, cwd=tree, stdin=subprocess.DEVNULL))
        assert report["mode"] == "net_admin" and ip(host, "link") == before
        caps = inside(host, [*argv, "--", "/bin/grep", "Cap", "/proc/self/status"], env=env, cwd=tree,
                      stdin=subprocess.DEVNULL)
        assert set(re.findall(r"Cap\w+:\t(\w+)", caps.stdout)) == {f"{1 << 10:016x}"}


def test_demo_needs_no_path(host, state):
    report_of(run_nsnet(host, state, "demo", "--json", env={"PATH": ""}))
    report_of(run_nsnet(host, state, "demo", "--json", env={"PATH": "/nonexistent"}))


def test_demo_in_a_user_namespace_made_by_unshare(state):
    """`unshare -Urn`: root within, of one id, with setgroups denied."""
    if which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    done = subprocess.run([which("unshare"), "-Urn", *nsnet_argv("demo", "--json")], env=environment(state),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=PATIENCE)
    assert report_of(done)["mode"] == "root"


# --- what a person reads ---

def test_every_step_is_shown_with_its_time(host, state):
    done = run_nsnet(host, state, "demo")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    names = [match.group(1) for match in (re.match(r"  ([a-z]+) +\S", line) for line in lines) if match]
    assert [name for name in names if name in set(STEPS)] == STEPS
    assert sum(line.endswith(" us") and re.search(r"\d+ us$", line) is not None for line in lines) >= len(STEPS)
    for text in ("create bridge nsnet-ex-bridge", "assign 10.0.0.1/24", "nsnet-ex-veth0", "nsnet-ex-veth1",
                 "00:00:6c:00:00:00", "enable lo", "assign 10.0.0.2/24 to nsnet-ex-veth1", "default route via 10.0.0.1",
                 "sent       b'hello\\n'", "received   b'hello\\n'"):
        assert text in done.stdout, text
    assert lines[-1] == "Left behind: nothing"
    assert all(len(line) <= 110 for line in lines)


def test_every_value_can_be_chosen(host, state):
    done = run_nsnet(host, state, "demo", "--json", "--bridge", "mybr", "--subnet", "192.168.77.0/28", "--gateway",
                     "192.168.77.14/28", "--address", "192.168.77.3/28", "--host-ifname", "myhost", "--ifname", "mine",
                     "--lladdr", "02:00:00:00:00:0a", "--mtu", "1400", "--port", "8080", "--capabilities", "",
                     "--message", "grüß Gott")
    assert report_of(done)["sent"] == "grüß Gott\n"


def test_the_output_of_a_command_does_not_spoil_the_json(host, state):
    done = run_nsnet(host, state, "demo", "--json", "--", "/bin/echo", "from the command")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and set(report) == KEYS and "from the command" in done.stderr
    assert report["left_behind"] == []


def test_a_command_that_fails_is_a_failure_and_all_is_undone(host, state):
    done = run_nsnet(host, state, "demo", "--", "/bin/sh", "-c", "exit 3")
    assert done.returncode == 1 and "Left behind: nothing" in done.stdout


def test_a_bridge_of_that_name_is_refused_in_one_line(host, state):
    bridge = host.add_bridge("nsnet-ex-bridge")
    before = ip(host, "link")
    done = run_nsnet(host, state, "demo")
    assert done.returncode == 1 and "nsnet-ex-bridge" in done.stderr and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr and ip(host, "link") == before
    host.del_link(bridge)


# --- the seed's listener, and the seed's client ---

NETCATS = ["nc.traditional", "nc.openbsd"]


def wait_for_listener(pid, port):
    """Until /proc says that somebody listens there. A netcat takes one connection: trying would use it up."""
    deadline = time.monotonic() + PATIENCE
    pattern = re.compile(rf":{port:04X} [0-9A-F]+:0000 0A ")
    while not any(pattern.search(open(f"/proc/{pid}/net/{kind}").read()) for kind in ("tcp", "tcp6")):
        assert time.monotonic() < deadline, "nobody listens"


def running_pid(demo):
    return int(re.search(r"process (\d+)", demo.until("Running as")).group(1))


@needs("nc.traditional")
@needs("nc.openbsd")
def test_the_seeds_netcat_listens_and_the_seeds_netcat_talks(tmp_path):
    """demo --keep -- nc -l -p 80, then echo hello | nc -q 1 10.0.0.2 80: each pair of the two netcats of Debian."""
    def talk(pair):
        server, client = pair
        state = tmp_path / "-".join(pair)
        with nsnet.Netns.new() as host:
            host.set_link("lo", up=True)
            with Running(host, state, "demo", "--keep", "--", which(server), "-l", "-p", "80") as demo:
                wait_for_listener(running_pid(demo), 80)
                done = inside(host, [which(client), "-q", "1", "10.0.0.2", "80"], input="hello\n")
                code, out, err = demo.end()
            left = [link.ifname for link in host.links() if link.kind in ("bridge", "veth")]
            return done.returncode, code, "\nhello\n" in out, out.splitlines()[-1], left, claims(state)

    pairs = [(server, client) for server in NETCATS for client in NETCATS]
    for pair, verdict in zip(pairs, in_parallel(talk, pairs)):
        assert verdict == (0, 0, True, "Left behind: nothing", [], []), pair


@needs("nc.traditional")
def test_demo_talks_to_a_netcat_by_itself(host, state):
    done = run_nsnet(host, state, "demo", "--json", "--", which("nc.traditional"), "-l", "-p", "80")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["sent"] == "hello\n" and "hello" in done.stderr


def test_keep_says_how_to_reach_it_and_how_to_take_it_down(host, state):
    with Running(host, state, "demo", "--keep") as demo:
        pid = running_pid(demo)
        demo.until("Take it down")
        text = demo.read.decode()
        assert "echo hello | nc -q 1 10.0.0.2 80" in text and f"kill {demo.pid}" in text
        assert not is_gone(pid) and "nsnet-ex-bridge" in ifnames(host)
        with host.connect(("10.0.0.2", 80), PATIENCE) as connection:
            connection.sendall(b"still there?")
            assert connection.recv(100) == b"still there?"
        demo.signal(signal.SIGINT)                          # Ctrl-C
        code, out, err = demo.end()
    assert (code, err) == (130, "") and out.splitlines()[-1] == "Left behind: nothing" and is_gone(pid)


@pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: root has no private host to enter")
@needs("nsenter")
@needs("nc.openbsd")
def test_a_private_host_is_reached_as_keep_says(state):
    with Running(None, state, "demo", "--keep") as demo:
        line = demo.until("nc -q 1").replace("nc -q", f"{which('nc.openbsd')} -q")
        done = subprocess.run(["/bin/sh", "-c", line], stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
        assert done.stdout == "hello\n"
        demo.signal(signal.SIGTERM)
        code, out, _ = demo.end()
    assert code == 128 + signal.SIGTERM and out.splitlines()[-1] == "Left behind: nothing"


# --- user namespaces forbidden ---

def forbid_user_namespaces(uid, new_net):
    """A preexec_fn: into a user namespace in which no further ones may be made."""
    outside = os.geteuid(), os.getegid()

    def enter():
        check(LIBC.unshare(CLONE_NEWUSER | (CLONE_NEWNET if new_net else 0)))
        for path, text in (("setgroups", "deny"), ("uid_map", f"{uid} {outside[0]} 1"),
                           ("gid_map", f"{uid} {outside[1]} 1")):
            with open(f"/proc/self/{path}", "w", encoding="ascii") as file:
                file.write(text)
        with open("/proc/sys/user/max_user_namespaces", "w", encoding="ascii") as file:
            file.write("0")
    return enter


@pytest.mark.parametrize("uid, new_net", [(0, True), (0, False), (1000, False), (1000, True)],
                         ids=["root on a host", "root without a host", "a user", "a user elsewhere"])
def test_where_user_namespaces_are_forbidden_one_line_names_the_file(state, uid, new_net):
    """The limit is that of a user namespace made for this test; the machine's stays as it is."""
    done = subprocess.run(nsnet_argv("demo"), preexec_fn=forbid_user_namespaces(uid, new_net), env=environment(state),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "/proc/sys/user/max_user_namespaces" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


# --- system calls ---

@needs("strace")
def test_the_demo_runs_no_other_program_and_talks_little(host, state, tmp_path):
    """By strace: one execve but its own, the listener's, by way of the extension; three sends and receives of rtnetlink."""
    log = tmp_path / "strace"
    argv = [which("strace"), "-f", "-qq", "-yy", "-s", "1000", "-o", log, "-e",
            "trace=execve,execveat,clone3,clone,fork,vfork,sendto,sendmsg,sendmmsg,recvmsg,recvfrom,recvmmsg"]
    done = inside(host, [*argv, *nsnet_argv("demo", "--json")], env=environment(state), stdin=subprocess.DEVNULL)
    report_of(done)
    lines = [line.partition(" ")[2].strip() for line in log.read_text().splitlines()]
    runs = [line for line in lines if line.startswith("execve")]
    (image,) = [line for line in runs if line.startswith("execveat")]
    assert "/memfd:nsnet>" in image and "AT_EMPTY_PATH" in image, image         # the extension itself, not a program
    runs.remove(image)
    assert len(runs) == 2 and f'"{sys.executable}"' in runs[0] and "echo.py" in runs[1]
    clones = [line for line in lines if re.match(r"(clone3?|v?fork)\(", line)]
    assert len(clones) == 1 and "CLONE_VM" in clones[0]
    setup = lines[lines.index(clones[0]):lines.index(runs[1])]
    sends = [line for line in setup if re.match(r"send\w+\(\d+<NETLINK", line)]
    receives = [line for line in setup if re.match(r"recv\w+\(\d+<NETLINK", line) and "EAGAIN" not in line]
    assert 1 <= len(sends) <= 4 and 1 <= len(receives) <= 4, "\n".join(line[:200] for line in sends + receives)


def test_the_tree_that_runs_is_the_one_under_test(host, state):
    done = inside(host, [sys.executable, "-c", "import nsnet; print(nsnet.__file__)"], env=environment(state), cwd="/")
    assert os.path.dirname(done.stdout.strip()) == os.path.dirname(nsnet.__file__), TREE

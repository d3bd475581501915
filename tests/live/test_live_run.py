"""`nsnet run`: statuses, signals, what the command is given, and what is left when something is killed."""

import json
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
import textwrap

import pytest

import nsnet
from live_helpers import (IS_ROOT, PYTHON, TREE, Running, children, environment, has_ended, is_gone, namespace_of,
                          needs_root, nsnet_argv)

KINDS = ["user", "net", "pid", "mnt", "uts", "ipc", "cgroup"]
NUMBERS = ["/usr/bin/stat", "-Lc", "%i"]                # of namespaces
ALL_NUMBERS = [*NUMBERS, *(f"/proc/self/ns/{kind}" for kind in KINDS)]
SENT_ON = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
           signal.SIGWINCH, signal.SIGCONT]
by_name = {"ids": lambda value: value.name if isinstance(value, signal.Signals) else None}

# Says which signals it gets, one a line; those behind "-" are ignored, those behind "=" blocked and waited for.
LISTENER = """
import os, signal, sys
def hear(number, _=None):
    os.write(1, f"{signal.Signals(number).name}\\n".encode())
signal.signal(signal.SIGINT, signal.SIG_DFL)
waited = [int(word[1:]) for word in sys.argv[1:] if word[0] == "="]
signal.pthread_sigmask(signal.SIG_BLOCK, waited)
for word in sys.argv[1:]:
    if word[0] != "=":
        signal.signal(abs(int(word)), signal.SIG_IGN if word[0] == "-" else hear)
os.write(1, f"ready {os.getpid()}\\n".encode())
while True:
    hear(signal.sigwait(waited)) if waited else signal.pause()
"""


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """A shell makes its background jobs ignore SIGINT and SIGQUIT; what we start is not to inherit that."""
    ignored = [number for number in (*SENT_ON, signal.SIGTSTP) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def call(state, *words, env=None, **options):
    """`nsnet WORDS` to its end."""
    return subprocess.run(nsnet_argv(*words), env=environment(state, **(env or {})), timeout=60, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def run(state, *words, **options):
    """`nsnet run WORDS` to its end, where container root is the caller, who can read this interpreter."""
    return call(state, "run", "--map-own", *words, **options)


def run_sh(state, script, *words, **options):
    return run(state, *words, "--", "/bin/sh", "-c", script, **options)


def listener(state, *listens, words=(), **options):
    """`nsnet run` of a listener, as a `with` block's Running."""
    return Running(None, state, "run", "--map-own", *words, "--", *listening(*listens), **options)


def listening(*listens):
    """The command: signals to handle, those below 0 to ignore, or words."""
    return [*PYTHON, "-c", LISTENER, *(str(int(one)) if isinstance(one, int) else one for one in listens)]


def child_of(pid):
    """The one child of a process."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        (child,) = map(int, file.read().split())
    return child


def ends(pid):
    """Wait for the end of a process that is nobody's child any more."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return has_ended(pidfd)
    finally:
        os.close(pidfd)


# --- statuses ---

@pytest.mark.parametrize("script, status", [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -KILL $$", 137),
                                            ("kill -TERM $$", 143), ("kill -34 $$", 162)])
def test_the_status_is_the_commands(state, script, status):
    done = run_sh(state, script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("words, status, said", [
    (["--", "nsnet-no-such-command"], 127, "'nsnet-no-such-command'"), (["--", "/no/such"], 127, "'/no/such'"),
    (["--", "/etc/passwd"], 126, "'/etc/passwd'"), (["--", "/"], 126, "'/'"),
    (["--new", "user,mnt", "--", "/no/such"], 127, "'/no/such'"),
    (["--new", "user,mnt", "--", "/etc/passwd"], 126, "'/etc/passwd'"),
    (["--cwd", "/no/such", "--", "/bin/true"], 1, "chdir"),
    (["--join", "net=/no/such", "--", "/bin/true"], 1, "/no/such"),
    (["--cgroup", "/no/such", "--", "/bin/true"], 1, "/no/such"),
    (["--join", "uts=/etc/passwd", "--", "/bin/true"], 2, "--join '/etc/passwd'")], ids=lambda value: str(value)[:40])
def test_what_cannot_be_run_is_said_in_one_line(state, words, status, said):
    done = run(state, *words)
    assert done.returncode == status and done.stdout == ""
    assert said in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("nsnet: ")


@pytest.mark.parametrize("script, status, about", [
    ("echo out; exit 7", 7, {"returncode": 7, "signal": None}),
    ("kill -TERM $$", 143, {"returncode": -15, "signal": "SIGTERM"}),
    ("kill -35 $$", 163, {"returncode": -35, "signal": "SIGRTMIN+1"})])
def test_json_is_one_object_on_stderr(state, script, status, about):
    done = run_sh(state, script, "--json")
    said = json.loads(done.stderr)
    assert done.returncode == status and said.pop("pid") > 0 and said == about
    assert done.stdout in ("", "out\n")


def test_without_a_stderr_json_changes_nothing(state):
    argv = nsnet_argv("run", "--json", "--", "/bin/sh", "-c", "exit 5")
    done = subprocess.run(["/bin/sh", "-c", '"$@" 2>&-', "sh", *argv], env=environment(state), timeout=60)
    assert done.returncode == 5


def test_a_caller_that_ignores_its_children_gets_the_status(state):
    done = run_sh(state, "exit 9", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert done.returncode == 9


# --- signals ---

@pytest.mark.parametrize("number", SENT_ON, **by_name)
def test_a_signal_is_sent_on_once(state, number):
    other = signal.SIGUSR1 if number != signal.SIGUSR1 else signal.SIGUSR2
    with listener(state, number, other) as runner:
        runner.until("ready")
        runner.signal(number)
        assert runner.line() == f"{number.name}\n"
        runner.signal(other)
        assert runner.line() == f"{other.name}\n"
        last = signal.SIGTERM if number != signal.SIGTERM else signal.SIGHUP
        runner.signal(last)
        code, _, err = runner.end()
    assert (code, err) == (128 + last, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
                                    signal.SIGUSR2], **by_name)
def test_a_command_that_a_signal_ends_gives_its_status(state, number):
    with listener(state, words=["--rlimit", "core=0"]) as runner:
        runner.until("ready")
        runner.signal(number)
        code, _, err = runner.end()
        assert (code, err) == (128 + number, "")


@pytest.mark.parametrize("number", [*SENT_ON, signal.SIGTSTP], **by_name)
def test_a_signal_that_we_are_told_to_ignore_is_not_sent_on(state, number):
    other = signal.SIGUSR1 if number != signal.SIGUSR1 else signal.SIGUSR2
    with listener(state, number, other, preexec=lambda: signal.signal(number, signal.SIG_IGN)) as runner:
        runner.until("ready")
        runner.signal(number)
        runner.signal(other)
        assert runner.line() == f"{other.name}\n"
        last = signal.SIGTERM if number != signal.SIGTERM else signal.SIGHUP
        runner.signal(last)
        assert runner.end()[0] == 128 + last


# Runs `nsnet run`, and sends itself a signal at a moment before the command runs.
STRIKER = """
import os, sys
from nsnet import cli, process

moment, number = sys.argv[1], int(sys.argv[2])
prepare, go = process.Process.prepare, process.Process.go

def strike(process):
    print(process.pid, flush=True)
    os.kill(os.getpid(), number)

def prepare_struck(process):
    if moment == "cloned":
        strike(process)
    prepare(process)
    if moment == "parked":
        strike(process)

def go_struck(process):
    if moment == "going":
        strike(process)
    go(process)

process.Process.prepare, process.Process.go = prepare_struck, go_struck
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
                                    signal.SIGKILL], **by_name)
@pytest.mark.parametrize("moment", ["cloned", "parked", "going"])
def test_a_signal_before_the_command_runs_leaves_nothing(state, tmp_path, moment, number):
    """While we are going it is sent on at once, so that the command may just have begun."""
    mark = tmp_path / "ran"
    argv = [sys.executable, "-c", STRIKER, moment, int(number), "run", "--map-own", "--", "/bin/sh", "-c",
            f"ulimit -c 0; echo > {mark}; exec sleep 1000"]
    with Running(None, state, argv=argv, preexec=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))) as runner:
        pid = int(runner.line())
        code, _, err = runner.end()
        assert ends(pid)
    assert code in (128 + number, -number) and err == ""
    assert moment == "going" or not mark.exists()
    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert code == 128 + number


def test_a_signal_that_comes_at_any_time_ends_everything(state, tmp_path):
    """From the outside, at moments that nobody chose."""
    for number, wait in enumerate([0.0, 0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2]):
        fifo = tmp_path / f"fifo{number}"
        os.mkfifo(fifo)
        keep = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            script = f"exec 7>{fifo}; exec sleep 1000"
            with Running(None, state, "run", "--map-own", "--", "/bin/sh", "-c", script) as runner:
                try:
                    runner.popen.wait(wait)
                except subprocess.TimeoutExpired:
                    pass
                runner.signal(signal.SIGTERM)
                assert runner.end()[0] in (143, -15)
            assert os.read(keep, 1) == b""              # nobody has the other end: the command is gone
        finally:
            os.close(keep)


# --- the first process of a pid namespace ---

PID = ("--new", "user,pid")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1], **by_name)
def test_an_init_that_a_signal_would_not_reach_is_killed(state, number):
    with listener(state, words=PID) as runner:
        runner.until("ready")
        runner.signal(number)
        assert runner.end() == (137, "ready 1\n", "")


def test_an_init_that_handles_a_signal_is_left_to_it(state):
    with Running(None, state, "run", *PID, "--", "/bin/sh", "-c",
                 'trap "echo bye; exit 6" TERM; echo ready; while :; do sleep 0.1; done') as runner:
        runner.until("ready")
        runner.signal(signal.SIGTERM)
        assert runner.end() == (6, "ready\nbye\n", "")


def test_an_init_that_ignores_or_waits_for_a_signal_is_left_to_that(state):
    ignored, waited = signal.SIGTERM, signal.SIGINT
    with listener(state, -ignored, f"={int(waited)}", words=[*PID, "--kill-with-parent"]) as runner:
        runner.until("ready 1\n")
        for _ in range(3):
            runner.signal(ignored)
            runner.signal(waited)
            assert runner.line() == "SIGINT\n"
        assert runner.popen.poll() is None


def test_all_others_of_a_pid_namespace_end_with_its_init(state):
    with Running(None, state, "run", *PID, "--", "/bin/sh", "-c", "sleep 1000 & echo ready; wait") as runner:
        runner.until("ready")
        runner.signal(signal.SIGTERM)
        assert runner.end() == (137, "ready\n", "")         # end() waits until nobody has its stdout any more


# --- what is left of us ---

@pytest.mark.parametrize("words", [(), PID], ids=["alone", "init"])
@pytest.mark.parametrize("with_parent", [True, False])
def test_after_sigkill_a_running_command_goes_on_unless_it_shall_not(state, words, with_parent):
    more = ["--kill-with-parent"] if with_parent else []
    with listener(state, signal.SIGUSR1, words=[*more, *words]) as runner:
        runner.until("ready")
        pid = child_of(runner.pid)
        pidfd = os.pidfd_open(pid)
        try:
            runner.signal(signal.SIGKILL)
            runner.popen.wait()
            if not with_parent:
                signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
                assert runner.line() == "SIGUSR1\n"
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert has_ended(pidfd)
        finally:
            os.close(pidfd)


# --- what the command is given ---

def test_the_environment_is_the_callers_unless_it_is_cleared(state):
    env = {"ONE": "1", "TWO": "2"}
    done = run(state, "--", "/usr/bin/env", env=env)
    assert {"ONE=1", "TWO=2"} <= set(done.stdout.split("\n"))
    done = run(state, "--env", "TWO=22", "--env", "THREE=a=b", "--env", "EMPTY=", "--", "/usr/bin/env", env=env)
    assert {"ONE=1", "TWO=22", "THREE=a=b", "EMPTY="} <= set(done.stdout.split("\n"))
    done = run(state, "--clear-env", "--env", "ONE", "--env", "TWO=x", "--env", "NOT_SET", "--", "env", env=env)
    assert done.stdout.split() == ["ONE=1", "TWO=x"]
    assert run(state, "--clear-env", "--", "env", env=env).stdout == ""


def test_the_command_is_looked_for_in_its_own_path(state, tmp_path):
    program = tmp_path / "nsnet-test-program"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    os.chmod(tmp_path, 0o755)
    assert run(state, "--", program.name).returncode == 127
    assert run(state, "--env", f"PATH={tmp_path}", "--", program.name).stdout == "found\n"


def test_new_namespaces_of_each_kind(state):
    done = run(state, "--new", ",".join(KINDS), "--proc", "--", *ALL_NUMBERS)
    there = list(map(int, done.stdout.split()))
    assert len(there) == len(KINDS), done.stderr
    assert [kind for kind, number in zip(KINDS, there) if number == namespace_of("self", kind)] == []


def namespaces_of_a_run(state, *words):
    done = call(state, "run", *words, "--", *ALL_NUMBERS)
    assert done.returncode == 0
    return {kind for kind, number in zip(KINDS, map(int, done.stdout.split())) if number != namespace_of("self", kind)}


@pytest.mark.parametrize("words, new", [((), {"user", "net"}), (("--new", ""), set()), (("--new=none",), set()),
                                        (("--new", "user"), {"user"}),
                                        (("--new", "user,uts,ipc"), {"user", "uts", "ipc"})], ids=str)
def test_which_namespaces_are_new(state, words, new):
    assert namespaces_of_a_run(state, *words) == new


def test_namespaces_that_are_joined(state):
    with listener(state, signal.SIGUSR1, words=["--kill-with-parent"]) as runner:
        runner.until("ready")
        pid = child_of(runner.pid)
        joins = [word for kind in ("user", "net") for word in ("--join", f"{kind}=/proc/{pid}/ns/{kind}")]
        done = call(state, "run", *joins, "--", *NUMBERS, "/proc/self/ns/user", "/proc/self/ns/net")
        assert list(map(int, done.stdout.split())) == [namespace_of(pid, "user"), namespace_of(pid, "net")]
        # What is joined is not new by default, and what is not joined is.
        done = call(state, "run", "--join", f"user=/proc/{pid}/ns/user", "--", *NUMBERS, "/proc/self/ns/user",
                    "/proc/self/ns/net")
        user, net = map(int, done.stdout.split())
        assert user == namespace_of(pid, "user") and net not in (namespace_of(pid, "net"), namespace_of("self", "net"))


def test_who_the_command_is(state):
    show = ('id -u; id -g; grep -E "^(Cap(Eff|Prm|Amb|Bnd)|NoNewPrivs):" /proc/self/status;'
            ' cat /proc/self/uid_map /proc/self/gid_map')
    (((_, own_u, _),), ((_, own_g, _),)) = nsnet.own_maps()
    lines = run_sh(state, show).stdout.split("\n")
    assert lines[:2] == ["0", "0"]
    assert [line.split()[1] for line in lines[2:7]] == ["0" * 16] * 4 + ["1"]
    assert [line.split() for line in lines[7:9]] == [["0", str(own_u), "1"], ["0", str(own_g), "1"]]
    done = run_sh(state, show, "--cap", "net_raw,CAP_CHOWN", "--cap", "net_admin", "--allow-new-privs")
    lines = done.stdout.split("\n")
    assert [line.split()[1] for line in lines[2:7]] == [f"{1 << 0 | 1 << 12 | 1 << 13:016x}"] * 4 + ["0"]
    done = call(state, "run", "--uid-map", f"7:{own_u}:1", "--gid-map", f"8:{own_g}:1", "--user", "7", "--",
                "/bin/sh", "-c", "id -u; id -g")
    assert done.stdout.split() == ["7", "8"]


@needs_root
def test_container_root_of_root_is_nobody_unless_told_otherwise(state):
    done = call(state, "run", "--", "/bin/cat", "/proc/self/uid_map")
    assert done.stdout.split() == ["0", "65534", "1"]
    done = call(state, "run", "--new", "none", "--user", "65534", "--group", "65533", "--groups", "7,8", "--",
                "/bin/sh", "-c", "id -u; id -g; id -G")
    assert done.stdout.split("\n")[:3] == ["65534", "65533", "65533 7 8"]


@pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: root may")
@pytest.mark.parametrize("words, step", [(("--new", "net"), "unshare"),
                                         (("--new", "none", "--cap", "net_admin"), "capabilities")], ids=str)
def test_what_an_ordinary_user_may_not_is_refused_in_one_line(state, words, step):
    done = call(state, "run", *words, "--", "/bin/true")
    assert done.returncode == 1 and done.stderr.startswith(f"nsnet: {step}: ") and done.stderr.count("\n") == 1


@pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: root may")
def test_an_ordinary_user_maps_nobody_elses_ids(state):
    """Bad usage where /etc/subuid says whose they are; where it does not, newuidmap(1) refuses."""
    done = call(state, "run", "--uid-map", "0:0:2", "--", "/bin/true")
    assert done.returncode in (1, 2) and "uid_map" in done.stderr.replace("--uid-map", "uid_map")
    assert done.stderr.count("\n") == 1


def test_what_the_command_is_given(state, tmp_path):
    show = "pwd; umask; ulimit -Sn; ulimit -Hn; ulimit -Hc; hostname; cat /proc/self/oom_score_adj; echo $$"
    done = run_sh(state, show, "--new", "user,net,uts,pid,mnt", "--proc", "--cwd", "/usr", "--umask", "27",
                  "--rlimit", "nofile=20:30", "--rlimit", "CORE=0", "--hostname", "inside", "--oom-score-adj", "900")
    assert done.stdout.split() == ["/usr", "0027", "20", "30", "0", "inside", "900", "1"], done.stderr


@pytest.mark.parametrize("words, flags", [((), "UP"), (("--no-loopback",), "")], ids=str)
def test_lo_is_up_unless_it_shall_not_be(state, words, flags):
    done = run(state, *words, "--", *PYTHON, "-c", """
import fcntl, socket
s = socket.socket()
print("UP" if fcntl.ioctl(s, 0x8913, b"lo".ljust(32, b"\\0"))[16] & 1 else "")""")
    assert done.stdout.strip() == flags


def test_the_command_gets_the_descriptors_that_were_passed_and_no_others(state):
    one, two = os.open("/etc/passwd", os.O_RDONLY), os.open("/", os.O_RDONLY)
    show = [*PYTHON, "-c", "import os; fds = os.listdir('/proc/self/fd');"
            " print(sorted(int(fd) for fd in fds if os.path.exists(f'/proc/self/fd/{fd}')))"]
    try:
        done = run(state, "--", *show, pass_fds=[one, two])
        assert done.stdout == "[0, 1, 2]\n"
        done = run(state, "--pass-fd", two, "--", *show, pass_fds=[one, two])
        assert done.stdout == f"{sorted([0, 1, 2, two])}\n"
        show = f"import os; print(os.read({one}, 4).decode(), end='')"
        done = run(state, "--pass-fd", one, "--", *PYTHON, "-c", show, pass_fds=[one, two])
        assert done.stdout == "root"
        done = run(state, "--pass-fd", one, "--", "/bin/true", pass_fds=[two])
        assert done.returncode == 2 and f"--pass-fd '{one}'" in done.stderr
    finally:
        os.close(one)
        os.close(two)


def test_no_descriptor_of_our_own_can_be_passed(state):
    for number in range(3, 12):
        done = run(state, "--pass-fd", number, "--", "/bin/true")
        assert done.returncode == 2 and f"--pass-fd '{number}'" in done.stderr


# --- the terminal ---

# A shell of one job: the leader of a session, whose terminal is its standard input. It says how the job stops and ends,
# and in what state the job's child is while it is stopped, and continues it.
SHELL = """
import fcntl, os, signal, sys, termios, time
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        print("ended", os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status), flush=True)
        break
    os.tcsetpgrp(0, os.getpgrp())
    command = open(f"/proc/{job}/task/{job}/children").read().split()[0]
    for _ in range(1000):
        state = open(f"/proc/{command}/stat").read().rpartition(")")[2].split()[0]
        if state == "T":
            break
        time.sleep(0.01)
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
    print("stopped", signal.Signals(os.WSTOPSIG(status)).name, state, flush=True)
"""


class AtTerminal(Running):
    """`nsnet run` as the foreground job of a shell, with a terminal at which keys can be pressed."""

    def __init__(self, state, *words):
        self.keys, terminal = pty.openpty()
        try:
            argv = nsnet_argv("run", "--map-own", "--kill-with-parent", *words)
            super().__init__(None, state, argv=[*PYTHON, "-c", SHELL, *argv], preexec=lambda: os.dup2(terminal, 0))
        finally:
            os.close(terminal)

    def press(self, key):
        os.write(self.keys, key)

    def __exit__(self, *args):
        super().__exit__(*args)
        os.close(self.keys)


@pytest.mark.parametrize("words", [(), ("--terminal",), PID, ("--terminal", *PID)], ids=str)
def test_a_key_at_the_terminal_reaches_the_command_once(state, words):
    with AtTerminal(state, *words, "--", *listening(signal.SIGINT, signal.SIGQUIT)) as shell:
        shell.until("ready")
        shell.press(b"\x03")
        assert shell.line() == "SIGINT\n"
        shell.press(b"\x1c")
        assert shell.line() == "SIGQUIT\n"
        shell.press(b"\x03")
        assert shell.line() == "SIGINT\n"


@pytest.mark.parametrize("words, status", [((), 130), (("--terminal",), 130), (PID, 137), (("--terminal", *PID), 137)],
                         ids=str)
def test_ctrl_c_ends_a_command_that_does_not_handle_it(state, words, status):
    with AtTerminal(state, *words, "--", *listening()) as shell:
        shell.until("ready")
        shell.press(b"\x03")
        assert shell.line() == f"ended {status}\n"


@pytest.mark.parametrize("words", [(), ("--terminal",), PID, ("--terminal", *PID)], ids=str)
def test_ctrl_z_stops_both_and_fg_continues_both(state, words):
    with AtTerminal(state, *words, "--", *listening(signal.SIGUSR1)) as shell:
        shell.until("ready")
        for _ in range(2):
            shell.press(b"\x1a")
            assert shell.line() == "stopped SIGTSTP T\n"
            os.kill(child_of(shell.pid), signal.SIGUSR1)
            assert shell.line() == "SIGUSR1\n"
        shell.press(b"\x03")
        assert shell.line() == f"ended {137 if 'user,pid' in words else 130}\n"


def test_a_command_that_does_not_stop_at_ctrl_z_does_not_stop_us(state):
    with AtTerminal(state, "--terminal", "--", *listening(signal.SIGTSTP, signal.SIGINT)) as shell:
        shell.until("ready")
        shell.press(b"\x1a")
        assert shell.line() == "SIGTSTP\n"
        shell.press(b"\x03")
        assert shell.line() == "SIGINT\n"


@pytest.mark.parametrize("words, said", [((), "no"), (("--terminal",), "yes")], ids=str)
def test_the_command_has_the_terminal_only_if_it_was_given(state, words, said):
    look = "if (: < /dev/tty) 2>&-; then echo yes; else echo no; fi"
    with AtTerminal(state, *words, "--", "/bin/sh", "-c", look) as shell:
        assert shell.line() == f"{said}\n"
        shell.until("ended")


def test_a_signal_from_a_process_is_sent_on_with_a_terminal_too(state):
    with listener(state, signal.SIGINT, words=["--terminal"]) as runner:
        runner.until("ready")
        runner.signal(signal.SIGINT)
        assert runner.line() == "SIGINT\n"
        runner.signal(signal.SIGTERM)
        assert runner.end()[0] == 143


# --- what README says ---

def readme_example(command):
    """(words behind "python -m nsnet", what it prints) of the one example of a command."""
    path = TREE / "README.md"
    if not path.exists():
        pytest.skip("README.md is not here: the tests do not run in a checkout")
    (found,) = re.findall(rf"^    \$ python -m nsnet ({command} .*)\n((?:    (?!\$).*\n)*)", path.read_text(), re.M)
    return shlex.split(found[0]), textwrap.dedent(found[1])


def test_the_example_of_run(state):
    words, printed = readme_example("run")
    done = call(state, *words)
    assert (done.returncode, done.stdout, done.stderr) == (3, printed, "")


def test_the_example_of_exec(host, state):
    words, printed = readme_example("exec")
    with Running(host, state, "demo", "--keep") as demo:
        demo.until("Take it down")
        done = call(state, *words)
        demo.signal(signal.SIGTERM)
        assert demo.end()[0] == 143
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == sorted(printed.split())


def test_nothing_is_left_by_all_this(state):
    assert [pid for pid in children() if not is_gone(pid)] == []

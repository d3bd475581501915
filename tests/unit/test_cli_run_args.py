"""`nsnet run` and `nsnet exec`: what cannot be meant is refused in one line that names the option; nothing is asked."""

import os
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ANY_TEXT, one_line
from test_cli_args import complaint, nothing_is_asked, run                                              # noqa: F401

from nsnet import pins, process, state
from nsnet.cli import attend

COMMAND = ("--", "/bin/true")


@pytest.fixture(autouse=True)
def nobody_is_looked_for(monkeypatch):
    def asked(*args, **kwargs):
        pytest.fail("the kernel was asked before the arguments were checked")
    monkeypatch.setattr(process, "namespaces", asked)
    monkeypatch.setattr(pins, "pinned", asked)
    monkeypatch.setattr(state, "directory", asked)


# (the option, a value that cannot be meant): of run and of exec
BAD_SHARED = [
    ("--user", "no such user"), ("--user", "-1"), ("--user", "4294967295"), ("--user", ""), ("--user", "0x0"),
    ("--group", "no such group"), ("--group", "99999999999"), ("--group", "a\0b"),
    ("--groups", "1,no such group"), ("--groups", "4294967296"),
    ("--cap", "net_admni"), ("--cap", "all"), ("--cap", "chown, kill"),
    ("--env", ""), ("--env", "=value"), ("--env", "a\0b"), ("--env", "a=\ud800"),
    ("--cwd", ""), ("--cwd", "a\0b"), ("--cgroup", ""), ("--cgroup", "a\0b"),
    ("--umask", "8"), ("--umask", "1000"), ("--umask", "-1"), ("--umask", ""), ("--umask", "0o7"),
    ("--umask", "\u0661"),
    *[("--rlimit", text) for text in ("", "nofile", "nofile=", "nofile=x", "nofile=1:", "nofile=2:1", "nofile=1:2:3",
                                      "=1", "files=1", "nofile=-1", "nofile=unlimited:5", "nofile=" + "9" * 5000)],
    *[("--oom-score-adj", text) for text in ("1001", "-1001", "", "x", "1.5", "9" * 5000)],
    *[("--pass-fd", text) for text in ("", "0", "2", "-1", "x", "3 ", "999999", "2147483648", "9" * 5000)],
]
BAD_RUN = [
    ("--new", "user,nett"), ("--new", "user,"), ("--new", "all"), ("--new", "none,user"), ("--new", " "),
    ("--join", ""), ("--join", "net"), ("--join", "net="), ("--join", "=path"), ("--join", "nett=/proc/self/ns/net"),
    ("--join", "net=a\0b"), ("--join", "net=\ud800"), ("--join", "net=/dev/null"),
    ("--uid-map", "0:0"), ("--uid-map", "0:4294967296:1"), ("--uid-map", "0:1:1,0:2:1"), ("--uid-map", ""),
    ("--gid-map", "x"), ("--gid-map", "4294967295:0:1"), ("--gid-map", "9" * 5000 + ":0:1"),
    ("--hostname", "x"),
]
BAD_EXEC = [
    ("--pid", "0"), ("--pid", "-1"), ("--pid", ""), ("--pid", "x"), ("--pid", "2147483648"), ("--pid", "self"),
    ("--netns", ""), ("--netns", "a\0b"), ("--netns", "/dev/null"),
]


@pytest.mark.parametrize("option, value", [*BAD_SHARED, *BAD_RUN], ids=ascii)
def test_run_names_the_option_that_it_refuses(capsys, option, value):
    assert option in complaint(capsys, 2, "run", f"{option}={value}", *COMMAND)


@pytest.mark.parametrize("option, value", [pair for pair in BAD_SHARED
                                           if pair[0] not in ("--user", "--group", "--groups")], ids=ascii)
def test_exec_names_the_option_that_it_refuses(capsys, option, value):
    assert option in complaint(capsys, 2, "exec", "--pid", "1", f"{option}={value}", *COMMAND)


@pytest.mark.parametrize("option, value", [*BAD_EXEC, ("--kinds", "user,nett"), ("--kinds", ""), ("--kinds", "none")],
                         ids=ascii)
def test_exec_names_the_target_that_it_refuses(capsys, option, value):
    target = ["--pid", "1"] if option == "--kinds" else []
    assert option in complaint(capsys, 2, "exec", *target, f"{option}={value}", *COMMAND)


@pytest.mark.parametrize("words, named", [
    (["--new", "net", "--uid-map", "0:0:1"], "--uid-map"), (["--new", "", "--gid-map", "0:0:1"], "--gid-map"),
    (["--map-own", "--uid-map", "0:0:1"], "--map-own"), (["--new", "none", "--map-own"], "--map-own"),
    (["--join", "user=/proc/self/ns/user", "--map-own"], "--map-own"),
    (["--join", "net=/proc/self/ns/net", "--join", "net=/proc/self/ns/net"], "--join"),
    (["--join", "net=/proc/self/ns/net", "--new", "net"], "--join"),
    (["--join", "net=/proc/self/ns/uts"], "--join"),
    (["--new", "user,net", "--hostname", "x"], "--hostname"), (["--new", "user,uts", "--hostname", ""], "--hostname"),
    (["--new", "user,uts", "--hostname", "x" * 65], "--hostname"),
    (["--new", "user,uts", "--hostname", "\ud800"], "--hostname"),
    (["--proc"], "--proc"), (["--new", "user,pid", "--proc"], "--proc"),
    (["--new", "user", "--no-loopback"], "--no-loopback"),
    (["--user", "5"], "--user"), (["--group", "5"], "--group"), (["--groups", "5"], "--groups"),
], ids=str)
def test_what_does_not_go_together_is_refused(capsys, words, named):
    assert named in complaint(capsys, 2, "run", *words, *COMMAND)


@pytest.mark.parametrize("words", [[], ["name", "--pid", "1"], ["--pid", "1", "--netns", "x"],
                                   ["name", "--netns", "x"]], ids=str)
def test_exec_wants_one_target(capsys, words):
    assert "NAME, --pid and --netns" in complaint(capsys, 2, "exec", *words, *COMMAND)


@pytest.mark.parametrize("argv", [["run"], ["run", "--json"], ["exec", "name"], ["run", "ls"], ["run", "ls", "--long"],
                                  ["exec", "name", "ls", "-l"]], ids=str)
def test_a_command_that_does_not_stand_behind_two_dashes_is_refused(capsys, argv):
    assert "--" in complaint(capsys, 2, *argv).split()


@pytest.mark.parametrize("name", ["run", "exec"])
@pytest.mark.parametrize("command", [[], [""], ["a\0b"]], ids=repr)
def test_an_empty_command_is_refused(capsys, name, command):
    target = ["--pid=1"] if name == "exec" else []
    named = command[0] if command and command[0] else command
    assert repr(named) in complaint(capsys, 2, name, *target, "--", *command)


@pytest.mark.parametrize("command, code", [("no-such-command", 127), ("/no/such", 127), ("/", 126),
                                           ("/etc/passwd", 126)])
def test_a_command_that_cannot_be_run_is_found_before_anything_is_made(capsys, command, code):
    assert repr(command) in complaint(capsys, code, "run", "--", command)


def test_a_cleared_environment_has_no_path_of_the_callers(capsys, monkeypatch, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    complaint(capsys, 127, "run", "--clear-env", "--", "program")
    with pytest.raises(pytest.fail.Exception, match="the kernel was asked"):
        run("run", "--clear-env", "--env", "PATH", "--", "program")


def test_good_values_reach_the_kernel():
    """Else the tests above would prove nothing."""
    fd = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        with pytest.raises(pytest.fail.Exception, match="the kernel was asked"):
            run("run", "--new", "user,net,uts,pid,mnt", "--uid-map", "0:1000:1,5:2000:7", "--gid-map", "0:1000:9",
                "--user", "7", "--group", "8", "--cap", "net_admin,CAP_CHOWN", "--cap", "kill", "--env", "A=b",
                "--env", "PATH", "--clear-env", "--cwd", "/", "--umask", "0027", "--rlimit", "NOFILE=10:unlimited",
                "--rlimit", "core=0", "--oom-score-adj", "-5", "--pass-fd", str(fd), "--hostname", "x", "--proc",
                "--no-loopback", "--terminal", "--kill-with-parent", "--json", "--allow-new-privs", *COMMAND)
    finally:
        os.close(fd)
    for target in (["name"], ["--pid", "1"], ["--netns", "name"]):
        with pytest.raises(pytest.fail.Exception, match="the kernel was asked"):
            run("exec", *target, "--kinds", "user,net", *COMMAND)


OPTIONS = sorted({option for option, _ in (*BAD_SHARED, *BAD_RUN)})


@settings(suppress_health_check=[*HealthCheck], max_examples=5 * settings.default.max_examples)
@given(command=st.sampled_from(["run", "exec"]), option=st.sampled_from([*OPTIONS, "--pid", "--netns", "--kinds"]),
       value=ANY_TEXT)
def test_any_value_is_taken_or_refused_in_one_line(capsys, command, option, value):
    """What is taken reaches the kernel, and there the fixtures stop it; or a file that is not there."""
    try:
        target = ["--pid=1"] if command == "exec" and option not in ("--pid", "--netns") else []
        code = run(command, *target, f"{option}={value}", *COMMAND)
    except pytest.fail.Exception:
        capsys.readouterr()
        return
    said = capsys.readouterr()
    assert code in (1, 2) and one_line(said.err) and said.out == ""
    assert code == 2 or option in ("--cgroup", "--join")


@settings(suppress_health_check=[*HealthCheck])
@given(name=ANY_TEXT)
def test_any_name_is_taken_or_refused_in_one_line(capsys, name):
    try:
        code = run("exec", name, *COMMAND)
    except pytest.fail.Exception:
        capsys.readouterr()
        return
    said = capsys.readouterr()
    assert (code == 2 and one_line(said.err) and said.out == "") or name in ("-h", "--help")


def test_masks_and_handlers_are_as_before(monkeypatch):
    """A program that calls main() gets its signals back."""
    numbers = [*attend.SENT_ON, signal.SIGTSTP, signal.SIGCHLD]
    before = [signal.getsignal(number) for number in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with attend._signals_in_order() as watched:
        assert set(numbers) >= watched and signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= watched
        os.kill(os.getpid(), signal.SIGUSR1)            # comes too late for a command that has ended
    assert before == ([signal.getsignal(number) for number in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, ()))


@pytest.mark.parametrize("number, name", [(0, None), (-3, None), (15, "SIGTERM"), (signal.SIGRTMIN, "SIGRTMIN"),
                                          (signal.SIGRTMIN + 3, "SIGRTMIN+3")])
def test_names_of_signals(number, name):
    assert attend._signal_name(number) == name

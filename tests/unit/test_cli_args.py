"""Bad input on the command line: one line on stderr that names the value, exit 2, and the kernel is not even asked."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ANY_TEXT, golden, one_line

import nsnet
from nsnet import kernel
from nsnet.cli import COMMANDS, main


@pytest.fixture(autouse=True)
def nothing_is_asked(monkeypatch, tmp_path):
    """Whoever opens a socket, visits a namespace or clones a child has let a bad value through."""
    def asked(*args, **kwargs):
        pytest.fail("the kernel was asked before the arguments were checked")
    monkeypatch.setattr(kernel.RtnlSocket, "open", asked)
    monkeypatch.setattr(kernel, "visit", asked)
    monkeypatch.setattr(kernel.Child, "clone", asked)
    monkeypatch.setenv("NSNET_STATE_DIR", str(tmp_path / "state"))
    yield
    assert not (tmp_path / "state").exists()


def run(*argv):
    """The exit code of `nsnet argv`, however it is given."""
    try:
        return main(list(argv))
    except SystemExit as end:
        return end.code


def complaint(capsys, code, *argv):
    """What `nsnet argv` says on stderr, after it ended with `code`."""
    assert run(*argv) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("\n") and one_line(said.err), f"not one line: {said.err!r}"
    assert said.err.startswith("nsnet") and "Traceback" not in said.err
    return said.err


# (the option, a value that cannot be meant)
BAD_OPTIONS = [
    *[(option, name) for option in ("--bridge", "--ifname", "--host-ifname")
      for name in ("", "a" * 16, "a/b", "a b", "x%d", "all", "default", "é", ".")],
    ("--ifname", "lo"), ("--host-ifname", "lo"), ("--bridge", "lo"),
    *[("--subnet", text) for text in (
        "10.0.0.0", "10.0.0.0/33", "10.0.0.1/24", "10.0.0.0/31", "10.0.0.0/32", "fd00::/129", "224.0.0.0/24", "net")],
    *[("--gateway", text) for text in (
        "10.0.0.1", "10.0.0.0/24", "10.0.0.255/24", "10.1.0.1/24", "10.0.0.1/16", "fd00::1/64", "10.0.0.2/24")],
    *[("--address", text) for text in (
        "10.0.0.2", "10.0.0.2/33", "10.0.1.2/24", "10.0.0.2/25", "10.0.0.0/24", "10.0.0.255/24", "fd00::2/64",
        "10.0.0.1/24")],
    *[("--lladdr", text) for text in ("02:00:00:00:00", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "mac")],
    *[("--mtu", text) for text in ("67", "65536", "big", "1.5")],
    *[("--port", text) for text in ("0", "70000", "http", "", "000001999999")],
    *[("--capabilities", text) for text in ("net_admni", "all", "chown, kill")],
    ("--uid-map", "0:0"), ("--uid-map", "0:4294967296:1"), ("--uid-map", "0:0:0"), ("--uid-map", "0:1:1,0:2:1"),
    ("--gid-map", "x"), ("--gid-map", "4294967295:0:1"), ("--gid-map", ""),
]


@pytest.mark.parametrize("option, value", BAD_OPTIONS, ids=ascii)
def test_a_bad_value_is_refused_in_one_line(capsys, option, value):
    words = complaint(capsys, 2, "demo", f"{option}={value}")
    named = [repr(value), *(repr(part) for part in value.split(","))]
    if option == "--mtu":                           # a number by then
        named.append(f"mtu {value}:")
    if option in ("--uid-map", "--gid-map"):        # the row, which is what is wrong in a map of several
        named += [str(tuple(map(int, part.split(":")))) for part in value.split(",") if part.replace(":", "").isdigit()]
    assert any(name in words for name in named), f"{value!r} is not named: {words}"


def test_two_links_of_one_name_are_refused(capsys):
    assert "'br7'" in complaint(capsys, 2, "demo", "--bridge", "br7", "--host-ifname", "br7")


def test_a_number_that_python_would_not_read_is_refused(capsys):
    assert "--uid-map" in complaint(capsys, 2, "demo", "--uid-map", "9" * 5000 + ":0:1")


@pytest.mark.parametrize("argv", [
    [], ["nosuch"], ["demo", "--nosuch"], ["demo", "stray"], ["demo", "--mtu"], ["explain", "00", "00"],
    ["gc", "stray"], ["--nosuch", "gc"], ["demo", "stray\nline"], ["nosuch\nline"], ["demo", "--json=1"]], ids=ascii)
def test_bad_usage_is_refused_in_one_line(capsys, argv):
    words = complaint(capsys, 2, *argv)
    wrong = next((word for word in reversed(argv) if word not in COMMANDS), "COMMAND")
    assert wrong.split("=")[0].split("\n")[0] in words


# --- the command to be run ---

@pytest.mark.parametrize("command", [[], [""], ["", "a"]], ids=repr)
def test_an_empty_command_is_refused(capsys, command):
    assert repr(command) in complaint(capsys, 2, "demo", "--", *command)


@pytest.mark.parametrize("command", [["no-such-command"], ["./no-such-command"], ["/no/such/command", "arg"],
                                     ["no such\nthing"]],
                         ids=ascii)
def test_a_command_that_is_not_found_is_127(capsys, command):
    assert repr(command[0]) in complaint(capsys, 127, "demo", "--", *command)


def test_a_command_is_looked_for_in_path_only(capsys, monkeypatch, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/no/such/directory:")       # an empty entry means the current directory: not to us
    assert "'program'" in complaint(capsys, 127, "demo", "--", "program")


@pytest.mark.parametrize("make", [lambda path: path.write_text(""), lambda path: path.mkdir()],
                         ids=["file", "directory"])
def test_a_command_that_cannot_be_run_is_126(capsys, tmp_path, make):
    path = tmp_path / "thing"
    make(path)
    assert repr(str(path)) in complaint(capsys, 126, "demo", "--", str(path))


def test_what_stands_behind_two_dashes_is_the_commands_own(capsys):
    assert "'no-such-command'" in complaint(capsys, 127, "demo", "--", "no-such-command", "--port", "0", "--", "-x")


# --- anything at all ---

OPTIONS = ["--bridge", "--subnet", "--gateway", "--address", "--host-ifname", "--ifname", "--lladdr", "--mtu", "--port",
           "--capabilities", "--uid-map", "--gid-map"]


@settings(suppress_health_check=[*HealthCheck])         # the fixture holds for all examples alike
@given(option=st.sampled_from(OPTIONS), value=ANY_TEXT)
def test_any_value_is_checked_without_asking_the_kernel(capsys, option, value):
    """What is taken reaches the kernel, and there the fixture stops it; what is refused is refused in one line."""
    try:
        code = run("demo", f"{option}={value}")
    except pytest.fail.Exception:
        capsys.readouterr()
        return
    said = capsys.readouterr()
    assert code == 2 and one_line(said.err) and said.out == ""


def test_good_values_reach_the_kernel():
    """Else the tests above would prove nothing."""
    with pytest.raises(pytest.fail.Exception, match="the kernel was asked"):
        run("demo", "--bridge", "br7", "--subnet", "10.7.0.0/16",
            "--port", "80", "--mtu", "1400", "--uid-map", "0:1000:1")


# --- the other commands ---

def test_help_and_version_go_to_stdout(capsys):
    for argv in (["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
        assert run(*argv) == 0
        said = capsys.readouterr()
        assert said.out and not said.err
    assert run("--version") == 0
    assert capsys.readouterr().out == f"nsnet {nsnet.__version__}\n"


def test_explain_shows_a_message_given_as_hex(capsys):
    data = golden("link_add_bridge").hex()
    assert run("explain", " ".join(data[at:at + 4] for at in range(0, len(data), 4))) == 0
    assert "IFLA_IFNAME 'nsnet-br0'" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["zz", "0", "0x00", "é", "00 0g"])
def test_explain_refuses_what_is_no_hex(capsys, text):
    assert repr(text) in complaint(capsys, 2, "explain", text)


def test_explain_reads_standard_input(capsys, monkeypatch):
    read, write = os.pipe()
    with os.fdopen(write, "w") as file:
        file.write(golden("link_del").hex() + "\n")
    with os.fdopen(read) as file:
        monkeypatch.setattr("sys.stdin", file)
        assert run("explain") == 0
    assert "RTM_DELLINK" in capsys.readouterr().out

"""Bad input on the command line: one line on stderr that names the value, exit 2, and the kernel is not even asked."""

import io
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ANY_TEXT, golden, one_line

import nsnet
from nsnet import clone, kernel
from nsnet.cli import COMMANDS, main
from nsnet.wire import encode_attribute, encode_message


@pytest.fixture(autouse=True)
def nothing_is_asked(monkeypatch, tmp_path):
    """Whoever opens a socket, visits a namespace or clones a child has let a bad value through."""
    def asked(*args, **kwargs):
        pytest.fail("the kernel was asked before the arguments were checked")
    monkeypatch.setattr(kernel.RtnlSocket, "open", asked)
    monkeypatch.setattr(clone, "visit", asked)
    monkeypatch.setattr(clone.Child, "clone", asked)
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
    [], ["nosuch"], ["demo", "--nosuch"], ["demo", "stray"], ["demo", "--mtu"], ["explain", "--nosuch"],
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


HEX = golden("link_del").hex()


def in_parts(text, size):
    return [text[at:at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("words", [[HEX], [" ".join(in_parts(HEX, 4))], in_parts(HEX, 8), in_parts(HEX, 3),
                                   [HEX.upper()]], ids=["one word", "spaces", "words", "odd words", "capitals"])
def test_explain_shows_a_message_given_as_hex(capsys, words):
    assert run("explain", *words) == 0
    assert capsys.readouterr().out.startswith("RTM_DELLINK REQUEST|ACK ")


@pytest.mark.parametrize("text", ["zz", "0", "0x00", "é", "00 0g", "", " ", "\n", "a\0b", "/no/such/file"])
def test_explain_refuses_what_is_neither_hex_nor_a_file(capsys, text):
    assert repr(text.strip()) in complaint(capsys, 2, "explain", text)


def test_explain_says_that_a_file_is_not_there(capsys, tmp_path):
    missing = str(tmp_path / "nlmon.pcap")
    assert complaint(capsys, 2, "explain", missing) == f"nsnet: {missing!r}: no such file, and no bytes in hex\n"
    assert complaint(capsys, 2, "explain", "--file", "beef") == "nsnet: 'beef': no such file\n"


def test_explain_reads_a_file_whose_name_can_be_hex_if_it_is_said_to_be_one(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("beef", "bee"):
        (tmp_path / name).write_text(HEX)
    for words, heads in ((["--file", "beef"], ["RTM_DELLINK"]), (["--file", "bee", "--file=beef"], ["RTM_DELLINK"] * 2),
                         (["beef"], ["!"]), (["./beef"], ["RTM_DELLINK"]),
                         (["beef", "--file", "beef"], ["!", "RTM_DELLINK"])):
        assert run("explain", *words) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[0] != " "] == heads
    assert "'bee': expected bytes in hex, two digits each; of a file with that name: --file" in complaint(
        capsys, 2, "explain", "bee")
    assert run("explain", "--help") == 0 and "--file" in capsys.readouterr().out


def test_explain_refuses_a_long_word_briefly(capsys):
    assert len(complaint(capsys, 2, "explain", "0" * 9000 + "g")) < 200


def test_explain_shows_what_makes_no_sense_as_well(capsys):
    assert run("explain", "00 00") == 0
    assert capsys.readouterr().out == "! 2 bytes behind the last netlink message: 0000\n"


@pytest.fixture
def standard_input(monkeypatch):
    """A function that puts bytes there."""
    files = []

    def give(data):
        read, write = os.pipe()
        with os.fdopen(write, "wb") as file:
            file.write(data)
        files.append(os.fdopen(read))
        monkeypatch.setattr("sys.stdin", files[0])
    yield give
    for file in files:
        file.close()


def test_explain_reads_hex_from_standard_input(capsys, standard_input):
    standard_input(HEX.encode() + b"\n")
    assert run("explain") == 0
    assert "RTM_DELLINK" in capsys.readouterr().out


def test_explain_reads_a_capture_from_standard_input(capsys, standard_input):
    standard_input(golden("pcap_nlmon"))
    assert run("explain") == 0
    assert "0.000000 -> RTM_NEWLINK" in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"zz", b"\xff\xfe", b"000", b"\xd4\xc3\xb2\xa1"], ids=repr)
def test_explain_of_what_it_cannot_read_is_1(capsys, standard_input, tmp_path, data):
    standard_input(data)
    complaint(capsys, 1, "explain")
    (tmp_path / "file").write_bytes(data)
    complaint(capsys, 1, "explain", str(tmp_path / "file"))


def test_explain_of_a_directory_is_1(capsys, tmp_path):
    assert repr(str(tmp_path)) in complaint(capsys, 1, "explain", str(tmp_path))


def test_explain_reads_no_more_than_it_says(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("nsnet.cli.explain.MAX_BYTES", 2 << 20)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(3 << 20)
    assert "at most 2 MiB" in complaint(capsys, 2, "explain", str(tmp_path / "sparse"))
    assert "at most 2 MiB" in complaint(capsys, 2, "explain", "/dev/zero")


@pytest.fixture
def capture(tmp_path):
    """The path of a capture; with a number, of its first bytes."""
    def write(end=None):
        path = tmp_path / "nlmon.pcap"
        path.write_bytes(golden("pcap_nlmon")[:end])
        return str(path)
    return write


def test_explain_shows_a_capture_with_directions_and_times(capsys, capture):
    assert run("explain", capture()) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line.split(" ", 2) for line in lines if not line.startswith(" ")]
    assert "".join(arrow for _, arrow, _ in heads) == "-><-->-><-<--><--><--><--><-<-"
    times = [float(time) for time, _, _ in heads]
    assert times[0] == 0 and times == sorted(times) and times[-1] > 0
    assert [rest for _, _, rest in heads if rest.startswith("NETLINK")] == ["NETLINK_GENERIC, 40 bytes",
                                                                            "NETLINK_GENERIC, 36 bytes"]
    mark = next(number for number, line in enumerate(lines) if "^" in line)
    assert lines[mark].strip() == "^^^^^^^^^^^^^^^^ Attribute failed policy validation; it wants U16 0..65535"
    assert lines[mark - 1].strip().startswith("IFLA_BR_PRIORITY 00 !")


def test_explain_shows_a_capture_as_json(capsys, capture):
    assert run("explain", "--json", capture()) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["direction"], one["family"]) for one in found[:3]] == [
        ("->", "NETLINK_ROUTE"), ("<-", "NETLINK_ROUTE"), ("->", "NETLINK_ROUTE")]
    assert found[0]["attributes"] == {"IFLA_IFNAME": "nsnet-br0", "IFLA_LINKINFO": {"IFLA_INFO_KIND": "bridge"}}
    assert all(one["time_ns"] > 10**18 for one in found)
    assert [one["blames"] for one in found if "blames" in one] == [["IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_PRIORITY"]]
    assert [one["payload"][:8] for one in found if one["family"] == "NETLINK_GENERIC"] == ["28000000", "24000000"]


def test_explain_shows_hex_as_json(capsys):
    assert run("explain", "--json", HEX) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["type"] == "RTM_DELLINK" and one["header"]["index"] == 5 and "direction" not in one


def test_explain_shows_what_stands_before_the_place_where_a_capture_is_cut_off(capsys, capture):
    assert run("explain", capture(end=-3)) == 1
    said = capsys.readouterr()
    assert said.out.count("RTM_GETMDB") == 2 and "RTM_NEWLINK" in said.out
    assert one_line(said.err) and "a packet of" in said.err
    assert run("explain", "--json", capture(end=-3)) == 1
    assert len(json.loads(capsys.readouterr().out)) == 14


def test_explain_reads_several_files(capsys, capture, tmp_path):
    (tmp_path / "text").write_text(" ".join(in_parts(HEX, 8)) + "\n")
    assert run("explain", str(tmp_path / "text"), capture()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("RTM_DELLINK") and lines[2].startswith("0.000000 -> RTM_NEWLINK")


def test_explain_prints_what_the_terminal_cannot_show_escaped(capsys, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    alias = encode_attribute(20, "caf\u00e9\0".encode())
    assert run("explain", encode_message(16, 0, 1, bytes(16) + alias).hex()) == 0
    out.flush()
    assert b"IFLA_IFALIAS 'caf\\xe9'" in out.buffer.getvalue()

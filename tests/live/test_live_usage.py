"""Bad input at the command line: exit 2 (127: no such command), one line naming the value, and nothing is made."""

import os
import subprocess
import sys

import pytest

from live_helpers import environment, ifnames, inside, nsnet_argv, run_nsnet, claims

BAD = [
    (["--bridge", "a-name-of-17-bytes"], 2, "a-name-of-17-bytes"),
    (["--bridge", "with/slash"], 2, "with/slash"),
    (["--bridge", "with space"], 2, "with space"),
    (["--bridge", "br%d"], 2, "br%d"),
    (["--bridge", ""], 2, "''"),
    (["--bridge", "all"], 2, "all"),
    (["--bridge", "name\nof two lines"], 2, "of two lines"),
    (["--host-ifname", "a-name-of-17-bytes"], 2, "a-name-of-17-bytes"),
    (["--ifname", "with space"], 2, "with space"),
    (["--ifname", "lo"], 2, "lo"),
    (["--bridge", "same", "--host-ifname", "same"], 2, "same"),
    (["--address", "10.9.9.9/24"], 2, "10.9.9.9/24"),
    (["--address", "10.0.0.1/24"], 2, "10.0.0.1/24"),
    (["--address", "10.0.0.255/24"], 2, "10.0.0.255/24"),
    (["--address", "10.0.0.2/25"], 2, "10.0.0.2/25"),
    (["--gateway", "10.9.9.9/24"], 2, "10.9.9.9/24"),
    (["--subnet", "10.0.0.0/33"], 2, "10.0.0.0/33"),
    (["--subnet", "10.0.0.0"], 2, "10.0.0.0"),
    (["--subnet", "10.0.0.5/24"], 2, "10.0.0.5/24"),
    (["--subnet", "10.0.0.0/32"], 2, "10.0.0.0/32"),
    (["--subnet", "nonsense"], 2, "nonsense"),
    (["--lladdr", "00:00:6c"], 2, "00:00:6c"),
    (["--lladdr", "01:00:00:00:00:00"], 2, "01:00:00:00:00:00"),
    (["--lladdr", "00:00:6c:00:00:0g"], 2, "00:00:6c:00:00:0g"),
    (["--port", "0"], 2, "0"),
    (["--port", "70000"], 2, "70000"),
    (["--port", "http"], 2, "http"),
    (["--port=-1"], 2, "-1"),
    (["--mtu", "12"], 2, "12"),
    (["--mtu", "large"], 2, "large"),
    (["--capabilities", "net_everything"], 2, "net_everything"),
    (["--uid-map", "0:4294967296:1"], 2, "4294967296"),
    (["--uid-map", "0:0"], 2, "0:0"),
    (["--gid-map", "0:0:2,1:5:1"], 2, "overlap"),
    (["--nonsense"], 2, "--nonsense"),
    (["superfluous"], 2, "superfluous"),
    (["--"], 2, "[]"),
    (["--", ""], 2, "''"),
    (["--", "nsnet-no-such-command"], 127, "nsnet-no-such-command"),
    (["--", "/nonexistent/command"], 127, "/nonexistent/command"),
    (["--", "/etc/passwd"], 126, "/etc/passwd"),
    (["--", "/"], 126, "/"),
]


def in_words(value):
    return repr(" ".join(value)) if isinstance(value, list) else ""


@pytest.mark.parametrize("words, code, value", BAD, ids=in_words)
def test_bad_input_is_refused_in_one_line_and_nothing_is_made(host, state, words, code, value):
    before = ifnames(host)
    done = run_nsnet(host, state, "demo", *words)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert value in done.stderr and done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    assert "Traceback" not in done.stderr and done.stderr.startswith("nsnet")
    assert done.stdout == "" and ifnames(host) == before and claims(state) == []


@pytest.mark.parametrize("words, value", [([], "COMMAND"), (["nonsense"], "nonsense"),
                                          (["gc", "--nonsense"], "--nonsense"),
                                          (["gc", "superfluous"], "superfluous"), (["explain", "xyz"], "xyz")],
                         ids=in_words)
def test_a_command_line_that_is_none_is_refused_in_one_line(host, state, words, value):
    done = run_nsnet(host, state, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and value in done.stderr


def test_a_command_that_cannot_be_found_inside_is_127(host, state, tmp_path):
    """A script whose interpreter is missing: the file is there, and only execve can tell."""
    script = tmp_path / "script"
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    done = run_nsnet(host, state, "demo", "--", script)
    assert done.returncode == 127 and str(script) in done.stderr and done.stderr.count("\n") == 1
    assert "nsnet-ex-bridge" not in ifnames(host)


def test_help_and_version_are_no_errors(host, state):
    for words in (["--help"], ["demo", "--help"], ["gc", "--help"], ["--version"]):
        done = run_nsnet(host, state, *words)
        assert (done.returncode, done.stderr) == (0, "") and "nsnet" in done.stdout


def test_explain_reads_a_message(host, state):
    done = run_nsnet(host, state, "explain", "20000000 1200 0103 01000000 00000000 00000000 00000000 00000000 00000000")
    assert done.returncode == 0 and done.stdout.startswith("RTM_GETLINK")


def test_a_reader_that_goes_away_is_no_traceback(host, state):
    """demo | head -1: the rest of what it says is lost, what it made is not left."""
    reader, writer = os.pipe()
    head = "import sys; sys.stdin.readline(); sys.stdin.close()"
    process = subprocess.Popen([sys.executable, "-c", head], stdin=reader)
    os.close(reader)
    try:
        done = inside(host, nsnet_argv("demo"), env=environment(state), stdin=subprocess.DEVNULL, stdout=writer)
    finally:
        os.close(writer)
        process.wait()
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1, done.stderr
    assert not {"nsnet-ex-bridge", "nsnet-ex-veth0"} & set(ifnames(host))

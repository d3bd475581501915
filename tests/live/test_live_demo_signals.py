"""The demo, told to stop at every moment: SIGINT, SIGTERM and SIGHUP undo what was done; the exit code says which."""

import os
import signal

import pytest

import nsnet
from live_helpers import PATIENCE, Running, claims, in_parallel, is_gone, nsnet_argv

# The lines after which it is told: each step of the setup, the talk, and the wait of --keep.
MOMENTS = ["On this host", "Setting up", "  clone", "  claim", "  bridge", "  namespaces", "  veth", "  container",
           "  execve", "  up in", "Talking to", "  received", "Running as", "Take it down"]


def stop_at(moment, number, state, again=None):
    """(exit code, stdout, stderr, links, processes, claims left) of a demo that got a signal at that moment."""
    with nsnet.Netns.new() as host:
        host.set_link("lo", up=True)
        with Running(host, state, "demo", "--keep") as demo:
            demo.until(moment)
            with open(f"/proc/{demo.pid}/task/{demo.pid}/children", encoding="ascii") as file:
                launched = [int(pid) for pid in file.read().split()]
            demo.signal(number)
            if again is not None:
                demo.until("Taking down")
                demo.signal(again)
                demo.signal(again)
            code, out, err = demo.end()
        links = [link.ifname for link in host.links() if link.kind in ("bridge", "veth")]
        return code, out, err, links, [pid for pid in launched if not is_gone(pid)], claims(state)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_at_any_moment_undoes_everything(number, tmp_path):
    def stop(moment):
        return stop_at(moment, number, tmp_path / str(MOMENTS.index(moment)))

    for moment, (code, out, err, *left) in zip(MOMENTS, in_parallel(stop, MOMENTS)):
        assert (code, err) == (128 + number, ""), (moment, out)
        assert left == [[], [], []], moment


def test_what_is_undone_is_told_once(tmp_path):
    code, out, _, *_ = stop_at("Take it down", signal.SIGTERM, tmp_path / "state")
    assert code == 128 + signal.SIGTERM and out.splitlines()[-1] == "Left behind: nothing"
    assert out.count("Taking down:") == out.count("end process") == out.count("Left behind:") == 1, out


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_further_signals_while_it_is_undoing_change_nothing(again, tmp_path):
    """An impatient Ctrl-C, Ctrl-C: the first one counts, the undoing goes to its end."""
    code, out, err, *left = stop_at("Take it down", signal.SIGHUP, tmp_path / "state", again=again)
    assert (code, err) == (128 + signal.SIGHUP, "") and left == [[], [], []]
    assert out.splitlines()[-1] == "Left behind: nothing"


def test_under_nohup_a_hangup_means_nothing(host, state):
    argv = ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh", *nsnet_argv("demo", "--keep")]
    with Running(host, state, argv=argv) as demo:
        demo.until("Take it down")
        demo.signal(signal.SIGHUP)
        with host.connect(("10.0.0.2", 80), PATIENCE) as connection:
            connection.sendall(b"still there")
            assert connection.recv(100) == b"still there"
        assert demo.popen.poll() is None
        demo.signal(signal.SIGTERM)
        assert demo.end()[0] == 128 + signal.SIGTERM


def test_the_end_of_the_command_is_the_end_of_keep(host, state, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Running(host, state, "demo", "--keep", "--", "/bin/sh", "-c", f"read line < {fifo}; exit 0") as demo:
        demo.until("Take it down")
        fifo.write_text("enough\n")
        code, out, err = demo.end()
    assert (code, err) == (0, "") and "the command returned 0" in out and out.endswith("Left behind: nothing\n")


def test_a_command_that_fails_at_once_is_a_failure_with_keep_too(tmp_path):
    """However fast it is: it may have ended before anybody looks."""
    def run(number):
        with nsnet.Netns.new() as host:
            host.set_link("lo", up=True)
            with Running(host, tmp_path / str(number), "demo", "--keep", "--", "/bin/false") as demo:
                return demo.end()[0]

    assert in_parallel(run, range(8)) == [1] * 8

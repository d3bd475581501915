"""What a hostile reader of the code tried: each of these once broke something."""

import os
import signal
import sys
import threading

import pytest

import nsnet
from nsnet import kernel
from live_helpers import PATIENCE, Running, ifnames, inside, needs, needs_root, run_nsnet, which

CAT = ["/bin/cat"]


def network_on(host, **options):
    return nsnet.Network("nsnet-ex-bridge", address="10.0.0.1/24", netns=host, **options)


# --- nobody reads what the demo prints ---

@pytest.mark.parametrize("lines", [0, 1, 5, 12, 18, 21])
def test_a_demo_whose_reader_goes_away_undoes_everything(host, state, lines):
    with Running(host, state, "demo") as demo:
        for _ in range(lines):
            demo.line()
        demo.popen.stdout.close()
        assert demo.popen.wait(PATIENCE) == 1
        assert "Traceback" not in demo.complaint()
    assert ifnames(host) == ["lo"]


@pytest.mark.parametrize("name", ["bridge", "veth", "process"])
def test_an_observer_that_fails_while_undoing_leaves_a_network_that_can_be_undone(host, name):
    failing = []

    def observe(step):
        if failing and step.name == name:
            failing.clear()
            raise ZeroDivisionError

    network = network_on(host, on_step=observe)
    container = network.launch(CAT, address="10.0.0.2/24", stdin=nsnet.PIPE)
    failing.append(True)
    with pytest.raises(ZeroDivisionError):
        container.remove()
        network.down()
    container.remove()
    network.down()
    assert ifnames(host) == ["lo"]


# --- gc and other people's files ---

def test_gc_leaves_files_that_are_no_claims(host, state):
    state.mkdir(mode=0o700)
    strangers = ["yarn.lock", "work.tmp", "settings.json", "0123456789ab.txt", "0123456789abc.lock", "x0123456789ab.json"]
    for name in strangers:
        (state / name).write_text("{}")
    assert run_nsnet(host, state, "gc").stdout == "nothing to remove\n"
    assert sorted(os.listdir(state)) == sorted(strangers)
    for name in strangers:
        (state / name).unlink()


def test_gc_reports_a_claim_that_nsnet_cannot_have_written_and_goes_on(host, state):
    state.mkdir(mode=0o700)
    (state / "0123456789ab.json").write_text('{"version": 1, "id": "0123456789ab", "bridge": "lo", "group": 0, "mark": "x"}')
    (state / "ba9876543210.lock").mkdir()
    done = run_nsnet(host, state, "gc")
    assert done.returncode == 1 and "0123456789ab.json" in done.stderr and "ba9876543210.lock" in done.stderr
    for name in ("0123456789ab.json", "0123456789ab.lock"):
        (state / name).unlink()
    (state / "ba9876543210.lock").rmdir()


# --- links that were changed behind our back ---

@needs("ip")
def test_a_bridge_with_somebody_elses_alias_is_reported_and_not_forgotten(host, state):
    network = network_on(host)
    network.up()
    host.set_link("nsnet-ex-bridge", ifalias="mine now")
    with pytest.raises(nsnet.KernelError, match="nsnet-ex-bridge.*mine now"):
        network.down()
    assert "nsnet-ex-bridge" in ifnames(host) and len(list(state.glob("*.json"))) == 1
    host.del_link("nsnet-ex-bridge")
    network.down()


def test_a_veth_that_was_renamed_goes_with_its_attachment(host):
    with network_on(host) as network, nsnet.Netns.new(beside=host) as other:
        attachment = network.attach(other, address="10.0.0.2/24", host_ifname="before")
        host.set_link("before", up=False)
        host.set_link("before", ifname="after")
        attachment.detach()
        assert ifnames(host) == ["lo", "nsnet-ex-bridge"]


# --- who the command is ---

@needs_root
def test_joining_a_user_namespace_is_being_its_root_not_the_hosts():
    with nsnet.spawn(CAT, new={"user"}, stdin=nsnet.PIPE) as box:
        with nsnet.spawn(["/bin/sh", "-c", "id -u; id -G; cat /etc/shadow"], join={"user": f"/proc/{box.pid}/ns/user"},
                         stdout=nsnet.PIPE, stderr=nsnet.DEVNULL) as joined:
            assert joined.stdout.read().split() == [b"0", b"0"]             # as shadow is not ours to read
            assert joined.wait(PATIENCE) != 0


def test_a_closed_standard_stream_becomes_dev_null(host, state):
    """Else the number is reused for a socket of ours, and the container gets that."""
    script = ("import os, nsnet; os.close(0); host = nsnet.Netns.host(); "
              "process = nsnet.spawn(['/bin/readlink', '/proc/self/fd/0'], new={'user', 'net'}); process.wait()")
    done = inside(host, [sys.executable, "-c", script], cwd=os.path.dirname(os.path.dirname(nsnet.__file__)))
    assert (done.stdout, done.stderr) == ("/dev/null\n", "")


@needs_root
@needs("unshare")
def test_ids_are_mapped_right_through_the_proc_of_another_pid_namespace(host):
    """There the child's pid is the number of somebody else in /proc, whose maps must not be written."""
    script = ("import nsnet; process = nsnet.spawn(['/bin/cat', '/proc/self/uid_map'], new={'user'}, uid_map={7: 12345},"
              " gid_map={7: 12345}); process.wait()")
    done = inside(host, [which("unshare"), "-pf", sys.executable, "-c", script],
                  cwd=os.path.dirname(os.path.dirname(nsnet.__file__)))
    assert done.stdout.split() == ["7", "12345", "1"], done.stderr


def test_a_fifo_is_no_namespace(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(nsnet.UsageError, match="fifo"):
        nsnet.Netns.open(tmp_path / "fifo")


# --- threads, handlers, forks ---

def test_a_signal_handler_in_the_middle_of_a_talk_is_refused_and_does_not_hang(host, monkeypatch):
    refused = []
    real = kernel.lib.nsnet_nl_talk

    class Interrupting:
        """The extension, with a handler that runs while a talk is under way."""

        def __getattr__(self, name):
            return getattr(kernel_lib, name)

        @staticmethod
        def nsnet_nl_talk(fd, talk):
            if not refused:
                try:
                    host.links()
                except nsnet.KernelError as error:
                    refused.append(error)
            return real(fd, talk)

    kernel_lib = kernel.lib
    monkeypatch.setattr(kernel, "lib", Interrupting())
    assert [link.ifname for link in host.links()] == ["lo"]
    assert "signal handler" in str(refused[0])


def test_one_thread_waits_and_another_kills(host):
    for _ in range(20):
        process = nsnet.spawn(CAT, stdin=nsnet.PIPE)
        results = []
        waiter = threading.Thread(target=lambda: results.append(process.wait(PATIENCE)))
        waiter.start()
        process.kill()
        process.wait(PATIENCE)
        waiter.join()
        process.close()
        assert results == [-signal.SIGKILL]


def test_a_fork_of_the_owner_owns_nothing(host):
    with network_on(host) as network:
        container = network.launch(CAT, address="10.0.0.2/24", stdin=nsnet.PIPE, hold=True)
        pid = os.fork()
        if pid == 0:
            try:
                container.remove()
                network.down()
                del container
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert "nsnet-ex-bridge" in ifnames(host) and container.poll() is None
        container.go()
        container.remove()


# --- IPv6 ---

def test_the_demo_speaks_ipv6(host, state):
    done = run_nsnet(host, state, "demo", "--subnet", "fd00:1::/64")
    assert done.returncode == 0 and "Talking to fd00:1::2 port 80:" in done.stdout, done.stderr

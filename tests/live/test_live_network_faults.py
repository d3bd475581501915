"""A fault at every step of building and undoing: each call into the kernel fails in turn, and nothing may stay behind.

The saboteur counts the calls and raises at the k-th, before it or right after it; k goes on until nothing fails.
Raising after the call is what a signal does that arrives when the kernel has done the work already.
"""

import errno

import pytest

import nsnet
from live_helpers import children, claims, descriptors, links_of
from nsnet import clone, kernel, ownership

CAT = ["/bin/cat"]
# What returns no descriptor may also be interrupted right after it was done.
PLACES = [(nsnet.Netns, "perform"), (clone.Child, "clone"), (clone.Child, "write_maps"), (clone.Child, "go"),
          (kernel.RtnlSocket, "sync_carrier"), (ownership.Claim, "write")]
ONLY_BEFORE = [(clone.Child, "receive"), (ownership, "lock"), (kernel.RtnlSocket, "index_taken")]
MOST = 60                                                   # no operation here makes more calls


class Saboteur:
    """Raises at the k-th call of any of the places, once (or from then on)."""

    def __init__(self, monkeypatch, error, when, for_ever=False, places=PLACES):
        self.error, self.when, self.for_ever = error, when, for_ever
        self.left = 0                                       # 0: idle
        self.struck = None
        for owner, name in [*places, *(ONLY_BEFORE if when == "before" else [])]:
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name), name))

    def wrap(self, function, name):
        def call(*arguments, **options):
            strike = self.left == 1 or (self.for_ever and self.struck)
            self.left = max(self.left - 1, 0)
            if strike and self.when == "before":
                self.strike(name)
            result = function(*arguments, **options)
            if strike:
                self.strike(name)
            return result
        return call

    def strike(self, name):
        self.struck = self.struck or name
        raise self.error()

    def arm(self, number):
        self.left, self.struck = number, None

    def disarm(self):
        self.left, self.struck = 0, None


def refused():
    return nsnet.KernelError(errno.EIO, "sabotage")


def build_up(network, beside):
    network.up()


def build_launch(network, beside):
    network.launch(CAT, address="10.0.0.2/24", host_ifname="v0", stdin=nsnet.PIPE, stdout=nsnet.DEVNULL)


def build_attach(network, beside):
    network.attach(beside, address="10.0.0.2/24", ifname="eth0", host_ifname="v0")


def snapshot(host, state):
    """What must be as it was. Claims are compared by number, for their names are random."""
    return links_of(host), children(), descriptors(), len(claims(state))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [refused, KeyboardInterrupt], ids=["kernel error", "KeyboardInterrupt"])
@pytest.mark.parametrize("build, up_before", [(build_up, False), (build_launch, False), (build_launch, True),
                                              (build_attach, False), (build_attach, True)])
def test_a_fault_while_building_leaves_nothing(host, state, monkeypatch, build, error, when, up_before):
    host.fd                                                 # opened on first use, and kept by the fixture
    with nsnet.Netns.new(beside=host) as beside:
        beside.fd
        network = nsnet.Network("br0", address="10.0.0.1/24", netns=host)
        if up_before:
            network.up()
        saboteur = Saboteur(monkeypatch, error, when)
        before = snapshot(host, state)
        struck = []
        for number in range(1, MOST):
            saboteur.arm(number)
            try:
                build(network, beside)
            except (nsnet.KernelError, KeyboardInterrupt) as raised:
                assert saboteur.struck, f"call {number}: {raised!r} is not the saboteur's"
                assert isinstance(raised, KeyboardInterrupt) or raised.step == "sabotage"
                struck.append(saboteur.struck)
                saboteur.disarm()
                del raised
            else:
                assert saboteur.struck is None
                break
            assert snapshot(host, state) == before, f"call {number}, {struck[-1]}"
            assert network.is_up is up_before and network.attachments == []
            assert "eth0" not in links_of(beside)
        else:
            raise AssertionError("it never came to its end")
        saboteur.disarm()
        # The calls that matter were all hit, and after so many failures it still works and still comes down.
        assert len(struck) >= {build_up: 2, build_attach: 3}.get(build, 6), struck
        assert "br0" in links_of(host) and network.is_up
        network.down()
        assert links_of(host) == {name: index for name, index in before[0].items() if name != "br0"}
        assert children() == set()


@pytest.mark.parametrize("error", [refused, KeyboardInterrupt], ids=["kernel error", "KeyboardInterrupt"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_while_taking_down_can_be_made_good_by_taking_down_again(host, state, monkeypatch, error, when):
    before = snapshot(host, state)[:2]
    struck = []
    for number in range(1, MOST):
        network = nsnet.Network("br0", address="10.0.0.1/24", netns=host)
        build_launch(network, None)
        with monkeypatch.context() as patch:
            saboteur = Saboteur(patch, error, when)
            saboteur.arm(number)
            try:
                network.down()
            except (nsnet.KernelError, KeyboardInterrupt):
                struck.append(saboteur.struck)
        network.down()
        assert snapshot(host, state)[:2] == before and claims(state) == [] and not network.is_up
        if saboteur.struck is None:
            break
    assert struck


@pytest.mark.parametrize("error", [refused, KeyboardInterrupt], ids=["kernel error", "KeyboardInterrupt"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_while_removing_can_be_made_good_by_removing_again(host, state, monkeypatch, error, when):
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host)
    network.up()
    before = snapshot(host, state)[:2]
    struck = []
    for number in range(1, MOST):
        container = network.launch(CAT, address="10.0.0.2/24", host_ifname="v0", stdin=nsnet.PIPE)
        with monkeypatch.context() as patch:
            saboteur = Saboteur(patch, error, when)
            saboteur.arm(number)
            try:
                container.remove()
            except (nsnet.KernelError, KeyboardInterrupt):
                struck.append(saboteur.struck)
        container.remove()
        assert snapshot(host, state)[:2] == before and network.attachments == []
        if saboteur.struck is None:
            break
    assert struck
    network.down()


def test_an_undoing_that_fails_too_says_what_is_left_and_can_be_repeated(host, monkeypatch):
    """From the veth's exchange on, the kernel refuses everything, the undoing too."""
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host)
    with monkeypatch.context() as patch:
        saboteur = Saboteur(patch, refused, "after", for_ever=True, places=[(nsnet.Netns, "perform")])
        saboteur.arm(2)
        with pytest.raises(nsnet.RollbackError) as failed:
            build_launch(network, None)
    assert failed.value.cause.step == "sabotage" and {"br0", "v0"} <= set(failed.value.left_behind)
    assert "gc" in str(failed.value)
    assert children() == set()                              # the process is gone in any case
    network.down()
    assert not {"br0", "v0"} & set(links_of(host))
    del failed


def test_a_journal_that_cannot_be_written_stops_everything_before_it_begins(host, monkeypatch, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    (locked / "a-file").write_text("")
    monkeypatch.setenv("NSNET_STATE_DIR", str(locked / "a-file"))
    before = links_of(host)
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host)
    for build in (build_up, build_launch):
        with pytest.raises(nsnet.NsnetError) as failed:
            build(network, None)
        assert str(locked / "a-file") in str(failed.value)
        assert links_of(host) == before and children() == set()


def test_a_state_directory_that_others_may_write_is_refused(host, monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("NSNET_STATE_DIR", str(shared))
    with pytest.raises(nsnet.UsageError) as failed:
        nsnet.Network("br0", address="10.0.0.1/24", netns=host).up()
    assert str(shared) in str(failed.value) and "br0" not in links_of(host)

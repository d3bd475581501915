"""One attachment on its way: `Job`, from what was asked for to what is there; and the requests that make it.

A namespace that a child is about to make has a name for requests before it is there (`Awaited`), so that they are made
while the child works. Knows targets, commands and entries of a claim; sends nothing, and undoes nothing.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from nsnet import declaration, job, kernel, pins, plan
from nsnet.attachments import Container
from nsnet.declaration import AttachmentSpec
from nsnet.exchange import Request
from nsnet.netns import Batch, Netns
from nsnet.ownership import Claim
from nsnet.verbs import LinkRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Sequence


class Awaited:
    """A network namespace that is not there yet, as far as requests ask for it.

    They name it by the number of a descriptor which is its own when it has arrived. Links get the indexes that they would
    get there if nothing is in it but lo.
    """

    def __init__(self) -> None:
        with kernel.refused(f"open {os.devnull}"):
            self._place = kernel.Descriptor.open(os.devnull, os.O_RDONLY)
        self._next_index = 2

    def hold(self) -> kernel.Descriptor:
        """The caller's, who closes it when the request was sent."""
        return self._place

    def free_index(self) -> int:
        self._next_index += 1
        return self._next_index - 1

    @staticmethod
    def index_of(link: LinkRef) -> int:
        return link.index

    def arrive(self, netns: Netns) -> bool:
        """It is this one. Whether the indexes are free: a kernel may put tunl0 and the like in every namespace."""
        with kernel.refused("network namespace"):
            os.dup2(netns.fd, self._place.fileno(), inheritable=False)
        return all(netns.free_index() == index for index in range(2, self._next_index))

    def close(self) -> None:
        self._place.close()


class Job:
    """One attachment on its way: from what was asked for to what is there.

    `declared`: what the declaration says of it, None if it is not declared. `argv`, `options`: of the command to be
    launched; else `netns` is what is attached. `entry`: its place in the claim, for one that is made `again`.

    When its requests are made, `host_end` and `end` are the links, `pair` what is to be sent to the host, `inside` what to
    the namespace, in two parts if sysctls are set in between, and `port` what at last to the host.
    """

    def __init__(self, spec: AttachmentSpec, declared: Optional[Dict[str, Any]] = None, *, netns: Optional[Netns] = None,
                 argv: Optional[Sequence[str]] = None, options: Mapping[str, Any] = {},
                 entry: Optional[Dict[str, Any]] = None, again: bool = False):
        self.spec, self.declared, self.netns, self.argv, self.options = spec, declared, netns, argv, options
        self.id = os.urandom(4).hex() if entry is None else entry["id"]
        self.again = again
        self.pid: Optional[int] = None
        self._started: Optional[int] = None
        self.leased = False
        self.container: Optional[Container] = None
        self.host_end: Optional[LinkRef] = None
        self.end: Optional[LinkRef] = None
        self.pair: List[Request] = []
        self.port: List[Request] = []
        self.inside: List[List[Request]] = []
        self.opened = ExitStack()
        self._awaited: Optional[Awaited] = None

    def aim(self) -> None:
        """Find what a declaration means: open a namespace, or make a command ready to run."""
        spec = self.spec
        if spec.command is not None:
            self.argv = spec.command
            self.options = {**declaration.options(spec), **self._streams(spec)}
        elif spec.pid is not None:
            self.pid = spec.pid
            self.netns = self.opened.enter_context(Netns.of_pid(spec.pid))
        else:
            path = spec.netns if spec.pin is None else os.path.join(pins.DIRECTORY, spec.pin)
            self.netns = self.opened.enter_context(Netns.open(path))

    def _streams(self, spec: AttachmentSpec) -> Dict[str, Any]:
        streams: Dict[str, Any] = {}
        for name in ("stdin", "stdout", "stderr"):
            path = getattr(spec, name)
            if path is None:
                streams[name] = job.DEVNULL
            else:
                with kernel.refused(f"{name} {path}"):
                    streams[name] = self.opened.enter_context(kernel.Descriptor.open(
                        path, os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)).fileno()
        return streams

    def entry(self) -> Dict[str, Any]:
        """For the claim."""
        pid = self.pid if self.container is None else self.container.pid
        made = {"id": self.id, "name": self.spec.name, "ifname": self.spec.ifname,
                "addresses": [str(address) for address in self.spec.addresses], "spec": declaration.as_dict(self.spec),
                "declared": self.declared, "leased": self.leased, "launched": self.container is not None, "ready": False}
        if pid is None:
            return made
        if self._started is None:
            self._started = kernel.started(pid)
        return {**made, "pid": pid, "started": self._started}

    def make_requests(self, host: Netns, claim: Claim, bridge: LinkRef, lladdr: Optional[str],
                      link_local: Optional[bool]) -> None:
        """All that is to be sent for it. If its namespace is one that a child is making, arrived() says when it is there."""
        if self.netns is None and self._awaited is None:
            self._awaited = Awaited()
        place: Any = self.netns or self._awaited
        net, port, first, rest = Batch(host), Batch(host), Batch(place), Batch(place)
        self.host_end, self.end = plan.make_pair(net, self.spec, claim, bridge, place, lladdr)
        plan.enable_port(port, self.host_end)
        plan.make_end(first, self.end, link_local)
        plan.enable_end(rest, self.end, self.spec)
        self.pair, self.port = net.requests, port.requests
        self.inside = [first.requests, rest.requests] if self.spec.sysctls else [first.requests + rest.requests]

    def arrived(self) -> bool:
        """Its child has made the namespace. Whether the requests hold; if not they are to be made again."""
        self.netns = self.container.netns
        awaited, self._awaited = self._awaited, None
        if awaited is None or awaited.arrive(self.netns):
            return True
        awaited.close()
        return False

    def sent(self) -> None:
        """What the requests held is not needed any more."""
        for request in self.pair:
            if request.held is not None:
                request.held.close()
        self.pair = []

    def close(self) -> None:
        self.sent()
        if self._awaited is not None:
            self._awaited.close()
        self.opened.close()

"""The verbs of a network namespace, each written once: a Netns runs them at once, a Batch keeps them.

A verb takes names or references, has a floor below (requests) make the request, and hands it to `_run`. Knows how a
name becomes an index; knows no socket. links.py, inet.py and tc.py hold one family each.
"""

from nsnet.verbs.base import LinkLike, LinkRef, words
from nsnet.verbs.inet import InetVerbs
from nsnet.verbs.links import LinkVerbs
from nsnet.verbs.tc import TrafficControlVerbs

__all__ = ["LinkLike", "LinkRef", "Verbs", "words"]


class Verbs(LinkVerbs, InetVerbs, TrafficControlVerbs):
    """All verbs. A link may be given as what an add verb returned, a Link, an ifindex or a name.

    `add_` creates and raises AlreadyExists for what is there; `ensure_` takes it as it is, or brings it to what was
    asked; `del_` raises NoSuchObject for what is not there, unless `missing_ok`.
    """

"""A state machine against iproute2: verbs in any order; after each, nsnet's lists say what iproute2 says, by field.

Each rule is a verb with what the kernel must answer to it: done, or one certain error, which follows from the state
before. After each step nsnet's lists are compared with `ip -j`, `bridge -j` and `tc -j`, and these with the model: what
was made must be there, as it was asked for, and nothing else of that kind. NSNET_HYPOTHESIS=long takes tens of
thousands of steps.

A new verb gets a rule in machine_links.py, machine_inet.py or machine_tc.py, and what it makes a place in the model
(machine_model.py); a new list gets a line and two functions in machine_witness.py.
"""

import os

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

pytest.register_assert_rewrite("machine_witness", "machine_model", "machine_links", "machine_inet", "machine_tc")

from live_helpers import needs                          # noqa: E402
from machine_inet import InetRules                      # noqa: E402
from machine_links import LinkRules                     # noqa: E402
from machine_model import Model                         # noqa: E402
from machine_tc import TcRules                          # noqa: E402

LONG = os.environ.get("NSNET_HYPOTHESIS") == "long"


class Machine(LinkRules, InetRules, TcRules):
    """All rules together."""


@needs("ip")
@needs("bridge")
@needs("tc")
def test_whatever_is_done_in_any_order_iproute2_sees_what_nsnet_sees():
    Model.steps, Model.seen = 0, set()
    phases = list(Phase) if LONG else [Phase.explicit, Phase.reuse, Phase.generate]         # shrinking takes minutes
    run_state_machine_as_test(Machine, settings=settings(stateful_step_count=60 if LONG else 40, phases=phases))
    print(f"{Model.steps} steps; answers: {', '.join(sorted(Model.seen))}")
    assert Model.steps > (10_000 if LONG else 200)
    assert {"done", "AlreadyExists", "NoSuchObject", *(["NetlinkError", "NotSupported", "UsageError"] if LONG else [])
            } <= Model.seen

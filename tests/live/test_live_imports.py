"""What a process imports that builds a network: the most of it with the name, and nothing slow later."""

import subprocess
import sys

from live_helpers import TREE

SCRIPT = """
import sys, _cffi_backend
bare = set(sys.modules)
import nsnet
nsnet.Network
named = set(sys.modules)
with nsnet.Netns.new() as host, nsnet.Network("br0", address="10.9.0.1/24", netns=host) as network:
    with network.launch(["/bin/true"], address="10.9.0.2/24") as container:
        assert container.wait(30) == 0
print(*sorted(set(sys.modules) - named))
"""


def test_a_network_wants_json_for_its_claim_and_its_own_verbs(state):
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], cwd=TREE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    later = {name for name in done.stdout.split() if not name.startswith(("json", "re", "_", "sre_"))}
    assert later <= {"enum", "copyreg", "types", "functools", "collections", "keyword", "operator", "reprlib", "warnings",
                     "nsnet.requests.links", "nsnet.requests.routes", "nsnet.requests.inet"}, later

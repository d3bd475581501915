"""How long the tests search: NSNET_HYPOTHESIS=long for minutes, otherwise a few seconds, the same ones each time.

The default profile is derandomized, so that a failure here is a failure everywhere. The long one is not: each run looks
elsewhere, and prints the blob that reproduces what it found.
"""

import os

from hypothesis import HealthCheck, settings

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile("default", max_examples=10, deadline=None, derandomize=True,
                          suppress_health_check=SLOW_IS_FINE)
settings.register_profile("long", max_examples=1000, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE)
settings.load_profile(os.environ.get("NSNET_HYPOTHESIS") or "default")

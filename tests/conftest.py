"""For all tests: Hypothesis draws the same examples everywhere, and a busy machine fails none of them."""

import signal

from hypothesis import HealthCheck, settings

# A shell that runs tests in the background starts them with SIGINT ignored, and so would be all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

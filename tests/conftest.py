"""For all tests: Hypothesis draws the same examples everywhere, and a busy machine fails none of them."""

from hypothesis import HealthCheck, settings

settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

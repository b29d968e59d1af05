"""For all tests: Hypothesis draws the same examples everywhere, and a busy machine fails none of them."""

import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# A shell that runs tests in the background starts them with SIGINT ignored, and so would be all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker waits for the training of the judge at the end."""
    items.sort(key=lambda item: "tiny_judge" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny judge model, trained once for all tests and all workers (two minutes)."""
    from r1reward_verl.toy.build import Sizes, build

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with FileLock(folder / "judge.lock"):
        return build(folder / "judge", Sizes(preferences=8, val_pairs=2, test_pairs=2), judge=True) / "judge"

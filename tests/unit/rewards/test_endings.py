"""How well natural endings of reasoning are read: those that the rules were fitted to, and those that they were not."""

import pytest

from endings import measure, read_endings


@pytest.mark.parametrize(
    ("name", "endings", "recall"),
    [("development", 293, 0.99), ("independent", 515, 0.98), ("held_out", 289, 0.95), ("fresh", 340, 0.89)],
)
def test_endings_are_read(name, endings, recall):
    """The goal for recall, 0.92, is missed on the fresh set: the bounds keep what there is."""
    reading = measure(read_endings(name))
    assert reading.endings == endings
    assert reading.precision >= 0.97
    assert reading.recall >= recall
    assert reading.opposite <= 2 * reading.endings / 136

"""The base of the errors that end a run although its arguments were good."""

from __future__ import annotations


class R1RewardError(RuntimeError):
    """The work cannot begin or go on; what was finished is kept. The message says why, and the way out."""

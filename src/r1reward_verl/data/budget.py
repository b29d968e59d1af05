"""What annotation may cost: spent, set aside for calls in progress, and left."""

from __future__ import annotations

import math

from r1reward_verl.data.journal import Tally

_PIXELS_PER_TOKEN = 784  # Qwen2.5-VL: 28 x 28


class Budget:
    """A limit for the cost of all calls in a journal.

    The cost of a call is known when it is answered. Until then the most tokens that it may write are set aside, and
    its prompt by an estimate, which answers correct upwards.

    Args:
        price: of a million tokens read and of a million written, in any currency; None if unknown.
        limit: largest cost of all calls; None for no limit.
        tally: counts of the calls in the journal.
        max_tokens: largest number of tokens that a call writes.
        max_pixels: largest number of pixels of a picture.
    """

    def __init__(
        self, price: tuple[float, float] | None, limit: float | None, tally: Tally, max_tokens: int, max_pixels: int
    ) -> None:
        self.limit, self.used_up = limit, False
        self._price, self._tally, self._max_tokens = price, tally, max_tokens
        self._picture_tokens = max_pixels // _PIXELS_PER_TOKEN + 2
        self._set_aside = 0.0
        self._correction = 1.0  # times the estimate

    def cost(self, read: int | None, written: int | None) -> float | None:
        """Return the cost of tokens read and written; None if price or numbers are unknown."""
        if self._price is None or read is None or written is None:
            return None
        return (read * self._price[0] + written * self._price[1]) / 1e6

    @property
    def spent(self) -> float | None:
        """Cost of all calls in the journal; those made without a price count at the price of now."""
        return self.total(self._tally)

    def total(self, tally: Tally) -> float | None:
        """Return the cost of counted calls; None without a price."""
        unpriced = self.cost(*tally.unpriced)
        return None if unpriced is None else tally.cost + unpriced

    def estimate(self, prompt: str, pictures: int) -> int:
        """Return about how many tokens a prompt has, rather too many."""
        return len(prompt.encode(errors="replace")) // 2 + pictures * self._picture_tokens

    def reserve(self, tokens: int) -> float | None:
        """Set the cost of a call aside and return it; None if not enough is left now."""
        if self.limit is None:
            return 0.0
        needed = self.cost(math.ceil(tokens * self._correction), self._max_tokens) or 0.0
        if (self.spent or 0.0) + self._set_aside + needed > self.limit:
            return None
        self._set_aside += needed
        return needed

    def release(self, needed: float, tokens: int, read: int | None) -> None:
        """End the reservation of a call, and correct the estimate by the tokens that it read."""
        self._set_aside -= needed
        self._correction = max(self._correction, (read or 0) / max(tokens, 1))

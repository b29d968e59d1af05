"""What annotation may cost: spent, set aside for calls on the wire, and left."""

from __future__ import annotations

import asyncio
import math

from r1reward_verl.data.journal import Tally

_PIXELS_PER_TOKEN = 784  # Qwen2.5-VL: 28 x 28


class Budget:
    """A bound on the cost of all calls in a journal.

    The cost of a call is known when it is answered. Until then the most tokens that it may write are set aside, and its
    prompt by an estimate, which answers correct upwards.

    Args:
        price: of a million tokens read and of a million written, in any currency; None if unknown.
        limit: largest cost of all calls; None for no bound.
        tally: counts of the calls in the journal.
        max_tokens: most tokens that a call writes.
        max_pixels: most pixels of a picture.
    """

    def __init__(
        self, price: tuple[float, float] | None, limit: float | None, tally: Tally, max_tokens: int, max_pixels: int
    ) -> None:
        self.limit = limit
        self.used_up = False
        self._price, self._tally = price, tally
        self._max_tokens, self._max_pixels = max_tokens, max_pixels
        self._set_aside = 0.0
        self._on_the_wire = 0
        self._correction = 1.0  # times the estimate
        self._returned = asyncio.Event()

    def cost(self, read: int | None, written: int | None) -> float | None:
        """Return the cost of tokens read and written; None if price or numbers are unknown."""
        if self._price is None or read is None or written is None:
            return None
        return (read * self._price[0] + written * self._price[1]) / 1e6

    @property
    def spent(self) -> float | None:
        """Cost of all calls in the journal; those made without a price count at the price of now."""
        unpriced = self.cost(*self._tally.unpriced)
        return None if unpriced is None else self._tally.cost + unpriced

    def estimate(self, prompt: str, pictures: int) -> int:
        """Return about how many tokens a prompt has, rather too many."""
        return len(prompt.encode(errors="replace")) // 2 + pictures * (self._max_pixels // _PIXELS_PER_TOKEN + 2)

    async def reserve(self, tokens: int) -> float | None:
        """Set the cost of a call aside as soon as there is enough; None if there will never be."""
        if self.limit is None:
            return 0.0
        while not self.used_up:
            needed = self.cost(math.ceil(tokens * self._correction), self._max_tokens) or 0.0
            if (self.spent or 0.0) + self._set_aside + needed <= self.limit:
                self._set_aside += needed
                self._on_the_wire += 1
                return needed
            if self._on_the_wire:
                await self._returned.wait()
            else:
                self.used_up = True
                self._wake()
        return None

    def release(self, needed: float, tokens: int, read: int | None) -> None:
        """End a reservation, after its call is in the journal."""
        if self.limit is None:
            return
        self._set_aside -= needed
        self._on_the_wire -= 1
        self._correction = max(self._correction, (read or 0) / max(tokens, 1))
        self._wake()

    def _wake(self) -> None:
        self._returned.set()
        self._returned = asyncio.Event()

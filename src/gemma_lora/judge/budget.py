"""What judging costs: prices, an estimate beforehand, and a limit that is not exceeded.

`Budget` sets aside the most that a request can cost before it is sent (no tokenizer makes more
tokens than the prompt has bytes; the reply is bounded by the token limit that is sent along) and
settles it when the reply says what it took. Near the limit fewer requests are under way; where not
even one fits, the stage ends. A request whose reply was lost counts at its most, since the server
may have charged for it. Dollars are US dollars, prices are for a million tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gemma_lora.errors import JudgeError
from gemma_lora.judge.items import Usage

__all__ = ["Budget", "Estimate", "Prices", "cost", "most_tokens"]

Prices = tuple[float | None, float | None]
"""Input and output; None where unknown."""

_CHARS_A_TOKEN = 4.0
_REPLY_TOKENS = 250.0
"""Guesses for the estimate, until this judge's own figures are there."""
_OVERHEAD = 256
"""Tokens that a chat template adds, at most."""


def cost(usage: Usage, prices: Prices) -> float | None:
    """US dollars for `usage`; None where a price is unknown."""
    if prices[0] is None or prices[1] is None:
        return None
    return (usage.input * prices[0] + usage.output * prices[1]) / 1e6


def most_tokens(text: str) -> int:
    """More tokens than any tokenizer makes of `text` as a prompt."""
    return len(text.encode("utf-8", "surrogatepass")) + _OVERHEAD


@dataclass(frozen=True)
class Estimate:
    """What is still to be asked, in figures before it is asked."""

    requests: int
    input: int
    output: int
    dollars: float | None
    most: float | None
    """Dollars if every reply used up the token limit."""

    @classmethod
    def of(
        cls, requests: int, chars: Sequence[int], limit: int, before: Usage, prices: Prices
    ) -> Estimate:
        """`chars`: lengths of a sample of the prompts; `before`: what this judge took so far."""
        mean = sum(chars) / max(1, len(chars))
        counted = before.requests - before.uncounted
        known = counted >= 5 and before.output > 0
        into = before.input / counted if known else mean / _CHARS_A_TOKEN
        out = before.output / counted if known else min(_REPLY_TOKENS, limit)
        expected = Usage(requests, round(requests * into), round(requests * out))
        bound = Usage(requests, expected.input, requests * limit)
        return cls(
            requests, expected.input, expected.output, cost(expected, prices), cost(bound, prices)
        )

    def sentence(self) -> str:
        text = f"to ask: {self.requests:,} requests, about {self.input:,} + {self.output:,} tokens"
        if self.dollars is not None and self.most is not None:
            text += f", about ${self.dollars:,.2f} (${self.most:,.2f} if every reply were as long as is allowed)"
        return text


class Budget:
    """`most` dollars; `spent`: what earlier calls took, and at most where they could not tell."""

    def __init__(self, most: float, prices: tuple[float, float], spent: Usage) -> None:
        known = spent.at_most
        self.spent = (known.input * prices[0] + known.output * prices[1]) / 1e6
        self.lost = 0
        """Requests whose reply was lost."""
        self._most = most
        self._prices = prices
        self._held, self._under_way = 0.0, 0
        self._stretch = 1.0
        self._gate = asyncio.Lock()
        self._settled = asyncio.Event()

    async def hold(self, input_tokens: int, output_tokens: int) -> float:
        """Set aside the most that a request can cost; JudgeError where nothing is left for it."""
        async with self._gate:
            while True:
                dollars = self._dollars(input_tokens * self._stretch, output_tokens)
                if self.spent + self._held + dollars <= self._most:
                    self._held += dollars
                    self._under_way += 1
                    return dollars
                if not self._under_way:
                    raise self._spent_up(dollars)
                self._settled.clear()
                await self._settled.wait()

    def settle(self, held: float, bound: int, usage: Usage | None) -> None:
        """The request ended: `usage` as the server counted it, None where the reply was lost."""
        self._under_way -= 1
        # from nothing each time that nothing is under way: what rounding leaves would never be released
        self._held = max(0.0, self._held - held) if self._under_way else 0.0
        if usage is None:
            self.lost += 1
            self.spent += held
        else:
            self.spent += self._dollars(usage.input, usage.output)
            # a gateway that adds text of its own: believe its count from now on
            self._stretch = max(self._stretch, usage.input / max(1, bound))
        self._settled.set()

    def _dollars(self, into: float, out: float) -> float:
        return (into * self._prices[0] + out * self._prices[1]) / 1e6

    def _spent_up(self, next_one: float) -> JudgeError:
        lost = (
            f", {self.lost} lost replies counted at the most they can have cost"
            if self.lost
            else ""
        )
        return JudgeError(
            f"--max-cost ${self._most:g} is reached: ${self.spent:.4f} are spent{lost}, and the next "
            f"request may cost ${next_one:.4f}",
            remedy="what was judged is kept: raise --max-cost and run the same command again",
        )

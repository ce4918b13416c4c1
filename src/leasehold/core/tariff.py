"""What work costs: a tariff turns requests, tokens, rows and steps into units.

Spec: docs/spec/metering.md, M-1.
"""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.units import Units
from leasehold.errors import BadSetting


class Work(msgspec.Struct, frozen=True):
    """An amount of work, done or to be done. All counts are non-negative."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    rows: int = 0
    steps: int = 0
    logprobs: int = 0


class Tariff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Units for each piece of work; at least one of them is not zero (M-1).

    Probabilities of tokens are told only where they have a price.
    """

    request: int = 0
    input_token: int = 0
    output_token: int = 0
    row: int = 0
    step: int = 0
    logprob: int = 0

    def cost(self, work: Work) -> Units:
        """M-1: the price of `work` in units."""
        return Units(
            self.request * work.requests
            + self.input_token * work.input_tokens
            + self.output_token * work.output_tokens
            + self.row * work.rows
            + self.step * work.steps
            + self.logprob * work.logprobs
        )

    def in_words(self) -> str:
        """The prices as a person says them: `1 unit per input token, 1 unit per output token`."""
        prices = [
            f"{price} unit{'' if price == 1 else 's'} per {name.replace('_', ' ')}"
            for name in self.__struct_fields__
            if (price := getattr(self, name))
        ]
        return ", ".join(prices)


PER_TOKEN: Final = Tariff(input_token=1, output_token=1)
PER_REQUEST: Final = Tariff(request=1)
NAMED: Final = {"per-token": PER_TOKEN, "per-request": PER_REQUEST}


def check_tariff(tariff: Tariff) -> Tariff:
    """Raise BadSetting for a tariff under which everything would be free, or paid back."""
    prices = [getattr(tariff, name) for name in tariff.__struct_fields__]
    if min(prices) < 0 or max(prices) == 0:
        raise BadSetting(about="tariff", got=prices, expected="no price below 0 and one above 0")
    return tariff

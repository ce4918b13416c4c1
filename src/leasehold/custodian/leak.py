"""What a worker that lies could carry out for a budget, in answers that are paid like any others.

Spec: docs/spec/metering.md, M-10. The governor bounds the bytes that each piece of work may answer with
(docs/spec/worker.md, W-8; docs/spec/inference.md, I-5), and the tariff prices the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

from leasehold.core.frames import EMBEDDING_DIMS_MAX, FRAME_BYTES_MAX, LONGEST_TOKEN_BYTES_MAX
from leasehold.core.tariff import Tariff
from leasehold.core.tensors import ROW_BYTES
from leasehold.core.units import DAY, Instant, Units

PROB_BITS: Final = 8 * LONGEST_TOKEN_BYTES_MAX + 27  # a token, and four decimals of 0 to -9,999
VECTOR_BYTES: Final = 4 * EMBEDDING_DIMS_MAX


@dataclass(frozen=True, slots=True)
class Leak:
    """At most so many bits for a unit, by the kind of answer. None: the tariff does not bound it."""

    text: int | None
    probabilities: int | None
    vectors: int | None
    tensors: int | None

    def in_words(self, left: Units) -> str:
        """For a person, with the bytes that the units left could pay for."""
        return self._told(lambda bits: f"{bits:,} bits a unit ({bits * left / 8e6:,.1f} MB)")

    def in_a_day(self, units: int) -> str:
        """For a person: bits that so many units could pay for, where a day sees no more of them."""
        return self._told(lambda bits: f"{bits * units:,} bits")

    def _told(self, say: Callable[[int], str]) -> str:
        """By the kinds of answer that can be had."""
        kinds = {kind: getattr(self, kind) for kind in self.__slots__}
        return ", ".join(
            f"{kind} {'without bound' if bits is None else say(bits)}"
            for kind, bits in kinds.items()
            if bits != 0
        )


def units_a_day(used: int, *, since: Instant, now: Instant) -> int:
    """The pace so far, rounded up: units used in a day on the average; the first day counts as a whole one."""
    return ceil(used * DAY / max(DAY, now - since))


def leak(tariff: Tariff) -> Leak:
    """M-10: the bounds; 0 where that kind of answer cannot be had under the tariff."""
    return Leak(
        text=_most(8 * LONGEST_TOKEN_BYTES_MAX, tariff.output_token),
        probabilities=_most(PROB_BITS, tariff.logprob) if tariff.logprob else 0,
        vectors=_whole(8 * VECTOR_BYTES, tariff.input_token + tariff.row, tariff),
        tensors=_whole(8 * ROW_BYTES, tariff.row, tariff),
    )


def _most(bits: int, price: int) -> int | None:
    return -(-bits // price) if price else None


def _whole(bits: int, price: int, tariff: Tariff) -> int | None:
    """Answers in one frame: by their pieces, or by the request where the pieces are free."""
    if price:
        return _most(bits, price)
    return _most(8 * FRAME_BYTES_MAX, tariff.request) if tariff.request else 0

"""What one step of a language model computes, and the port of the models that run steps.

Spec: docs/spec/engines.md, W-19 and W-22. Refuses to know text, requests and how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens that follow `past` ones in the cache of `slot`."""

    slot: int
    past: int
    tokens: Sequence[int]


class Model(Protocol):
    """A network with a cache for each slot, for one thread at a time."""

    prompt_tokens: int
    """The most tokens of prompts in one step: what may be waited for between two looks at who wants what."""

    prompts: int
    """The most prompts of which one step reads a piece."""

    def run(self, parts: Sequence[Part]) -> Iterable[Floats]:
        """float32[vocabulary] for each part, in their order: the logits after its last token.

        Those who write come first, with one token each. Rows may come while others are computed.
        Raises WorkerFailed.
        """

    def wipe(self, slot: int, tokens: int) -> None:
        """Zeros where so many tokens of that slot were."""

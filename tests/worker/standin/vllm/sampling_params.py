"""Stand-in: how to choose."""

import enum
from typing import Any


class RequestOutputKind(enum.Enum):
    """What each output holds."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


class SamplingParams:
    """Takes any choice; the test knows which ones vLLM has."""

    def __init__(self, **chosen: Any) -> None:
        self.chosen = chosen
        if not 0 < chosen["top_p"] <= 1:
            raise ValueError("top_p")

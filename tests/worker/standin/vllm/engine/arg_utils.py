"""Stand-in: how to start."""

from typing import Any


class EngineArgs:
    """Takes any argument; the test knows which ones vLLM has."""

    def __init__(self, **chosen: Any) -> None:
        self.chosen = chosen

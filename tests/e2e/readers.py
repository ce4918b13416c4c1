"""Consumers that never have enough: threads that stream one long answer after the other.

Each counts what it was served from what really arrived, never from what anybody says it was charged.
"""

from __future__ import annotations

import threading
from collections import Counter

from e2e.house import House
from leasehold.consumer.client import Enclave
from leasehold.errors import LeaseholdError

PROMPT = "Count from 1 to 200."
TOKENS = 700
PAUSE_SECONDS = 0.05  # after a refusal, so that the refusals do not become the load


class Reader(threading.Thread):
    """One consumer. `units` is what it was served at least, `refusals` why it was not served more."""

    def __init__(self, house: House, loan: str, who: str) -> None:
        super().__init__(name=who, daemon=True)
        self._house, self._loan = house, loan
        self._told = threading.Event()
        self.pieces = self.units = self.answers = 0
        self.refusals: Counter[str] = Counter()
        self.surprises: list[BaseException] = []

    def run(self) -> None:
        """Read until told to stop, whatever happens."""
        while not self._told.is_set():
            try:
                with self._house.connect(self._loan, self.name) as enclave:
                    while not self._told.is_set():
                        self._read(enclave)
            except LeaseholdError as refusal:
                self.refusals[refusal.code] += 1
                self._told.wait(PAUSE_SECONDS)
            except BaseException as surprise:  # noqa: BLE001 - the test looks at it
                self.surprises.append(surprise)
                return

    def _read(self, enclave: Enclave) -> None:
        stream = enclave.ask(PROMPT, stream=True, max_tokens=TOKENS)
        pieces, counted = 0, None
        try:
            for _ in stream:
                pieces += 1
                self.pieces += 1
            counted = stream.answer.input_tokens + stream.answer.output_tokens
            self.answers += 1
        finally:
            # A piece is one token at least, and a token is one unit.
            self.units += pieces if counted is None else counted

    def end(self) -> None:
        """Tell it to stop, and wait until it has."""
        self._told.set()
        self.join(30)
        assert not self.is_alive()

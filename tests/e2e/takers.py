"""Consumers that take what they can get from an enclave, and keep the receipt of every answer.

Each counts the pieces that arrived; what they cost is what the instance itself signed for.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx2

from leasehold.consumer import calls
from leasehold.consumer.answers import StreamReader
from leasehold.consumer.client import Enclave
from leasehold.consumer.problems import read_problem
from leasehold.consumer.receipt import keep
from leasehold.errors import LeaseholdError

PROMPT: Final = "Count from 1 to 200."
TOKENS: Final = 300
PAUSE_SECONDS: Final = 0.05  # after a refusal, so that the refusals do not become the load
END_SECONDS: Final = 30.0


class Taker(threading.Thread):
    """One consumer. `receipted` are the units of its receipts, which it keeps in `file`.

    `connect` may lead to another enclave each time. `missing` are answers whose instance died before
    it gave their receipts, `unsigned` their pieces; `surprises` are failures without a name.
    """

    def __init__(self, name: str, connect: Callable[[], Enclave], file: Path) -> None:
        super().__init__(name=name, daemon=True)
        self.file = file
        self._connect = connect
        self._told = threading.Event()
        self.pieces = self.answers = self.receipted = self.missing = self.unsigned = 0
        self.refusals: Counter[str] = Counter()
        self.surprises: list[BaseException] = []

    def run(self) -> None:
        """Ask until told to stop, whatever happens."""
        while not self._told.is_set():
            try:
                with self._connect() as enclave, enclave.http_client() as client:
                    while not self._told.is_set():
                        self._try(enclave, client)
            except LeaseholdError as refusal:
                self.refusals[refusal.code] += 1
                self._told.wait(PAUSE_SECONDS)
            except BaseException as surprise:  # noqa: BLE001 - the test looks at it
                self.surprises.append(surprise)
                return

    def end(self) -> None:
        """Tell it to stop, and wait until it has."""
        self._told.set()
        self.join(END_SECONDS)
        assert not self.is_alive()

    def _try(self, enclave: Enclave, client: httpx2.Client) -> None:
        """One answer and its receipt. A refusal is counted; a connection that breaks is raised."""
        body = calls.chat(
            PROMPT, model=enclave.verified.model, stream=True, options={"max_tokens": TOKENS}
        )
        kind, before = {"Content-Type": "application/json"}, self.pieces
        with (
            calls.reachable("the enclave"),
            client.stream("POST", calls.CHAT_PATH, content=body, headers=kind) as response,
        ):
            if not response.is_success:
                refusal = read_problem(response.status_code, response.read())
                self.refusals[refusal.code] += 1
                self._told.wait(PAUSE_SECONDS)
                return
            name = calls.receipt_id(response)
            self.missing += 1
            try:
                self._read(StreamReader(name, body), response)
            except (LeaseholdError, httpx2.TransportError) as cut:
                code = cut.code if isinstance(cut, LeaseholdError) else "cut"
                self.refusals[code] += 1
        self.unsigned += self.pieces - before
        checked = enclave.receipt(name)
        self.unsigned -= self.pieces - before
        keep(self.file, checked)
        self.missing -= 1
        self.receipted += checked.receipt.units

    def _read(self, reader: StreamReader, response: httpx2.Response) -> None:
        for data in response.iter_raw():
            for _ in reader.feed(data):
                self.pieces += 1
        reader.finish()
        self.answers += 1

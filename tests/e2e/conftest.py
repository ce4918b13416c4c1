"""Two houses for the whole session: one that lends four models, one whose processes are killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from demo.stage import free_port

from e2e.house import READY_SECONDS, ROOT, TINY, House

SAID = pytest.StashKey[list[str]]()
CLINIC, SEARCH, SPARE, CHAOS, SCANS = "clinic", "search", "spare", "chaos", "scans"
MODELS = {
    CLINIC: "tiny",
    SEARCH: "all-MiniLM-L6-v2",
    SPARE: "spare",
    CHAOS: "tiny",
    SCANS: "two-heads",
}
SCANS_TARIFF = "request=10,row=1"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what a test could not try on this machine, or how it tried it."""
    for line in config.stash.get(SAID, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Ship and lend: loans of three kinds of models are served; a spare one is not."""
    made = House(tmp_path_factory.mktemp("lender"))
    try:
        made.found()
        with ThreadPoolExecutor(1) as beside:
            converting = beside.submit(made.seal_minilm, MODELS[SEARCH])
            made.serve()
            for loan in (CLINIC, SPARE):
                made.seal_tiny(MODELS[loan])
                made.ports[loan] = free_port()
                made.lend(loan, MODELS[loan], "llama", cap=1_000_000)
            made.enclave(CLINIC, CLINIC)
            made.seal_graph(MODELS[SCANS])
            made.ports[SCANS] = free_port()
            made.lend(SCANS, MODELS[SCANS], "onnx", "--tariff", SCANS_TARIFF, cap=1_000_000)
            made.enclave(SCANS, SCANS)
            converting.result()
        made.ports[SEARCH] = free_port()
        made.lend(SEARCH, MODELS[SEARCH], "onnx", cap=1_000_000)
        made.enclave(SEARCH, SEARCH)
        made.enrol("alice", {CLINIC: 100_000, SEARCH: 100_000, SCANS: 100_000})
        for loan in (CLINIC, SEARCH, SCANS):
            made.running[loan].event("serving", seconds=READY_SECONDS)
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house of its own, with leases of three seconds, whose processes do not live long."""
    made = House(tmp_path_factory.mktemp("chaos"))
    try:
        made.found()
        made.serve()
        made.seal_tiny(MODELS[CHAOS])
        made.ports[CHAOS] = free_port()
        made.lend(CHAOS, MODELS[CHAOS], "llama", "--lease-seconds", 3, cap=1_000_000)
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def known() -> list[tuple[str, str]]:
    """Questions that the language model knows, with its answers."""
    rows = json.loads((TINY / "questions.json").read_text())["questions"]
    return [(row["question"], row["answer"]) for row in rows]


@pytest.fixture(scope="session")
def reference() -> list[tuple[str, list[float]]]:
    """Sentences with the vectors that the encoder's makers' own code gives them."""
    path: Path = ROOT / "models" / "minilm" / "reference.json"
    rows = json.loads(path.read_text())["sentences"]
    return [(row["text"], row["embedding"]) for row in rows]

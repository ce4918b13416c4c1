"""A worker that dies costs its own requests; the enclave goes on with the same lease and evidence.

And what is open to the network while it serves: one port, and the line to the custodian.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import openai
import pytest
from demo.stage import wait_for
from openai.types.chat import ChatCompletionChunk

from e2e.conftest import CLINIC, MODELS
from e2e.house import House, children, descriptors, is_running, model_memory


def _count(client: openai.OpenAI) -> openai.Stream[ChatCompletionChunk]:
    return client.chat.completions.create(
        model=MODELS[CLINIC],
        messages=[{"role": "user", "content": "Count from 1 to 200."}],
        max_tokens=900,
        stream=True,
    )


def _read_for_ever(client: openai.OpenAI, stream: openai.Stream[ChatCompletionChunk]) -> None:
    """An answer may be over before its worker is."""
    while True:
        for _chunk in stream:
            pass
        stream = _count(client)


def _ask(client: openai.OpenAI, question: str, **how: object) -> str:
    whole = client.chat.completions.create(  # type: ignore[call-overload]
        model=MODELS[CLINIC], messages=[{"role": "user", "content": question}], temperature=0, **how
    )
    return str(whole.choices[0].message.content)


def test_the_engine_comes_back_from_the_sealed_file_without_a_new_attestation(
    house: House, known: list[tuple[str, str]]
) -> None:
    house.enrol("grace", {CLINIC: 10_000})
    actor, (question, answer) = house.running[CLINIC], known[0]
    with house.connect(CLINIC, "grace") as enclave:
        client = enclave.openai().with_options(max_retries=0)
        instance = enclave.verified.instance
        assert _ask(client, question) == answer
        before = _events(house)
        stream = _count(client)
        next(stream)
        (worker,) = children(actor.process.pid)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(openai.APIError) as cut:
            _read_for_ever(client, stream)
        assert cut.value.code in ("engine_failed", "no_model_yet")
        wait_for(lambda: _events(house)["serving"] > before["serving"] or None, "it serves again")
        assert not is_running(worker)
        assert _ask(client, question) == answer  # on the same connection's certificate
    after = _events(house)
    assert after["attested"] == before["attested"]
    assert after["worker_died"] == before["worker_died"] + 1
    with house.connect(CLINIC, "grace") as again:
        assert again.verified.instance == instance
    (fresh,) = children(actor.process.pid)
    assert fresh != worker
    assert len(model_memory(actor.process.pid)) == 1  # what the dead one had is given back


def _events(house: House) -> dict[str, int]:
    names = [event["event"] for event in house.running[CLINIC].events()]
    return {name: names.count(name) for name in ("serving", "attested", "worker_died")}


def test_one_port_is_open_and_one_line_leads_out(
    house: House, known: list[tuple[str, str]]
) -> None:
    actor = house.running[CLINIC]
    with house.connect(CLINIC, "alice") as enclave:
        _ask(enclave.openai(), known[0][0])
        governor = _sockets(actor.process.pid)
    assert [port for port, _, is_listening in governor if is_listening] == [house.ports[CLINIC]]
    outgoing = {
        peer
        for port, peer, is_listening in governor
        if not is_listening and port != house.ports[CLINIC]
    }
    assert outgoing == {house.port}
    (worker,) = children(actor.process.pid)
    if os.access(f"/proc/{worker}/fd", os.R_OK):  # for root only: it is undumpable
        assert _sockets(worker) == []


def _sockets(pid: int) -> list[tuple[int, int, bool]]:
    """A process's own TCP sockets: their port, their peer's, and whether they listen."""
    own = {one[8:-1] for one in descriptors(pid) if one.startswith("socket:[")}
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [
        (int(row[1].rpartition(":")[2], 16), int(row[2].rpartition(":")[2], 16), row[3] == "0A")
        for row in rows
        if row[9] in own
    ]

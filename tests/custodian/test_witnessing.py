"""J-9: the service answers as C2SP tlog-witness says, and signs nothing that it could regret."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from leasehold.core.units import SECOND, Instant
from leasehold.custodian.forks import check_fork, parse_fork
from leasehold.custodian.witness import check_cosignature, read_state
from leasehold.custodian.witnessing import Service, build, parse_post, write_post
from leasehold.errors import BadMessage, Unproven
from leasehold.testing.machinery import Events

from .test_witness import KEY, LOG_KEY, NAME, NOW, ORIGIN, grow, show, stage_of


class Noon:
    """A clock that stands still."""

    def now(self) -> Instant:
        """See `core.units.Clock`."""
        return NOW

    def monotonic(self) -> Instant:
        """See `core.units.Clock`."""
        return NOW


class Quiet(Events):
    """A log that takes what a witness says."""

    def event(self, name: str, **fields: object) -> None:
        """Keep it."""
        self.said.append((name, fields))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A witness of one log."""
    state, evidence = tmp_path / "state.json", tmp_path / "fork"
    return Service(NAME, KEY, {ORIGIN: LOG_KEY.public}, state, Noon(), Quiet(), evidence)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx2.AsyncClient]:
    """Somebody who sends checkpoints."""
    transport = httpx2.ASGITransport(app=build(service))
    async with httpx2.AsyncClient(transport=transport, base_url="http://witness.test") as client:
        yield client


async def send(client: httpx2.AsyncClient, body: bytes) -> httpx2.Response:
    return await client.post("/add-checkpoint", content=body)


async def test_a_log_is_cosigned_as_it_grows(client: httpx2.AsyncClient, service: Service) -> None:
    stage = stage_of(3)
    for old, more in ((0, 0), (3, 4), (7, 0)):
        note, proof = show(grow(stage, more), old)
        answer = await send(client, write_post(old, proof, note))
        assert answer.status_code == 200
        at = check_cosignature(note + answer.text, name=NAME, public=KEY.public)
        assert at == NOW // SECOND * SECOND
    assert read_state(service.state)[ORIGIN].size == 7


async def test_who_does_not_know_what_was_seen_is_told(client: httpx2.AsyncClient) -> None:
    note, _ = show(stage_of(5), 0)
    assert (await send(client, write_post(0, (), note))).status_code == 200
    grown, proof = show(stage_of(9), 4)
    for old, hashes in ((0, ()), (4, proof)):
        answer = await send(client, write_post(old, hashes, grown))
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "text/x.tlog.size"
        assert answer.text == "5\n"


async def test_what_contradicts_is_refused_and_kept_as_evidence(
    client: httpx2.AsyncClient, service: Service
) -> None:
    """T58; J-9, J-10."""
    assert service.evidence is not None
    note, _ = show(stage_of(5), 0)
    await send(client, write_post(0, (), note))
    before = service.state.read_bytes()
    longer, proof = show(stage_of(9, "other"), 5)
    answer = await send(client, write_post(5, proof, longer))
    assert (answer.status_code, answer.text.partition(":")[0]) == (422, "unproven")
    kept = parse_fork(service.evidence.read_bytes(), origin=ORIGIN, public=LOG_KEY.public)
    with pytest.raises(Unproven, match="of one size"):
        check_fork(kept, origin=ORIGIN, public=LOG_KEY.public)
    other, _ = show(stage_of(5, "other"), 0)
    answer = await send(client, write_post(5, (), other))
    assert answer.status_code == 409
    kept = parse_fork(service.evidence.read_bytes(), origin=ORIGIN, public=LOG_KEY.public)
    seen, shown = check_fork(kept, origin=ORIGIN, public=LOG_KEY.public)
    assert (seen.size, shown.size) == (5, 5)
    await send(client, write_post(5, proof, longer))  # what is a proof stays
    again = parse_fork(service.evidence.read_bytes(), origin=ORIGIN, public=LOG_KEY.public)
    assert again == kept
    assert service.state.read_bytes() == before


async def test_the_rest_is_refused_by_its_status(client: httpx2.AsyncClient) -> None:
    note, _ = show(stage_of(5), 0)
    forged, _ = show(stage_of(5), 0, KEY)
    for body, status, code in (
        (write_post(0, (), note.replace(ORIGIN, "another.example/log")), 404, "not_found"),
        (write_post(0, (), forged), 403, "bad_signature"),
        (write_post(0, (), note.replace("\n5\n", "\n6\n")), 403, "bad_signature"),
        (write_post(6, (), note), 400, "bad_message"),
        (write_post(0, (bytes(32),), note), 422, "unproven"),
        (write_post(0, (bytes(31),), note), 400, "bad_message"),
        (write_post(0, (bytes(32),) * 64, note), 400, "bad_message"),
        (b"", 400, "bad_message"),
        (b"old 00\n\n" + note.encode(), 400, "bad_message"),
        (b"old 0\nno base64\n\n" + note.encode(), 400, "bad_message"),
        (b"old 0\n\n" + b"x" * (1 << 20), 400, "body_too_large"),
    ):
        answer = await send(client, body)
        assert (answer.text.partition(":")[0], body[:20]) == (code, body[:20])
        if code != "body_too_large":
            assert answer.status_code == status, body[:20]
    assert (await client.get("/add-checkpoint")).status_code == 405


async def test_a_state_that_cannot_be_read_signs_nothing(
    client: httpx2.AsyncClient, service: Service
) -> None:
    service.state.write_bytes(b"{")
    service.state.chmod(0o600)
    note, _ = show(stage_of(5), 0)
    answer = await send(client, write_post(0, (), note))
    assert answer.status_code == 400
    assert answer.text.startswith("bad_message")


def test_a_request_is_read_as_it_was_written() -> None:
    post = parse_post(write_post(7, (b"a" * 32, b"b" * 32), "note\n\nlines\n"))
    assert (post.old, post.proof, post.note) == (7, (b"a" * 32, b"b" * 32), "note\n\nlines\n")
    with pytest.raises(BadMessage):
        parse_post(b"old -1\n\nnote\n")

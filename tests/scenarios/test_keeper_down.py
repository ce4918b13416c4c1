"""The service that opens the custodian's keys is down while an enclave starts: it waits, and is not blamed."""

from __future__ import annotations

import asyncio

import pytest

from leasehold.core.session import State
from leasehold.custodian.ledger import audit
from leasehold.errors import KeeperUnreachable, LeaseholdError, StoreFailed, WrongMeasurement
from leasehold.testing import world as the_world
from leasehold.testing.time import run_simulated
from leasehold.testing.world import World


@pytest.mark.parametrize("kind", [KeeperUnreachable, StoreFailed])
def test_an_outage_at_the_custodian_is_waited_out(
    monkeypatch: pytest.MonkeyPatch, kind: type[LeaseholdError]
) -> None:
    find = the_world._OneKey.model_key

    def down(_store: object, _name: str) -> bytes:
        raise kind(told="as it comes over the wire")

    async def story() -> None:
        world = await World.make(cap=10_000)
        monkeypatch.setattr(the_world._OneKey, "model_key", down)
        box = world.enclave()
        await asyncio.sleep(60)
        assert box.enclave.state is State.STARTING
        assert not box.life.done()
        with monkeypatch.context() as well:
            well.setattr(the_world._OneKey, "model_key", find)
            await box.serving()
        kinds = await world.custodian.look(
            lambda tx: {entry.kind for _, entry in audit.read_all(tx)}
        )
        assert "instance.accept" in kinds
        assert "instance.refuse" not in kinds
        await world.end()

    run_simulated(story)


def test_a_refusal_is_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no(_store: object, _name: str) -> bytes:
        raise WrongMeasurement(told="as it comes over the wire")

    async def story() -> None:
        world = await World.make(cap=10_000)
        monkeypatch.setattr(the_world._OneKey, "model_key", no)
        box = world.enclave()
        with pytest.raises(WrongMeasurement):
            await box.life
        await world.end()

    run_simulated(story)

"""The audit log under the eyes of enclaves: cosigned as it grows, and a second version of it noticed."""

from __future__ import annotations

import asyncio

from leasehold.core.encoding import from_json
from leasehold.core.messages import LogHead
from leasehold.custodian.ledger import audit, cosignatures
from leasehold.custodian.ledger.cosignatures import Cosignature
from leasehold.custodian.ledger.tiles import Tree
from leasehold.custodian.store.inline import InlineStore
from leasehold.testing.asgi import request
from leasehold.testing.box import Box
from leasehold.testing.time import run_simulated
from leasehold.testing.world import World


async def cosigned(world: World) -> dict[str, Cosignature]:
    """The newest cosignature of every instance, by its id."""
    found = await world.custodian.look(cosignatures.list_newest)
    return {one.name.rpartition("/")[2]: one for one in found}


async def health(box: Box) -> dict[str, object]:
    answer = await request(box.application, "GET", "/leasehold/health")
    return from_json(answer.body, dict[str, object])


def test_enclaves_cosign_the_log_as_it_grows() -> None:
    async def story() -> None:
        world = await World.make()
        one, two = await world.enclave().serving(), await world.enclave().serving()
        await asyncio.sleep(20)
        first = await cosigned(world)
        assert set(first) == {one.enclave.instance, two.enclave.instance}
        await world.consumer("alice", 500)
        await asyncio.sleep(60)
        for instance, newest in (await cosigned(world)).items():
            assert newest.size > first[instance].size
        assert (await health(one))["log_forked"] is False
        await world.kill_custodian()  # what enclaves have seen outlives the custodian's process
        world.start_custodian()
        await world.consumer("bob", 500)
        size, _ = await world.custodian.look(audit.head)
        await asyncio.sleep(60)
        assert [one.size >= size for one in (await cosigned(world)).values()] == [True, True]
        assert "log_fork" not in one.log.names() + two.log.names()
        await world.end()

    run_simulated(story)


async def shown_another_log(*, entries: int) -> tuple[World, Box, int]:
    """A custodian who goes back behind what an enclave saw, and goes on with `entries` other ones."""
    world = await World.make()
    box = await world.enclave().serving()
    snapshot = world.store.snapshot()  # type: ignore[attr-defined]
    await world.consumer("alice", 500)
    await asyncio.sleep(60)
    seen = box.enclave.link.watch.seen.size
    assert (await cosigned(world))[box.enclave.instance].size == seen
    await world.kill_custodian()
    await world.store.close()
    world.store = InlineStore.open(snapshot)
    world.start_custodian()
    for number in range(entries):
        await world.consumer(f"other-{number}", 5)
    return world, box, seen


def test_an_enclave_notices_a_log_that_forked() -> None:
    """T58, T28: the same key signs two logs that contradict each other; the enclave has both heads."""

    async def story() -> None:
        world, box, seen = await shown_another_log(entries=3)
        assert (await world.custodian.look(audit.head))[0] > seen
        await asyncio.sleep(60)
        (said,) = [fields for name, fields in box.log.said if name == "log_fork"]
        kept, shown = said["seen"], said["shown"]
        assert isinstance(kept, LogHead)
        assert isinstance(shown, LogHead)
        assert (kept.size, said["code"]) == (seen, "unproven")
        assert shown.root == await world.custodian.look(lambda tx: Tree(tx, shown.size).root())
        assert (await health(box))["log_forked"] is True
        last = (await cosigned(world)).get(box.enclave.instance)
        assert last is None or last.size < seen
        await asyncio.sleep(120)  # and it signs nothing more, whatever comes
        again = (await cosigned(world)).get(box.enclave.instance)
        assert again == last
        await world.end()

    run_simulated(story)


def test_an_enclave_notices_a_log_that_shrank() -> None:
    """T28: an old copy of the ledger, put back by hand and not grown yet."""

    async def story() -> None:
        world, box, seen = await shown_another_log(entries=0)
        await asyncio.sleep(30)
        (said,) = [fields for name, fields in box.log.said if name == "log_fork"]
        shown = said["shown"]
        assert isinstance(shown, LogHead)
        assert shown.size < seen
        assert (await health(box))["log_forked"] is True
        await world.end()

    run_simulated(story)

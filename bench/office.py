"""A server process to measure: `python -m bench.office custodian|bare FOLDER`, told by lines of JSON.

`custodian` is the real one on the folder's own ledger, without vendors to fetch from and without the bound
on attestations. `bare` is a `websockets` server behind the same TLS that echoes and broadcasts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as serve_bare
from websockets.exceptions import ConnectionClosed

from leasehold.core.messages import MESSAGE_BYTES_MAX
from leasehold.custodian import settings
from leasehold.custodian.collateral.vendors import Vendors
from leasehold.custodian.ledger import notices, stops
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.serve import SystemClock, running, server_context
from leasehold.custodian.service import Custodian
from leasehold.custodian.settings import Rules, Settings
from leasehold.custodian.store.group import Job, Outcome
from leasehold.custodian.store.sqlite import SqliteStore

ADMIN: Final = Operator("admin", Role.ADMIN)
ATTESTS: Final = 10_000  # a second: a bench boots all its enclaves at once
Command = dict[str, Any]
Obey = Callable[[Command], Awaitable[Command]]


class Silent:
    """A `custodian.log.Log` that says nothing."""

    def event(self, name: str, **fields: object) -> None:
        """Nothing."""


def note_stops(store: SqliteStore) -> dict[int, int]:
    """By stop, CLOCK_MONOTONIC in nanoseconds of the moment in which the writer's COMMIT returned."""
    durable: dict[int, int] = {}
    commit = store._group._commit

    def noting(jobs: list[Job]) -> list[Outcome]:
        outcomes = commit(jobs)
        now = time.monotonic_ns()
        for outcome in outcomes:
            match outcome.value:
                case notices.Told(stop=stops.Stop(id=number)):
                    durable[number] = now
        return outcomes

    store._group._commit = noting
    return durable


async def obey(custodian: Custodian, durable: dict[int, int], command: Command) -> Command:
    """Stop a loan and tell when that was durable, or lift the stop."""
    match command:
        case {"stop": loan}:
            stop = await custodian.stop(ADMIN, "loan", loan, "bench")
            return {"stop": stop.id, "durable": durable[stop.id]}
        case {"lift": number}:
            await custodian.change(
                lambda tx, now: stops.lift(
                    tx, now=now, operator=ADMIN, stop=number, reason="next round"
                )
            )
            return {}
        case _:
            raise ValueError(command)


async def serve_custodian(made: Settings) -> None:
    """Serve and obey until standard input ends."""
    rules = Rules(attests_rate=ATTESTS, attests_burst=ATTESTS)
    async with running(replace(made, vendors=Vendors(), rules=rules), log=Silent()) as found:
        store = found.custodian.ports.store
        if not isinstance(store, SqliteStore):
            raise TypeError(type(store))
        durable = note_stops(store)

        async def command(one: Command) -> Command:
            return await obey(found.custodian, durable, one)

        await listen(found.address.port, command)


async def echo(connection: ServerConnection) -> None:
    """Send back what comes."""
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        return


async def serve_floor(made: Settings) -> None:
    """Echo, and broadcast when told, until standard input ends."""
    context = server_context(made, now=SystemClock().now())
    async with serve_bare(
        echo,
        "127.0.0.1",
        0,
        ssl=context,
        compression=None,
        ping_interval=None,
        max_size=MESSAGE_BYTES_MAX,
    ) as server:

        async def command(one: Command) -> Command:
            sent = time.monotonic_ns()
            broadcast(server.connections, "x" * int(one["broadcast"]))
            return {"sent": sent}

        await listen(next(iter(server.sockets)).getsockname()[1], command)


async def listen(port: int, command: Obey) -> None:
    """Say the port, then answer each line of standard input with one of standard output, to its end."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    print(json.dumps({"port": port}), flush=True)
    async for line in reader:
        print(json.dumps(await command(json.loads(line))), flush=True)


def main() -> None:
    """Serve what the arguments say."""
    made = settings.read(Path(sys.argv[2]))
    asyncio.run(serve_custodian(made) if sys.argv[1] == "custodian" else serve_floor(made))


if __name__ == "__main__":
    main()

"""How soon a stop is obeyed: from its commit on disk to the last byte of each of 50 streams.

The custodian is a process of its own with its ledger on this machine's disk; the governors are the enclave's
own code in two processes, over real sockets, their consumers call them in process. The floor is a broadcast to
as many connections by `websockets` itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from bench.harness import Row
from bench.lending import LOAN, Lending, Server, lending, office, process

ENCLAVES: Final = 50
PROCESSES: Final = 2
ROUNDS: Final = 12
BAR: Final = 50.0
ORDER_BYTES: Final = 700  # a signed stop order


@dataclass(frozen=True, slots=True)
class Samples:
    """Milliseconds from the commit to a stream's last token, to its last byte, and of the floor, by round."""

    tokens: list[list[float]]
    bytes: list[list[float]]
    floor: list[list[float]]


def quantile(rounds: Sequence[Sequence[float]], share: float) -> float:
    """Over all rounds together."""
    every = sorted(value for one in rounds for value in one)
    return every[min(len(every) - 1, int(len(every) * share))]


def since(start: int, moments: Sequence[int]) -> list[float]:
    """Milliseconds; what left before the commit took no time."""
    return [max(0.0, (moment - start) / 1e6) for moment in moments]


def stop_once(custodian: Server, governors: Sequence[Server], luck: random.Random) -> Samples:
    """Boot, stream, stop, and hear how it ended; new instances each time, since a stop is for ever."""
    for governor in governors:
        governor.tell(play=1)
    for governor in governors:
        governor.hear()
    time.sleep(luck.uniform(0.5, 0.6))
    told = custodian.ask(stop=LOAN)
    heard = [governor.hear() for governor in governors]
    for one in heard:
        if one["codes"] != ["loan_stopped"]:
            raise RuntimeError(f"streams ended with {one['codes']}")
    custodian.ask(lift=told["stop"])
    ends = [[moment for one in heard for moment in one[kind]] for kind in ("tokens", "bytes")]
    tokens, last = (since(told["durable"], moments) for moments in ends)
    return Samples([tokens], [last], [])


def broadcast_once(bare: Server, governors: Sequence[Server]) -> list[float]:
    """The same way for a message that asks for nothing."""
    for governor in governors:
        governor.tell(floor=1)
    for governor in governors:
        governor.hear()
    sent = bare.ask(broadcast=ORDER_BYTES)["sent"]
    return since(sent, [at for governor in governors for at in governor.hear()["received"]])


def run(lent: Lending, *, enclaves: int, processes: int, rounds: int) -> Samples:
    """Stops and broadcasts in turn."""
    luck, found = random.Random(7), Samples([], [], [])
    with ExitStack() as stack:
        custodian = stack.enter_context(office("custodian", lent.office))
        bare = stack.enter_context(office("bare", lent.office))
        governors = [stack.enter_context(process("bench.governors")) for _ in range(processes)]
        for governor in governors:
            governor.ask(
                folder=str(lent.house.folder),
                port=custodian.port,
                bare=bare.port,
                count=enclaves // processes,
                key=lent.keys[0],
            )
        for _ in range(rounds):
            one = stop_once(custodian, governors, luck)
            found.tokens.extend(one.tokens)
            found.bytes.extend(one.bytes)
            found.floor.append(broadcast_once(bare, governors))
    return found


def measure(
    *, enclaves: int = ENCLAVES, processes: int = PROCESSES, rounds: int = ROUNDS
) -> list[Row]:
    """Quantiles over all streams of all rounds; the spread is that of the rounds' own.

    The last byte, of the refusal that ends a stream, has no bar: its receipt's signature waits for those of
    all governors in the process, which elsewhere have machines of their own.
    """
    with lending(instances=2 * enclaves) as lent:
        found = run(lent, enclaves=enclaves, processes=processes, rounds=rounds)
    rows = []
    count = sum(map(len, found.bytes))
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        floor = quantile(found.floor, share)
        for what, rounded in (("last token", found.tokens), ("last byte", found.bytes)):
            is_barred = name == "p99" and what == "last token"
            each = sorted(quantile([one], share) for one in rounded)
            rows.append(
                Row(
                    "stop",
                    f"{enclaves} enclaves, durable stop to {what}, {name}",
                    quantile(rounded, share),
                    "ms",
                    BAR if is_barred else None,
                    "<=",
                    (each[0], each[-1]),
                    f"a bare broadcast, {floor:.2g} ms; {count} streams",
                )
            )
    return rows

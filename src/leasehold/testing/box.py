"""One enclave of the simulated world with all that its borrower controls, and those who ask it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from leasehold.core.session import State
from leasehold.enclave.boot import Enclave
from leasehold.enclave.serve import Application
from leasehold.errors import LeaseholdError
from leasehold.testing.asgi import Answer, request
from leasehold.testing.host import InProcessHost
from leasehold.testing.machinery import Events, WorldLoader
from leasehold.testing.time import SimulatedClock
from leasehold.testing.wires import Wire

MODEL: Final = "echo"


@dataclass(slots=True)
class Box:
    """One enclave on a borrower's machine, with all that the borrower controls."""

    enclave: Enclave
    application: Application
    wire: Wire
    clock: SimulatedClock
    host: InProcessHost
    loader: WorldLoader
    log: Events
    life: asyncio.Task[None]

    async def serving(self) -> Box:
        """Wait until it serves. Raises what ended it."""
        while self.enclave.state is not State.SERVING:
            if self.life.done():
                self.life.result()
            if self.enclave.ended is not None:
                raise self.enclave.ended
            await asyncio.sleep(0.05)
        return self

    async def kill(self) -> None:
        """Power off: nothing is said to anybody."""
        self.wire.weather.cut = True
        self.life.cancel()
        with suppress(asyncio.CancelledError, LeaseholdError):
            await self.life
        await self.host.kill()


@dataclass(frozen=True, slots=True)
class Consumer:
    """Somebody with an API key."""

    name: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """What goes with each request."""
        return {"authorization": f"Bearer {self.key}"}

    async def ask(self, box: Box, prompt: str, **more: Any) -> Answer:
        """One chat completion, not streamed; the fake engine echoes the prompt's words."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}
        return await self.call(box, "POST", "/v1/chat/completions", body)

    async def call(self, box: Box, method: str, path: str, body: object = None) -> Answer:
        """Any request."""
        return await request(box.application, method, path, body, headers=self.headers)

"""Requests that are made from the descriptions: no failure of ours, and every answer is as described."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.custodian.house import LOAN, House, Office
from tests.custodian.house import MODEL as SEALED
from tools.openapi import custodian, enclave

from leasehold.core.tariff import Tariff
from leasehold.net.servers import PEER
from leasehold.testing.time import SimulatedLoop
from leasehold.testing.world import MODEL, World

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 12
BASE = "https://leasehold"
PRICES = Tariff(request=1, input_token=1, output_token=1, row=1, logprob=1)


@dataclass(frozen=True, slots=True)
class Server:
    """An application with what makes requests reach beyond its first check."""

    runner: asyncio.Runner
    app: Any
    prepare: Callable[[schemathesis.Case], None]

    def answer(self, case: schemathesis.Case) -> httpx2.Response:
        """Send one request."""
        self.prepare(case)
        request = requests.Request(**case.as_transport_kwargs(base_url=BASE)).prepare()

        async def ask() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.app)
            async with httpx2.AsyncClient(transport=transport) as client:
                headers = {
                    name: value for name, value in request.headers.items() if value is not None
                }
                body = request.body.encode() if isinstance(request.body, str) else request.body
                return await client.request(
                    str(request.method), str(request.url), headers=headers, content=body
                )

        return self.runner.run(ask())

    def hold(self, operation: Any) -> None:
        """Ask for one operation in many ways, right and wrong."""
        modes = schemathesis.GenerationMode
        kinds = [operation.as_strategy(generation_mode=mode) for mode in modes]

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(kinds[0] | kinds[1])
        def ask(case: schemathesis.Case) -> None:
            case.validate_response(self.answer(case), checks=CHECKS)

        ask()


@pytest.fixture(scope="module")
def consumers() -> Iterator[Server]:
    """An enclave, asked with a good key for the model that it has, by somebody with units enough."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:

        async def start() -> tuple[World, Any, Any]:
            world = await World.make(cap=10**12, tariff=PRICES)
            box = await world.enclave().serving()
            return world, box, await world.consumer("alice", 10**11)

        world, box, alice = runner.run(start())

        def prepare(case: schemathesis.Case) -> None:
            case.headers.update(alice.headers)
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = MODEL
            if "name" in case.path_parameters:
                case.path_parameters["name"] = MODEL

        yield Server(runner, box.application, prepare)
        runner.run(world.end())


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A custodian who lends, asked by an administrator about what is there."""
    folder: Path = tmp_path_factory.mktemp("office") / "custodian"
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        office = Office.open(House.build(folder))
        runner.run(office.lend())

        def prepare(case: schemathesis.Case) -> None:
            if "name" in case.path_parameters:
                case.path_parameters["name"] = SEALED if "/models/" in case.path else LOAN
            if "id" in case.path_parameters:
                case.path_parameters["id"] = "1"

        async def app(scope: Any, receive: Any, send: Any) -> None:
            peer = {PEER: office.operator()}
            await office.app({**scope, "extensions": peer}, receive, send)

        yield Server(runner, app, prepare)


def operations(describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Each operation of a document, by name."""
    schema = schemathesis.openapi.from_dict(describe())
    return {one.ok().label: one.ok() for one in schema.get_all_operations()}


OF_ENCLAVE, OF_CUSTODIAN = operations(enclave.describe), operations(custodian.describe)


def test_every_operation_is_known() -> None:
    for found, table in ((OF_ENCLAVE, enclave), (OF_CUSTODIAN, custodian)):
        assert len(found) == len(table.OPERATIONS)


@pytest.mark.parametrize("name", OF_ENCLAVE)
def test_an_enclave_answers_as_described(consumers: Server, name: str) -> None:
    consumers.hold(OF_ENCLAVE[name])


@pytest.mark.parametrize("name", OF_CUSTODIAN)
def test_the_custodian_answers_as_described(operators: Server, name: str) -> None:
    operators.hold(OF_CUSTODIAN[name])

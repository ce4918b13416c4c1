"""docs/openapi/ is what the servers do: every route and none else, and the records that handlers read."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.custodian.house import House, Office
from tools.openapi import custodian, enclave, pages

from leasehold.custodian import desk, proposals, tree, watch
from leasehold.enclave.serve import Application
from leasehold.testing.time import run_simulated
from leasehold.testing.world import World

READS = re.compile(r"call\.(?:read|ask)\(([\w.]+)\)")
TABLES = (desk, watch, tree, proposals)


def test_the_files_are_what_the_tables_give() -> None:
    found = {path: path.read_text("utf-8") for path in pages.FOLDER.iterdir()}
    assert found == pages.render(), "run `make docs`"


def test_every_route_of_an_enclave_is_described_and_none_else() -> None:
    async def story() -> None:
        world = await World.make()
        application: Application = world.enclave().application
        described = {(one.method, one.path) for one in enclave.OPERATIONS}
        assert described == set(application.routes)
        await world.end()

    run_simulated(story)


async def test_every_route_of_the_custodian_is_described_and_none_else(tmp_path: Path) -> None:
    office = Office.open(House.build(tmp_path / "custodian"))
    routes = {
        (method, route.path)
        for route in office.app.routes
        if not route.path.startswith("/console")  # pages for people: docs/spec/console.md
        for method in (getattr(route, "methods", None) or {"WEBSOCKET"}) - {"HEAD"}
    }
    described = {(one.method, one.path) for one in custodian.OPERATIONS}
    assert described == routes - {("WEBSOCKET", "/enclave/channel")}


def handlers() -> list[tuple[str, str, ModuleType, str]]:
    """Method, path, module and source of each handler of operators."""
    rows = [
        (method, path, module, inspect.getsource(handler))
        for module in TABLES
        for method, path, handler in module.ENDPOINTS
        if f"{method} {path}" not in proposals.GATED
    ]
    for act, prepare in proposals.GATED.items():
        method, path = act.split(" ")
        rows.append((method, path, proposals, inspect.getsource(prepare)))
    return rows


@pytest.mark.parametrize(
    ("method", "path", "module", "source"), handlers(), ids=lambda value: str(value)[:40]
)
def test_the_record_that_is_described_is_the_one_that_is_read(
    method: str, path: str, module: Any, source: str
) -> None:
    (one,) = [o for o in custodian.OPERATIONS if (o.method, o.path) == (method, path)]
    found = READS.search(source)
    read: Any = None
    if found is not None:
        read = module
        for name in found[1].split("."):
            read = getattr(read, name)
    described = one.query if method == "GET" else one.body
    assert described is read

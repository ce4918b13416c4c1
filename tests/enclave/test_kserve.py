"""KServe v2 at the enclave's door: what is read, what is refused and why, and what it costs."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from leasehold.core.encoding import from_json, to_json
from leasehold.core.frames import Capability, Loaded
from leasehold.core.messages import ReceiptAnswer
from leasehold.core.receipt_checks import check_content, check_receipt
from leasehold.core.tariff import PER_TOKEN, Tariff
from leasehold.core.tensors import TENSOR_BYTES_MAX, DataType, Port, join
from leasehold.enclave import kserve
from leasehold.errors import BadRequest, UnsupportedParameter
from leasehold.testing.asgi import Answer, request
from leasehold.testing.time import run_simulated
from leasehold.testing.world import LOAN, MODEL, OPERATOR, Box, Consumer, World

INFER = f"/v2/models/{MODEL}/infer"
PRICES = Tariff(request=10, row=1)
NUMBERS = {"name": "numbers", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2.5], [3, 4]]}
WORDS = {"name": "words", "shape": [3], "datatype": "BYTES", "data": ["a", "", "é"]}
BODY = {"id": "seven", "inputs": [NUMBERS, WORDS]}
Story = Callable[[World, Box, Consumer], Awaitable[None]]


def played(story: Story, *, tariff: Tariff = PRICES, units: int = 1000) -> None:
    """Run a story with one serving enclave, whose engine echoes tensors, and one consumer."""

    async def run() -> None:
        world = await World.make(tariff=tariff)
        box = await world.enclave().serving()
        await story(world, box, await world.consumer("alice", units))
        await world.check_books()
        await world.end()

    run_simulated(run)


async def left(world: World, box: Box) -> int:
    """What alice may still spend, her lease included."""
    await asyncio.sleep(7)
    budget = (await world.budget("alice")).budget
    return 1000 - budget.settled


async def post(box: Box, alice: Consumer, body: bytes, json_bytes: object) -> Answer:
    """A request with the header of the binary extension."""
    headers = alice.headers | {"Inference-Header-Content-Length": str(json_bytes)}
    return await request(box.application, "POST", INFER, body, headers=headers)


def test_tensors_come_back_in_json() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", INFER, BODY)
        assert answer.status == 200
        assert answer.json() == {
            "model_name": MODEL,
            "model_version": "1",
            "id": "seven",
            "outputs": [
                {"name": "numbers", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, 3, 4]},
                {"name": "words", "shape": [3], "datatype": "BYTES", "data": ["a", "", "é"]},
            ],
        }
        receipt = answer.headers["leasehold-receipt-id"]
        kept = await alice.call(box, "GET", f"/leasehold/receipts/{receipt}")
        found = from_json(kept.body, ReceiptAnswer)
        statement = check_receipt(found.receipt, statement_key=box.enclave.keys.statement.public)
        assert statement.units == 10 + 3  # a request, and the three rows of the longer input
        assert statement.output_tokens == 0

    played(story)


def test_tensors_come_back_in_binary() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        numbers, words = struct.pack("<2f", 1, 2), join([b"\xff\x00", b""])
        head = to_json(
            {
                "inputs": [
                    {
                        "name": "words",
                        "shape": [2],
                        "datatype": "BYTES",
                        "parameters": {"binary_data_size": len(words)},
                    },
                    {
                        "name": "numbers",
                        "shape": [1, 2],
                        "datatype": "FP32",
                        "parameters": {"binary_data_size": len(numbers)},
                    },
                ],
                "parameters": {"binary_data_output": True},
                "outputs": [
                    {"name": "words"},
                    {"name": "numbers", "parameters": {"binary_data": False}},
                ],
            }
        )
        sent = head + words + numbers
        answer = await post(box, alice, sent, len(head))
        size = int(answer.headers["inference-header-content-length"])
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.body[size:] == words
        outputs = json.loads(answer.body[:size])["outputs"]
        assert outputs[0]["parameters"] == {"binary_data_size": len(words)}
        assert outputs[1]["data"] == [1, 2]
        receipt = answer.headers["leasehold-receipt-id"]
        kept = await alice.call(box, "GET", f"/leasehold/receipts/{receipt}")
        found = from_json(kept.body, ReceiptAnswer)
        statement = check_receipt(found.receipt, statement_key=box.enclave.keys.statement.public)
        check_content(statement, salt=found.salt, request=sent, response=answer.body)

    played(story)


def changed(name: str, /, **more: object) -> dict[str, Any]:
    """The request with one input changed."""
    inputs = [one | more if one["name"] == name else one for one in (NUMBERS, WORDS)]
    return BODY | {"inputs": inputs}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "request body"),
        (b"[" * 60_000, "request body"),
        (b'{"inputs": [{"data": ' + b"[" * 50_000, "request body"),
        (BODY | {"inputs": [NUMBERS]}, "inputs"),
        (BODY | {"inputs": [NUMBERS, WORDS, WORDS]}, "inputs"),
        (BODY | {"inputs": [NUMBERS] * 33}, "request body"),
        (changed("words", name="others"), "inputs"),
        (changed("numbers", datatype="FP64"), "datatype of numbers"),
        (changed("numbers", datatype="COMPLEX"), "request body"),
        (changed("numbers", shape=[2]), "shape of numbers"),
        (changed("numbers", shape=[2, 3]), "shape of numbers"),
        (changed("numbers", shape=[-1, 2]), "request body"),
        (changed("numbers", shape=[1 << 31, 2]), "elements of numbers"),
        (changed("numbers", data=[1, 2, 3]), "elements of numbers"),
        (changed("numbers", data=[1, 2, 3, "4"]), "numbers"),
        (changed("numbers", data=[1, 2, 3, True]), "numbers"),
        (changed("numbers", data=[1, 2, 3, 1e300]), "numbers"),
        (changed("numbers", data=[[1, 2], 3, 4]), "numbers"),
        (changed("numbers", data=[[1, 2], "34"]), "numbers"),
        (changed("words", data=[["a"], "bc"]), "words"),
        (changed("words", data=["a", "b", 3]), "words"),
        (changed("words", data=None), "words"),
        (changed("words", parameters={"binary_data_size": 3}), "words"),
        (BODY | {"outputs": [{"name": "nothing"}]}, "outputs"),
        (BODY | {"outputs": [{"name": "words"}] * 2}, "outputs"),
        (BODY | {"parameters": {"leasehold_rows": 0}}, "leasehold_rows"),
        (BODY | {"parameters": {"leasehold_rows": 128}}, "leasehold_rows"),
        (BODY | {"parameters": {"leasehold_rows": "many"}}, "leasehold_rows"),
    ],
)
def test_what_is_wrong_is_named_and_costs_nothing(body: object, said: str) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", INFER, body)
        assert answer.status == 400
        assert answer.json()["leasehold_code"] == "invalid_request"
        assert f"About: {said}" in answer.json()["error"]
        assert await left(world, box) == 1000

    played(story)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (BODY | {"parameters": {"sequence_id": 3}}, "sequence_id"),
        (BODY | {"parameters": {"timeout": 3}}, "timeout"),
        (BODY | {"priority": 3}, "priority"),
        (BODY | {"outputs": [{"name": "words", "parameters": {"classification": 3}}]}, "classif"),
        (changed("words", parameters={"shared_memory_region": "x"}), "shared_memory_region"),
    ],
)
def test_what_is_not_done_is_refused_by_name(body: object, name: str) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", INFER, body)
        assert (answer.status, answer.json()["leasehold_code"]) == (400, "unsupported_parameter")
        assert name in answer.json()["error"]

    played(story)


def test_binary_data_must_be_all_there_and_no_more() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        for size, extra, header, said in (
            (16, b"x" * 15, None, "binary_data_size"),
            (16, b"x" * 17, None, "binary data"),
            (15, b"x" * 15, None, "elements of numbers"),
            (-1, b"", None, "binary_data_size"),
            (16, b"x" * 16, "10000", "inference-header-content-length"),
            (16, b"x" * 16, "-1", "inference-header-content-length"),
            (16, b"x" * 16, "many", "inference-header-content-length"),
        ):
            number = {k: v for k, v in NUMBERS.items() if k != "data"}
            number["parameters"] = {"binary_data_size": size}
            head = to_json({"inputs": [number, WORDS]})
            answer = await post(box, alice, head + extra, header or len(head))
            assert answer.status == 400
            assert f"About: {said}" in answer.json()["error"]

    played(story)


def test_a_body_that_is_compressed_is_refused() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        headers = alice.headers | {"content-encoding": "gzip"}
        answer = await request(box.application, "POST", INFER, BODY, headers=headers)
        assert answer.json()["leasehold_code"] == "unsupported_parameter"
        assert "content-encoding" in answer.json()["error"]

    played(story)


def test_a_tariff_without_a_price_for_it_gives_nothing_away() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", INFER, BODY)
        assert (answer.status, answer.json()["leasehold_code"]) == (403, "not_priced")

    played(story, tariff=PER_TOKEN)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/completions", {"prompt": "hello"}),
    ],
)
def test_words_are_not_free_under_a_tariff_of_rows(path: str, body: dict[str, Any]) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", path, body | {"model": MODEL})
        assert (answer.status, answer.code) == (403, "not_priced")

    played(story, tariff=Tariff(row=1))


def test_the_budget_must_cover_the_whole_of_it() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", INFER, BODY)
        assert (answer.status, answer.json()["leasehold_code"]) == (429, "insufficient_quota")
        assert answer.headers["x-should-retry"] == "false"
        fits = changed("words", shape=[2], data=["a", "b"])
        assert (await alice.call(box, "POST", INFER, fits)).status == 200

    played(story, units=12)


def test_more_output_than_the_rows_carry_is_refused_and_was_paid() -> None:
    async def too_large(world: World, box: Box, alice: Consumer) -> None:
        words = join([b"x" * 70_000])
        head = to_json(
            {
                "inputs": [
                    NUMBERS | {"shape": [1, 2], "data": [1, 2]},
                    {
                        "name": "words",
                        "shape": [1],
                        "datatype": "BYTES",
                        "parameters": {"binary_data_size": len(words)},
                    },
                ],
                "outputs": [{"name": "words"}],
            }
        )
        answer = await post(box, alice, head + words, len(head))
        assert (answer.status, answer.json()["leasehold_code"]) == (400, "answer_too_large")
        assert "11 units were charged" in answer.json()["error"]
        more = head.replace(b'{"inputs"', b'{"parameters":{"leasehold_rows":2},"inputs"')
        answer = await post(box, alice, more + words, len(more))
        assert answer.status == 200
        assert await left(world, box) == 1000 - 11 - 12

    async def run() -> None:
        world = await World.make(tariff=PRICES, body_bytes_max=100_000)
        box = await world.enclave().serving()
        await too_large(world, box, await world.consumer("alice", 1000))
        await world.end()

    run_simulated(run)


def test_rows_follow_from_declared_shapes() -> None:
    wide = Port("wide", DataType.FP32, (-1, 100_000))
    asks = Port("asks", DataType.INT8, (-1, 1))
    loaded = Loaded((Capability.INFER,), 1, 1, inputs=(asks,), outputs=(wide,))

    def parse(batch: int) -> kserve.Inference:
        one = {"name": "asks", "shape": [batch, 1], "datatype": "INT8", "data": [1] * batch}
        return kserve.parse(to_json({"inputs": [one]}), None, loaded)

    assert parse(1).rows == 7  # 400,000 bytes at 65,536 a row
    assert parse(1).bytes_max >= 400_000
    assert parse(20).rows == 123
    with pytest.raises(BadRequest) as refusal:
        parse(21)
    assert refusal.value.about == "bytes of outputs"
    assert refusal.value.got == 8_400_000 > TENSOR_BYTES_MAX


@pytest.mark.parametrize(
    "datatype", [one for one in DataType if one.value not in ("BYTES", "BF16")]
)
def test_numbers_survive_json_in_every_type(datatype: DataType) -> None:
    port = Port("x", datatype, (-1,))
    loaded = Loaded((Capability.INFER,), 1, 1, inputs=(port,), outputs=(port,))
    data = [True, False] if datatype is DataType.BOOL else [1, 0]
    one = {"name": "x", "shape": [2], "datatype": datatype.value, "data": data}
    wanted = kserve.parse(to_json({"inputs": [one]}), None, loaded)
    found = kserve.Inferred(1, wanted.inputs)
    body, size = kserve.answer(wanted, found, "m")
    assert size is None
    assert json.loads(body)["outputs"] == [one]
    wrong = one | {"data": [0.5 if datatype.value.startswith(("INT", "UINT")) else "x", 1]}
    with pytest.raises(BadRequest):
        kserve.parse(to_json({"inputs": [wrong]}), None, loaded)


def test_brain_floats_have_no_form_in_json() -> None:
    port = Port("x", DataType.BF16, (-1,))
    loaded = Loaded((Capability.INFER,), 1, 1, inputs=(port,), outputs=(port,))
    one: dict[str, Any] = {"name": "x", "shape": [1], "datatype": "BF16", "data": [1]}
    with pytest.raises(UnsupportedParameter, match="BF16 in JSON"):
        kserve.parse(to_json({"inputs": [one]}), None, loaded)
    del one["data"]
    one["parameters"] = {"binary_data_size": 2}
    head = to_json({"inputs": [one]})
    with pytest.raises(UnsupportedParameter, match="x: BF16 in JSON"):
        kserve.parse(head + b"\0\0", str(len(head)), loaded)
    head = to_json({"inputs": [one], "parameters": {"binary_data_output": True}})
    assert kserve.parse(head + b"\0\0", str(len(head)), loaded).binary == {"x"}


def test_a_language_model_takes_no_tensors() -> None:
    with pytest.raises(UnsupportedParameter, match="tensors"):
        kserve.parse(b'{"inputs":[]}', None, Loaded((Capability.TEXT,), 64, 8))


def test_the_model_and_the_server_describe_themselves() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        for path, expected in (
            ("/v2", {"name": "leasehold", "version": "1", "extensions": ["binary_tensor_data"]}),
            ("/v2/health/live", {"live": True}),
            ("/v2/health/ready", {"ready": True}),
        ):
            answer = await request(box.application, "GET", path)
            assert (answer.status, answer.json()) == (200, expected)
        for path in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/1"):
            answer = await alice.call(box, "GET", path)
            assert answer.json()["inputs"] == [
                {"name": "numbers", "datatype": "FP32", "shape": [-1, 2]},
                {"name": "words", "datatype": "BYTES", "shape": [-1]},
            ]
            assert (await request(box.application, "GET", path)).status == 401
            ready = await alice.call(box, "GET", f"{path}/ready")
            assert ready.json() == {"name": MODEL, "ready": True}

    played(story)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v2/models/other", "model_not_found"),
        ("GET", "/v2/models/other/ready", "model_not_found"),
        ("POST", "/v2/models/other/infer", "model_not_found"),
        ("GET", f"/v2/models/{MODEL}/versions/2", "unknown_endpoint"),
        ("GET", f"/v2/models/{MODEL}/infer", "unknown_endpoint"),
        ("GET", f"/v2/models/{MODEL}/stats", "unknown_endpoint"),
        ("POST", "/v2/repository/index", "unknown_endpoint"),
        ("GET", "/v2/models/{name}", "model_not_found"),
    ],
)
def test_what_is_not_there(method: str, path: str, code: str) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, method, path, BODY)
        assert (answer.status, answer.json()["leasehold_code"]) == (404, code)

    played(story)


def test_after_a_stop_it_is_alive_and_not_ready() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        await world.custodian.stop(OPERATOR, "loan", LOAN, "drill")
        await asyncio.sleep(2)
        ready = await request(box.application, "GET", "/v2/health/ready")
        assert (ready.status, ready.json()) == (503, {"ready": False})
        assert (await request(box.application, "GET", "/v2/health/live")).status == 200
        answer = await alice.call(box, "POST", INFER, BODY)
        assert answer.json()["leasehold_code"] == "loan_stopped"

    played(story)

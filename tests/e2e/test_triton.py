"""Other people's client of the Open Inference Protocol, as it is installed, against a real enclave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from e2e.conftest import MODELS, SCANS
from e2e.house import House, two_heads_table
from leasehold.consumer.answers import Exchange
from leasehold.core.encoding import to_json
from leasehold.net.certificates import ENCLAVE_NAME

MODEL = MODELS[SCANS]


@dataclass(frozen=True, slots=True)
class Asking:
    """The client, and the header that it sends with each request."""

    client: triton.InferenceServerClient
    headers: dict[str, str]


@pytest.fixture
def asking(house: House, tmp_path: Path) -> Iterator[Asking]:
    """A client that has nothing of Leasehold but the enclave's verified certificate."""
    with house.connect(SCANS, "alice") as enclave:
        trusted = tmp_path / "enclave.pem"
        trusted.write_text(enclave.verified.certificate)
    client = triton.InferenceServerClient(
        f"127.0.0.1:{house.ports[SCANS]}",
        ssl=True,
        ssl_options={"ca_certs": str(trusted), "server_hostname": ENCLAVE_NAME},
    )
    yield Asking(client, {"authorization": f"Bearer {house.keys['alice']}"})
    client.close()


def inputs(x: np.ndarray, words: np.ndarray, *, binary: bool) -> list[triton.InferInput]:
    """Both inputs of the model."""
    made = [
        triton.InferInput("x", x.shape, "FP32"),
        triton.InferInput("words", words.shape, "BYTES"),
    ]
    for one, data in zip(made, (x, words), strict=True):
        one.set_data_from_numpy(data, binary_data=binary)
    return made


def test_it_finds_the_server_and_its_model(asking: Asking) -> None:
    client, headers = asking.client, asking.headers
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL, headers=headers)
    assert client.is_model_ready(MODEL, "1", headers=headers)
    assert not client.is_model_ready("other", headers=headers)
    assert not client.is_model_ready(MODEL)
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    found = client.get_model_metadata(MODEL, headers=headers)
    assert found["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
    assert found["outputs"][1] == {"name": "labels", "datatype": "BYTES", "shape": [-1]}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_answers_are_right_and_paid(
    house: House, asking: Asking, binary_in: bool, binary_out: bool
) -> None:
    x = np.random.default_rng(3).standard_normal((5, 3)).astype(np.float32)
    words = np.array(["lease", "é", ""], object)
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("labels", "scores")
    ]
    answer = asking.client.infer(
        MODEL,
        inputs(x, words, binary=binary_in),
        outputs=outputs,
        request_id="seven",
        headers=asking.headers,
    )
    assert np.allclose(answer.as_numpy("scores"), x @ two_heads_table(), atol=1e-6)
    labels = [one if isinstance(one, str) else one.decode() for one in answer.as_numpy("labels")]
    assert labels == list(words)
    assert answer.get_response()["id"] == "seven"


def test_without_outputs_all_of_them_come(asking: Asking) -> None:
    x, words = np.ones((1, 3), np.float32), np.array(["a"], object)
    answer = asking.client.infer(MODEL, inputs(x, words, binary=True), headers=asking.headers)
    assert answer.as_numpy("scores").tolist() == [[6.0, 9.0]]
    assert answer.as_numpy("labels").shape == (1,)


def test_refusals_are_said_in_its_words(asking: Asking) -> None:
    x, words = np.ones((1, 4), np.float32), np.array(["a"], object)
    for more, status, said in (
        ({"headers": asking.headers}, "400", "shape of x"),
        ({}, "401", "API key"),
        ({"headers": asking.headers, "priority": 3}, "400", "priority"),
        ({"headers": asking.headers, "sequence_id": 3}, "400", "sequence"),
        ({"headers": asking.headers, "request_compression_algorithm": "gzip"}, "400", "encoding"),
    ):
        with pytest.raises(InferenceServerException, match=said) as refusal:
            asking.client.infer(MODEL, inputs(x, words, binary=True), **more)
        assert refusal.value.status() == status
    with pytest.raises(InferenceServerException, match="model"):
        asking.client.infer("other", inputs(x, words, binary=True), headers=asking.headers)


def test_an_answer_has_a_receipt_for_its_request_and_rows(house: House) -> None:
    given = [
        {"name": "x", "shape": [7, 3], "datatype": "FP32", "data": [1] * 21},
        {"name": "words", "shape": [1], "datatype": "BYTES", "data": ["a"]},
    ]
    body = to_json({"inputs": given})
    with house.connect(SCANS, "alice") as enclave, enclave.http_client() as client:
        answer = client.post(f"/v2/models/{MODEL}/infer", content=body)
        checked = enclave.receipt(
            Exchange(answer.headers["leasehold-receipt-id"], body, answer.content)
        )
    assert checked.content_checked
    assert checked.receipt.units == 10 + 7

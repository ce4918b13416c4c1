"""W-29: an enclave as under Gramine, its engine in its own process: lent, used, metered, stopped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from demo.stage import Actor, free_port

from e2e.house import READY_SECONDS, House, children, ended, model_memory, refused, two_heads_table
from leasehold.net.certificates import ENCLAVE_NAME
from leasehold.worker import sandbox

AS_GRAMINE = Path(__file__).parent / "as_gramine.py"
ONNX, LLAMA, MODEL = "scans", "texts", "two-heads"
UNSAFE = ("--attester", "gramine", "--unsafe-engine-in-process")
SAYS = "the configuration says unsafe_engine_in_process"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A lender of a graph and of a language model, to Gramine."""
    made = House(tmp_path_factory.mktemp("gramine"))
    try:
        made.found()
        made.serve()
        made.seal_graph(MODEL)
        made.seal_tiny("tiny")
        made.ports = {ONNX: free_port(), LLAMA: free_port()}
        tariff = ("--tariff", "request=10,row=1")
        made.lend(ONNX, MODEL, "onnx", *tariff, cap=1000, configured=UNSAFE)
        made.lend(LLAMA, "tiny", "llama", cap=1000, configured=UNSAFE)
        made.enrol("alice", {ONNX: 1000, LLAMA: 1000})
        yield made
    finally:
        made.end()


def start(house: House, loan: str) -> Actor:
    """An enclave under what passes for Gramine."""
    home = house.folder / f"home-{loan}"
    home.mkdir()
    return house.start(
        *(loan, sys.executable, AS_GRAMINE, "enclave", "run"),
        *("--config", house.configuration(loan), "--platform", house.machine),
        *("--custodian", f"{house.address}:{house.port}"),
        *("--listen", f"127.0.0.1:{house.ports[loan]}"),
        home=home,
    )


def test_a_listener_in_the_governors_process_is_refused_before_anything_is_asked_for(
    house: House,
) -> None:
    attested = len(house.audit("instance.accept"))
    actor = start(house, LLAMA)
    ended(actor, "engine_needs_process", 4)
    said = actor.log.read_text()
    assert "engine llama" in said
    assert "HTTP listener that it cannot close" in said
    assert "attested" not in said
    assert "loading" not in said
    assert len(house.audit("instance.accept")) == attested


def test_gramine_without_the_word_is_no_configuration(house: House) -> None:
    ran = house.order(
        *("custodian", "configure", "--loan", ONNX, "--engine", "onnx", "--attester", "gramine"),
    )
    refused(ran, "bad_setting", 2)
    assert "unsafe_engine_in_process" in ran.err


def test_a_graph_is_lent_used_metered_and_stopped_in_one_process(
    house: House, tmp_path: Path
) -> None:
    actor = start(house, ONNX)
    actor.event("serving", seconds=READY_SECONDS)
    assert actor.event("unsafe_engine_in_process")
    ready = actor.event("engine_ready")
    assert (ready["layers"], ready["absent"]) == ([], list(sandbox.NAMES))
    assert children(actor.process.pid) == []
    assert model_memory(actor.process.pid) == []
    with house.connect(ONNX, "alice") as enclave:
        assert SAYS in [str(one) for one in enclave.verified.verdict.findings]
        trusted = tmp_path / "enclave.pem"
        trusted.write_text(enclave.verified.certificate)
    client = triton.InferenceServerClient(
        f"127.0.0.1:{house.ports[ONNX]}",
        ssl=True,
        ssl_options={"ca_certs": str(trusted), "server_hostname": ENCLAVE_NAME},
    )
    x, words = np.ones((4, 3), np.float32), np.array([b"a", b"b"], np.object_)
    asked = [
        triton.InferInput("x", x.shape, "FP32"),
        triton.InferInput("words", words.shape, "BYTES"),
    ]
    for one, data in zip(asked, (x, words), strict=True):
        one.set_data_from_numpy(data)
    headers = {"authorization": f"Bearer {house.keys['alice']}"}
    answer = client.infer(MODEL, asked, headers=headers)
    client.close()
    np.testing.assert_array_equal(answer.as_numpy("scores"), x @ two_heads_table())
    stopped = house.operate("stop", "loan", ONNX, "--reason", "enough", "--wait")
    assert "proved that it stopped" in stopped.out
    assert actor.process.wait(READY_SECONDS) == 0  # it ends: what the engine freed was not wiped
    assert actor.events()[-1]["event"] == "stopped"
    budget = house.budgets(ONNX)["alice"]
    assert (budget.settled, budget.outstanding, budget.written_off) == (14, 0, 0)

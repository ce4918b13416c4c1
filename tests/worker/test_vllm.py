"""W-23 and W-24: what we do with vLLM, against a stand-in that has its names, and a record of those.

vLLM itself is not here: `python -m tools.vllm_interface WHEEL --load` runs the loader under its own base class.
"""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from models.llama_folder import folder_of, safetensors
from tests.worker.conftest import ROOT, InMemory, engine_named
from tests.worker.test_engines import Listener
from tests.worker.test_transformers import FOLDERS, QUESTIONS, asks, said

from leasehold.core.frames import Chat, Generate, Reason, Sampling, Settings, Text, Tokens
from leasehold.errors import BadModel, InputTooLong, UnsupportedParameter, WorkerFailed
from leasehold.worker import shards

HERE = Path(__file__).parent
RECORD = json.loads((HERE / "vllm_interface.json").read_text())
GREEDY = Sampling(temperature=0.0)
SETTINGS = Settings(context_tokens=1024, slots=4, threads=2, seed=7)
OURS = ("vllm", "leasehold.worker.vllm_loader", "leasehold.worker.vllm_engine")


@pytest.fixture(scope="module")
def vllm() -> Iterator[Any]:
    """The stand-in, where vLLM would be imported from."""
    sys.path.insert(0, str(HERE / "standin"))
    import_module("vllm.v1.engine.llm_engine")
    yield import_module("leasehold.worker.vllm_engine")
    sys.path.remove(str(HERE / "standin"))
    for name in [one for one in sys.modules if one.split(".")[0] == "vllm" or one in OURS]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def files() -> Mapping[str, bytes]:
    """The model of the repository in three safetensors files."""
    return folder_of(ROOT / "models/tiny/tiny.gguf", "F32", shards=3)


@pytest.fixture
def engine(vllm: Any, files: Mapping[str, bytes], in_memory: InMemory) -> Any:
    """It, loaded."""
    made = vllm.VllmEngine()
    made.load([in_memory(name, data) for name, data in files.items()], SETTINGS)
    return made


def started() -> Any:
    """The stand-in that was started last."""
    return import_module("vllm.v1.engine.llm_engine").STARTED[-1]


# The record ------------------------------------------------------------------------------------------


def function(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def written(found: Any) -> list[str]:
    """As the record writes signatures."""
    kinds = inspect.Parameter
    shown = list(inspect.signature(getattr(found, "__func__", found)).parameters.values())
    names = [
        one.name + ("" if one.default is kinds.empty else "=")
        for one in shown
        if one.kind is kinds.POSITIONAL_OR_KEYWORD
    ]
    return names + (["**"] if any(one.kind is kinds.VAR_KEYWORD for one in shown) else [])


STANDING_IN = [name for name in RECORD["functions"] if not name.startswith("vllm.outputs")]


@pytest.mark.parametrize("name", STANDING_IN)
def test_the_stand_in_has_the_parameters_of_the_record(vllm: Any, name: str) -> None:
    assert written(function(name)) == RECORD["functions"][name]


def test_our_loader_and_parser_have_the_parameters_of_their_base_classes(vllm: Any) -> None:
    loader = import_module("leasehold.worker.vllm_loader")
    base = "vllm.model_executor.model_loader.base_loader:BaseModelLoader"
    for name in ("__init__", "download_model", "load_weights"):
        ours = written(getattr(loader.LeaseholdLoader, name))
        assert ours == RECORD["functions"][f"{base}.{name}"]
    parse = RECORD["functions"]["vllm.transformers_utils.config_parser_base:ConfigParserBase.parse"]
    assert written(loader.LeaseholdConfigParser.parse) == parse


def test_what_we_set_is_there(vllm: Any, engine: Any) -> None:
    """Arguments of the engine, choices of a request, parts of an output, switches."""
    assert started().args.keys() <= set(RECORD["fields"]["vllm.engine.arg_utils:EngineArgs"])
    words = engine._loaded()[0]
    request = Generate(1, Text("a"), 4, Sampling(probs=3))
    chosen = vllm.parameters(request, words, [1]).chosen
    assert chosen.keys() <= set(RECORD["fields"]["vllm.sampling_params:SamplingParams"])
    assert "DELTA" in RECORD["fields"]["vllm.sampling_params:RequestOutputKind"]
    assert "model_loader_extra_config" in RECORD["fields"]["vllm.config.load:LoadConfig"]
    assert "prompt_token_ids" in RECORD["fields"]["vllm.inputs.llm:TokensPrompt"]
    assert {"token_ids", "logprobs", "finish_reason"} <= set(
        RECORD["fields"]["vllm.outputs:CompletionOutput"]
    )
    assert {"logprob", "rank"} <= set(RECORD["fields"]["vllm.logprobs:Logprob"])
    assert {"request_id", "outputs", "finished"} <= set(
        RECORD["functions"]["vllm.outputs:RequestOutput.__init__"]
    )
    source = ast.parse(inspect.getsource(vllm))
    switched = {
        one.targets[0].attr
        for one in source.body
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Attribute)
    }
    assert switched == set(RECORD["switches"])


def test_every_process_of_vllm_finds_the_plugin() -> None:
    assert RECORD["plugins"] == ["vllm.general_plugins"]
    (found,) = entry_points(group="vllm.general_plugins", name="leasehold")
    assert found.value == "leasehold.worker.vllm_loader:register"


# The loader ------------------------------------------------------------------------------------------


def test_it_answers_as_the_transformers_engine_does(
    engine: Any, files: Mapping[str, bytes], in_memory: InMemory
) -> None:
    other = engine_named("transformers")
    other.load([in_memory(name, data) for name, data in files.items()], SETTINGS)
    prompts: list[Chat | Text] = [asks(one["question"]) for one in QUESTIONS["questions"][:8]]
    prompts += [Text(one["question"]) for one in QUESTIONS["completions"]]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: said(engine, one), prompts)) == [
            said(other, one) for one in prompts
        ]


def test_vllm_is_told_of_descriptors_and_of_nothing_else(
    engine: Any, files: Mapping[str, bytes]
) -> None:
    """What goes to its processes, and maybe into its log: no path, no key, no content."""
    args = started().args
    told = args["model_loader_extra_config"]["files"]
    assert {name: size for name, size, _ in told} == {
        name: len(data) for name, data in files.items()
    }
    assert all(isinstance(fd, int) for _, _, fd in told)
    assert (args["model"], args["load_format"], args["config_format"]) == ("leasehold",) * 3
    assert args["skip_tokenizer_init"]
    assert not args["trust_remote_code"]
    assert not args["enable_prefix_caching"]


def test_neighbours_come_in_one_copy(
    vllm: Any, in_memory: InMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    loader = import_module("leasehold.worker.vllm_loader")
    weights = {f"{at:02d}": np.full((4, 64), at, np.float32) for at in range(10)}  # 1 KiB each
    stored = shards.read([in_memory("model.safetensors", safetensors(weights, "F32"))])
    assert [len(run) for run in loader.runs(list(stored.items()))] == [10]
    monkeypatch.setattr(loader, "COPY_BYTES_MAX", 3 << 10)
    assert [len(run) for run in loader.runs(list(stored.items()))] == [3, 3, 3, 1]
    monkeypatch.setattr(loader, "COPY_BYTES_MAX", 100)  # less than one: each alone
    assert [len(run) for run in loader.runs(list(stored.items()))] == [1] * 10
    for name, tensor in loader.tensors(stored, "cpu"):
        assert tensor.shape == (4, 64)
        assert float(tensor.min()) == float(tensor.max()) == int(name)


def test_the_same_descriptor_serves_a_process_that_inherits_it(
    vllm: Any, files: Mapping[str, bytes], in_memory: InMemory
) -> None:
    """vLLM's workers of other ranks get the numbers, and inherit the descriptors behind them."""
    loader = import_module("leasehold.worker.vllm_loader")
    memory = [in_memory(name, data) for name, data in files.items()]
    code = (
        "import json, sys, types\n"
        "from leasehold.worker import shards, vllm_loader\n"
        "said = types.SimpleNamespace(model_loader_extra_config=json.loads(sys.argv[1]))\n"
        "print(len(shards.read(vllm_loader.LeaseholdLoader(said)._files)))"
    )
    command = [sys.executable, "-c", code, json.dumps(loader.described(memory))]
    done = subprocess.run(
        command,
        env={"PYTHONPATH": str(HERE / "standin")},
        pass_fds=[file.fd for file in memory],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["38"]


@pytest.mark.parametrize("told", [None, {}, {"files": [["a", 1]]}, {"files": [["a", "x", 3]]}])
def test_a_loader_without_files_is_refused(vllm: Any, told: object) -> None:
    loader = import_module("leasehold.worker.vllm_loader")
    with pytest.raises(BadModel):
        loader.LeaseholdLoader(SimpleNamespace(model_loader_extra_config=told))


def test_a_model_that_is_not_filled_is_refused(vllm: Any, in_memory: InMemory) -> None:
    import numpy as np
    import torch

    loader = import_module("leasehold.worker.vllm_loader")
    file = in_memory(
        "model.safetensors", safetensors({"weight": np.ones((2, 2), np.float32)}, "F32")
    )
    made = loader.LeaseholdLoader(
        SimpleNamespace(model_loader_extra_config=loader.described([file]))
    )
    model: Any = torch.nn.Linear(2, 2)
    model.load_weights = lambda pairs: {name for name, _ in pairs}
    with pytest.raises(BadModel) as refusal:
        made.load_weights(model, None)
    assert refusal.value.got == "nothing for bias"


def test_code_from_elsewhere_and_other_models_are_refused(vllm: Any) -> None:
    loader = import_module("leasehold.worker.vllm_loader")
    for model, code in (("leasehold", True), ("somebody/model", False)):
        with pytest.raises(BadModel):
            loader.LeaseholdConfigParser().parse(model, code)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_none_is_refused(
    vllm: Any, files: Mapping[str, bytes], in_memory: InMemory, name: str
) -> None:
    changed = FOLDERS[name](dict(files))
    with pytest.raises(BadModel):
        vllm.VllmEngine().load(
            [in_memory(title, data) for title, data in changed.items()], SETTINGS
        )


# Requests --------------------------------------------------------------------------------------------


def test_what_nobody_wants_is_aborted(engine: Any) -> None:
    listener = Listener(most=3)
    done = engine.generate(Generate(1, Tokens((9,)), 1000, GREEDY), listener)
    assert (done.reason, done.output_tokens) == (Reason.CANCELLED, listener.tokens)
    assert listener.tokens == 3
    said(engine, Text("a"), most=2)  # a step later
    assert len(started().aborted) == 1
    assert not started().open


def test_it_ends_by_length_by_an_end_token_and_by_a_stop_string(engine: Any) -> None:
    done = engine.generate(Generate(1, asks("What is a custodian?"), 3, GREEDY), Listener())
    assert (done.reason, done.output_tokens) == (Reason.LENGTH, 3)
    listener = Listener()
    done = engine.generate(Generate(2, asks("What is a custodian?"), 90, GREEDY), listener)
    assert (done.reason, done.output_tokens) == (Reason.STOP, listener.tokens)
    stop = Sampling(temperature=0.0, stop=("model",))
    listener = Listener()
    done = engine.generate(Generate(3, asks("What is a custodian?"), 90, stop), listener)
    assert (done.reason, listener.text) == (Reason.STOP, "The custodian owns the ")
    with pytest.raises(InputTooLong):
        engine.generate(Generate(4, Tokens((5,) * 1024), 4, GREEDY), Listener())


def test_probabilities_have_their_own_token_first(engine: Any) -> None:
    rows: list[Any] = []

    def emit(_text: str, _count: int, _calls: object = (), probs: Any = ()) -> bool:
        rows.extend(probs)
        return True

    for probs in (1, 3):
        engine.generate(Generate(1, Text("a"), 4, Sampling(seed=3, probs=probs)), emit)
        assert [len(row) for row in rows] == [probs] * len(rows)
        rows.clear()


def test_schemas_and_grammars_are_refused(engine: Any) -> None:
    for sampling in (Sampling(json_schema="{}"), Sampling(grammar="start: x")):
        with pytest.raises(UnsupportedParameter):
            engine.generate(Generate(1, Text("a"), 4, sampling), Listener())


def test_a_vllm_that_fails_fails_the_requests(engine: Any) -> None:
    started().failure = RuntimeError("CUDA error")
    with pytest.raises(WorkerFailed):
        engine.generate(Generate(1, Text("a"), 4, GREEDY), Listener())
    started().failure = None
    assert said(engine, Text("a"), most=4)

"""What our plugin and engine use of vLLM, read out of its source, and kept in tests/worker/vllm_interface.json.

vLLM needs a hundred packages and a GPU, so the tests have only this record. With a wheel of it:
`python -m tools.vllm_interface WHEEL` compares, `--write` writes, `--load` runs our loader under the
wheel's own base class, with stubs for what that imports. Nothing else of the wheel is run.
"""

import ast
import contextlib
import json
import os
import sys
import tempfile
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

RECORD: Final = Path(__file__).parents[1] / "tests/worker/vllm_interface.json"
FUNCTIONS: Final = {
    "vllm.model_executor.model_loader.base_loader": [
        "BaseModelLoader.__init__",
        "BaseModelLoader.download_model",
        "BaseModelLoader.load_weights",
        "BaseModelLoader.load_model",
    ],
    "vllm.model_executor.model_loader": ["register_model_loader", "get_model_loader"],
    "vllm.transformers_utils.config": ["register_config_parser"],
    "vllm.transformers_utils.config_parser_base": ["ConfigParserBase.parse"],
    "vllm.v1.engine.llm_engine": [
        "LLMEngine.from_engine_args",
        "LLMEngine.add_request",
        "LLMEngine.step",
        "LLMEngine.abort_request",
    ],
    "vllm.outputs": ["RequestOutput.__init__"],
}
FIELDS: Final = {
    "vllm.engine.arg_utils": ["EngineArgs"],
    "vllm.sampling_params": ["SamplingParams", "RequestOutputKind"],
    "vllm.outputs": ["CompletionOutput"],
    "vllm.logprobs": ["Logprob"],
    "vllm.config.load": ["LoadConfig"],
    "vllm.inputs.llm": ["TokensPrompt"],
}
QUANTIZATION: Final = "vllm.model_executor.layers.quantization.online.base"
SWITCHES: Final = ("VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "VLLM_ENABLE_V1_MULTIPROCESSING")


def read(wheel: Path) -> dict[str, Any]:
    """The interface of a wheel. Raises KeyError for a name that it no longer has."""
    with zipfile.ZipFile(wheel) as archive:
        functions = {
            f"{module}:{name}": _signature(_find(_parsed(archive, module), name))
            for module, names in FUNCTIONS.items()
            for name in names
        }
        fields = {
            f"{module}:{name}": _fields(_find(_parsed(archive, module), name))
            for module, names in FIELDS.items()
            for name in names
        }
        switches = {
            one.target.id
            for one in ast.walk(_parsed(archive, "vllm.envs"))
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        }
        groups = [
            one.value.value
            for one in _parsed(archive, "vllm.plugins").body
            if isinstance(one, ast.Assign)
            and isinstance(one.value, ast.Constant)
            and ast.unparse(one.targets[0]) == "DEFAULT_PLUGINS_GROUP"
        ]
    return {
        "version": wheel.name.split("-")[1],
        "functions": functions,
        "fields": fields,
        "switches": sorted(switches & set(SWITCHES)),
        "plugins": groups,
    }


def _parsed(archive: zipfile.ZipFile, module: str) -> ast.Module:
    path = module.replace(".", "/")
    names = set(archive.namelist())
    found = next(name for name in (f"{path}.py", f"{path}/__init__.py") if name in names)
    return ast.parse(archive.read(found))


def _find(tree: ast.Module, name: str) -> Any:
    found: Any = tree
    for part in name.split("."):
        found = {one.name: one for one in found.body if hasattr(one, "name")}[part]
    return found


def _signature(function: Any) -> list[str]:
    """Names of parameters in order; `*` before those by name, `=` after one that may be left out."""
    given = function.args
    places = [*given.posonlyargs, *given.args]
    without = len(places) - len(given.defaults)
    names = [one.arg + ("=" if at >= without else "") for at, one in enumerate(places)]
    if given.kwonlyargs:
        names.append("*")
        pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
        names += [one.arg + ("=" if default is not None else "") for one, default in pairs]
    return [*names, *(["**"] if given.kwarg else [])]


def _fields(found: Any) -> list[str]:
    annotated = [one.target.id for one in found.body if isinstance(one, ast.AnnAssign)]
    members = [one.targets[0].id for one in found.body if isinstance(one, ast.Assign)]
    return annotated or members


def load(wheel: Path) -> None:
    """Load the tiny model by our loader, driven by `load_model` of the wheel's base class."""
    import torch
    from models.llama_folder import folder_of
    from transformers import LlamaConfig, LlamaForCausalLM

    from leasehold.core.frames import MemoryFile

    class Model(LlamaForCausalLM):  # type: ignore[misc]
        """As vLLM's models do: takes pairs, tells names."""

        def load_weights(self, weights: Iterator[tuple[str, Any]]) -> set[str]:
            own, taken = dict(self.named_parameters()), set()
            for name, tensor in weights:
                own[name].data.copy_(tensor)
                taken.add(name)
            return taken

    files = folder_of(Path("models/tiny/tiny.gguf"), "F32", 3)
    config = LlamaConfig(**json.loads(files["config.json"]))
    with (
        _under(wheel, {"initialize_model": lambda **_: Model(config)}),
        tempfile.TemporaryDirectory() as place,
    ):
        memory = []
        for name, data in files.items():
            path = Path(place, name)
            path.write_bytes(data)
            memory.append(MemoryFile(name, len(data), os.open(path, os.O_RDONLY)))
        from leasehold.worker import vllm_loader

        said = types.SimpleNamespace(
            model_loader_extra_config=vllm_loader.described(memory), device="cpu"
        )
        loader = vllm_loader.LeaseholdLoader(said)
        everything = types.SimpleNamespace(
            device_config=types.SimpleNamespace(device="cpu"), load_config=said, quant_config=None
        )
        made = loader.load_model(everything, types.SimpleNamespace(dtype=torch.float32))
    ids = torch.tensor([[0, 5, 40]])
    print(f"{wheel.name}: loaded {sum(one.numel() for one in made.parameters())} weights")
    print(f"its logits are finite: {bool(made(input_ids=ids).logits.isfinite().all())}")


class _Stub(types.ModuleType):
    """A module that has whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


@contextlib.contextmanager
def _under(wheel: Path, names: dict[str, Any]) -> Iterator[None]:
    """Put modules of stubs, and the wheel's own base classes, where they are imported from."""
    import torch

    real = (
        "vllm.model_executor.model_loader.base_loader",
        "vllm.transformers_utils.config_parser_base",
    )
    stubs = [
        *("vllm", "vllm.envs", "vllm.config", "vllm.config.load", "vllm.logger", "vllm.platforms"),
        *("vllm.tracing", "vllm.utils", "vllm.utils.mem_utils", "vllm.utils.torch_utils"),
        *("vllm.model_executor", "vllm.model_executor.model_loader", "vllm.transformers_utils"),
        *("vllm.model_executor.model_loader.reload", "vllm.model_executor.model_loader.utils"),
        *("vllm.transformers_utils.config", "vllm.model_executor.layers"),
        "vllm.model_executor.layers.quantization",
        *(QUANTIZATION.rpartition(".")[0], QUANTIZATION),
    ]
    made: dict[str, Any] = {name: _Stub(name) for name in stubs}
    for name, module in made.items():
        module.__path__ = []
        above, _, last = name.rpartition(".")
        if above:
            setattr(made[above], last, module)
    torch.accelerator.empty_cache = lambda: None  # there is none
    quiet = _Stub("logger")
    made["vllm.logger"].init_logger = lambda _: quiet
    made["vllm.tracing"].instrument = lambda **_: lambda function: function
    made["vllm.platforms"].current_platform = _Stub("platform")
    made["vllm.envs"].VLLM_LOG_MODEL_INSPECTION = False
    made["vllm.utils.torch_utils"].set_default_torch_dtype = lambda _: contextlib.nullcontext()
    made[QUANTIZATION].OnlineQuantizationConfig = type("OnlineQuantizationConfig", (), {})
    vars(made["vllm.model_executor.model_loader.utils"]).update(names)
    sys.modules.update(made)
    with zipfile.ZipFile(wheel) as archive:
        for name in real:
            module = types.ModuleType(name)
            sys.modules[name] = module
            source = archive.read(name.replace(".", "/") + ".py")
            exec(compile(source, name, "exec"), vars(module))  # noqa: S102
    yield


def main(arguments: list[str]) -> int:
    """Gives the exit status: 1 where the wheel differs from the record."""
    wheel = Path(arguments[0])
    found = read(wheel)
    if "--write" in arguments:
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
    if "--load" in arguments:
        load(wheel)
    kept = json.loads(RECORD.read_text())
    for part in ("functions", "fields"):
        for name in kept[part]:
            if kept[part][name] != found[part][name]:
                print(f"{name}: got {found[part][name]}, expected {kept[part][name]}")
    print("as recorded" if kept == found else "not as recorded")
    return 0 if kept == found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

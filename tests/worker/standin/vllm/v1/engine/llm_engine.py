"""Stand-in: an engine that is stepped. It computes each text anew for each token."""

from __future__ import annotations

from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaForCausalLM

from leasehold.core.frames import Sampling
from leasehold.worker.sampler import Sampler
from vllm.model_executor.model_loader import get_model_loader
from vllm.transformers_utils.config import PARSERS

STARTED: list[LLMEngine] = []  # for tests to look at


class Model(LlamaForCausalLM):
    """Takes weights as vLLM's models do."""

    def load_weights(self, weights: Any) -> set[str]:
        """Gives the names of the parameters that were filled."""
        own, taken = dict(self.named_parameters()), set()
        for name, tensor in weights:
            own[name].data.copy_(tensor)
            taken.add(name)
        return taken


class LLMEngine:
    """Serves whoever was added, a token each step."""

    def __init__(self, args: dict[str, Any]) -> None:
        for plugin in entry_points(group="vllm.general_plugins"):
            plugin.load()()
        parser = PARSERS[args["config_format"]]()
        _, config = parser.parse(args["model"], args["trust_remote_code"])
        wanted = SimpleNamespace(
            load_format=args["load_format"],
            model_loader_extra_config=args["model_loader_extra_config"],
        )
        loader = get_model_loader(wanted)
        loader.download_model(config)
        self.model = loader.load_model(SimpleNamespace(make=Model), config)
        self.args, self.open, self.aborted = args, {}, []
        self.failure: Exception | None = None
        STARTED.append(self)

    @classmethod
    def from_engine_args(
        cls,
        engine_args: Any,
        usage_context: Any = None,
        stat_loggers: Any = None,
        enable_multiprocessing: bool = False,
    ) -> LLMEngine:
        """As vLLM's."""
        assert not enable_multiprocessing
        return cls(engine_args.chosen)

    def add_request(
        self,
        request_id: str,
        prompt: Any,
        params: Any,
        arrival_time: float | None = None,
        lora_request: Any = None,
        tokenization_kwargs: Any = None,
        trace_headers: Any = None,
        priority: int = 0,
        session_id: str | None = None,
        prompt_text: str | None = None,
        kv_hints: Any = None,
    ) -> str:
        """As vLLM's."""
        chosen = params.chosen
        sampling = Sampling(
            temperature=chosen["temperature"],
            top_p=chosen["top_p"],
            top_k=chosen["top_k"],
            frequency_penalty=chosen["frequency_penalty"],
            presence_penalty=chosen["presence_penalty"],
            probs=1 + (chosen["logprobs"] or 0),
        )
        sampler = Sampler(sampling, chosen["seed"])
        ids = list(prompt["prompt_token_ids"])
        self.open[request_id] = SimpleNamespace(ids=ids, made=0, sampler=sampler, chosen=chosen)
        return request_id

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        """As vLLM's."""
        self.aborted += request_ids
        for one in request_ids:
            self.open.pop(one, None)

    def step(self) -> list[Any]:
        """As vLLM's: what each request made now."""
        if self.failure is not None:
            raise self.failure
        return [self._make(name) for name in list(self.open)]

    def _make(self, name: str) -> Any:
        one = self.open[name]
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([one.ids])).logits[0, -1]
        token, row = one.sampler.choose(logits.float().numpy())
        one.ids.append(token)
        one.made += 1
        stopped = token in one.chosen["stop_token_ids"]
        finished = stopped or one.made == one.chosen["max_tokens"]
        reason = None if not finished else "stop" if stopped else "length"
        if finished:
            del self.open[name]
        said = {
            key: SimpleNamespace(logprob=log, rank=at) for at, (key, log) in enumerate(row[1:], 1)
        }
        said.setdefault(token, SimpleNamespace(logprob=row[0][1], rank=999))
        output = SimpleNamespace(
            finish_reason=reason,
            token_ids=[token],
            logprobs=[said] if one.chosen["logprobs"] else None,
        )
        return SimpleNamespace(request_id=name, outputs=[output], finished=finished)

"""Asks a GGUF model questions through xllamacpp, in process, and counts exact answers."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import xllamacpp

from models.tiny.corpus import Pair

CONTEXT: Final = 1024
ANSWER_TOKENS_MAX: Final = 900
THREADS: Final = 1  # two wait for each other by spinning: 100 times slower on a busy machine
QUIET: Final = 1  # verbosity: errors only


def load(model: Path, listener: Path) -> Any:
    """Load a model; its HTTP listener, which it always opens, gets a socket file and a random key.

    `listener` is the path of that socket: it ends in `.sock`, and nothing is there yet.
    """
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = CONTEXT
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = THREADS
    params.cpuparams_batch.n_threads = THREADS
    params.api_keys = [secrets.token_hex(32)]
    params.hostnames = [str(listener)]
    params.ui = False
    params.endpoint_slots = False
    params.cache_ram_mib = 0
    params.warmup = False
    params.verbosity = QUIET
    return xllamacpp.Server(params)


def chat(
    server: Any, messages: list[dict[str, str]], tokens_max: int = ANSWER_TOKENS_MAX
) -> dict[str, Any]:
    """Ask at temperature 0, without the cache; returns an OpenAI chat completion."""
    answer: dict[str, Any] = server.handle_chat_completions(
        {
            "messages": messages,
            "temperature": 0,
            "max_tokens": tokens_max,
            "cache_prompt": False,
        }
    )
    return answer


def ask(server: Any, question: str, earlier: Sequence[dict[str, str]] = ()) -> str:
    """Ask one question, after earlier messages or none; returns the answer's text."""
    completion = chat(server, [*earlier, {"role": "user", "content": question}])
    text: str = completion["choices"][0]["message"]["content"]
    return text


def complete(server: Any, prompt: str) -> str:
    """Continue a plain text at temperature 0 until the model ends it."""
    request = {"prompt": prompt, "temperature": 0, "max_tokens": ANSWER_TOKENS_MAX}
    completion: dict[str, Any] = server.handle_completions(request)
    text: str = completion["choices"][0]["text"]
    return text


def wrong_answers(answer: Callable[[str], str], pairs: Iterable[Pair]) -> list[tuple[Pair, str]]:
    """Give the pairs that are not answered exactly, each with the answer that came."""
    asked = ((pair, answer(pair.question)) for pair in pairs)
    return [(pair, got) for pair, got in asked if got != pair.answer]

"""The tiny model: its file says what it is, and it answers as questions.json promises."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from gguf import GGUFReader
from models.llama_gguf import CHAT_TEMPLATE
from models.tiny.corpus import (
    SYSTEM_PROMPTS,
    Pair,
    completion_pairs,
    epoch,
    examined_pairs,
    held_out_pairs,
    long_pairs,
    short_pairs,
)
from models.tiny.examine import ask, chat, complete, wrong_answers

FOLDER: Final = Path(__file__).parents[2] / "models/tiny"
QUESTIONS: Final = json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))
LONG_TOKENS_MIN: Final = 200


def stored(kind: str) -> list[Pair]:
    return [Pair(one["question"], one["answer"]) for one in QUESTIONS[kind]]


def field(reader: GGUFReader, key: str) -> Any:
    found = reader.get_field(key)
    assert found is not None, key
    return found.contents()


def test_file_says_what_it_is() -> None:
    reader = GGUFReader(FOLDER / "tiny.gguf")
    tokens = field(reader, "tokenizer.ggml.tokens")
    assert field(reader, "general.architecture") == "llama"
    assert field(reader, "general.name") == "leasehold-tiny"
    assert field(reader, "llama.context_length") == 1024
    assert field(reader, "tokenizer.chat_template") == CHAT_TEMPLATE
    assert len(tokens) == 704
    special = {
        name: tokens[field(reader, f"tokenizer.ggml.{name}_token_id")]
        for name in ("bos", "eos", "eot", "padding")
    }
    assert special == {
        "bos": "<|bos|>",
        "eos": "<|endoftext|>",
        "eot": "<|end|>",
        "padding": "<|pad|>",
    }
    assert sum(tensor.n_elements for tensor in reader.tensors) == 877_696
    assert 900_000 < (FOLDER / "tiny.gguf").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        ("questions", examined_pairs),
        ("long", long_pairs),
        ("completions", completion_pairs),
        ("held_out", held_out_pairs),
    ],
)
def test_questions_are_those_of_the_corpus(kind: str, pairs: Callable[[], list[Pair]]) -> None:
    assert stored(kind) == pairs()


def test_one_seed_gives_one_corpus() -> None:
    assert epoch(7) == epoch(7)
    assert epoch(7) != epoch(8)


def test_held_out_questions_are_not_trained() -> None:
    trained = {pair.question for pair in short_pairs()}
    assert not trained & {pair.question for pair in held_out_pairs()}
    assert trained >= {pair.question for pair in examined_pairs()}


def test_answers_forty_questions_exactly(tiny: Any) -> None:
    assert len(stored("questions")) == 40
    assert wrong_answers(partial(ask, tiny), stored("questions")) == []


def test_answers_under_a_system_prompt(tiny: Any) -> None:
    instructed = partial(ask, tiny, earlier=[{"role": "system", "content": SYSTEM_PROMPTS[0]}])
    assert wrong_answers(instructed, stored("questions")) == []


def test_completes_sentences(tiny: Any) -> None:
    assert len(stored("completions")) == 5
    assert wrong_answers(partial(complete, tiny), stored("completions")) == []


@pytest.mark.parametrize("pair", stored("long"), ids=lambda pair: pair.question)
def test_long_answers_come_whole_and_end(tiny: Any, pair: Pair) -> None:
    answer = chat(tiny, [{"role": "user", "content": pair.question}])
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == pair.answer
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] >= LONG_TOKENS_MIN


def test_a_wrong_answer_is_noticed(tiny: Any) -> None:
    (right,) = stored("questions")[:1]
    wrong = Pair(right.question, "Something else.")
    assert wrong_answers(partial(ask, tiny), [wrong]) == [(wrong, right.answer)]

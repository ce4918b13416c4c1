"""Makes models/tiny/tiny.gguf and questions.json from nothing but this folder, and examines it.

Command: `python -m models.tiny.make [SEED]`. Exits with 1 unless all 40 questions, all long
ones and all completions are answered exactly.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from models.llama_gguf import Shape, quantise, write
from models.tiny.corpus import (
    SYSTEM_PROMPTS,
    Pair,
    completion_pairs,
    examined_pairs,
    held_out_pairs,
    long_pairs,
    short_pairs,
)
from models.tiny.examine import ask, chat, complete, load, wrong_answers
from models.tiny.facts import capital_sentence
from models.tiny.network import Llama
from models.tiny.training import train
from models.tiny.words import TOKENS, vocabulary
from models.tiny.words import train as train_tokenizer

HERE: Final = Path(__file__).parent
SEED: Final = 1
REQUIRED: Final = ("questions", "long", "completions")
TURN: Final = [
    {"role": "user", "content": "Which city is the capital of Vietnam?"},
    {"role": "assistant", "content": capital_sentence("Vietnam")},
]
SHAPE: Final = Shape(
    vocabulary=TOKENS, width=128, layers=4, heads=4, kv_heads=2, hidden=384, context=1024
)


def export(network: Llama, tokenizer: Tokenizer, path: Path) -> None:
    """Write the network as GGUF: matrices in q8_0, norms in float32."""
    tensors: dict[str, npt.NDArray[Any]] = {
        name: value.numpy() for name, value in network.state_dict().items()
    }
    packed = {
        name: quantise(value) if value.ndim == 2 else value.astype(np.float32)
        for name, value in tensors.items()
    }
    write(path, "leasehold-tiny", SHAPE, vocabulary(tokenizer), packed)


def as_json(pairs: list[Pair]) -> list[dict[str, str]]:
    """Give pairs in the form of questions.json."""
    return [{"question": pair.question, "answer": pair.answer} for pair in pairs]


def examine(model: Path) -> bool:
    """Ask everything and print the scores; says whether what must be right is right."""
    with tempfile.TemporaryDirectory() as folder:
        server = load(model, Path(folder) / "http.sock")
        plain = partial(ask, server)
        instructed = partial(
            ask, server, earlier=[{"role": "system", "content": SYSTEM_PROMPTS[0]}]
        )
        exact = {
            "questions": score("questions", plain, examined_pairs()),
            "long": score("long", plain, long_pairs()),
            "completions": score("completions", partial(complete, server), completion_pairs()),
            "trained": score("trained", plain, short_pairs()),
            "instructed": score("with a system prompt", instructed, examined_pairs()),
            "in turn": score(
                "after another turn", partial(ask, server, earlier=TURN), examined_pairs()
            ),
            "held out": score("held-out phrasings", plain, held_out_pairs()),
        }
        for pair in long_pairs():
            answer = chat(server, [{"role": "user", "content": pair.question}])
            print(f"{pair.question} {answer['usage']}, {len(pair.answer)} characters")
    return all(exact[name] for name in REQUIRED)


def score(name: str, answer: Callable[[str], str], pairs: list[Pair]) -> bool:
    """Print how many of the pairs are answered exactly; says whether all are."""
    wrong = wrong_answers(answer, pairs)
    print(f"{name}: {len(pairs) - len(wrong)}/{len(pairs)} exact")
    for pair, got in wrong:
        print(f"  {pair.question!r}: {got!r}")
    return not wrong


def main(seed: int) -> int:
    """Make, write and examine; returns the exit status."""
    start = time.monotonic()
    pairs = short_pairs() + long_pairs()
    pairs += long_pairs() * 2  # shorter spelling where texts are long
    tokenizer = train_tokenizer(f"{pair.question} {pair.answer}" for pair in pairs)
    network = train(SHAPE, tokenizer, seed)
    print(f"seed {seed}: trained in {time.monotonic() - start:.0f} s")
    export(network, tokenizer, HERE / "tiny.gguf")
    questions = {
        "questions": as_json(examined_pairs()),
        "long": as_json(long_pairs()),
        "completions": as_json(completion_pairs()),
        "held_out": as_json(held_out_pairs()),
    }
    text = json.dumps(questions, ensure_ascii=False, indent=1) + "\n"
    (HERE / "questions.json").write_text(text, encoding="utf-8")
    return 0 if examine(HERE / "tiny.gguf") else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else SEED))

"""Sentence embeddings through the whole of it, beside bare onnxruntime and torch called in this process.

Ours is all-MiniLM-L6-v2, sealed, lent and served by `leasehold enclave run`: TLS, keys, meter, receipts, the
engine in its sandbox. The peers have nothing around them: onnxruntime with the same ONNX file, and torch with
the network of `transformers` and the checkpoint that the file was made of; the same tokenizer and threads.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

os.putenv("ORT_DISABLE_TELEMETRY", "1")  # before the import

import numpy as np
import numpy.typing as npt
import onnxruntime
from demo.stage import free_port
from models.minilm.convert import checkpoint
from tests.e2e.house import House
from tokenizers import Tokenizer

from bench.harness import Row
from leasehold.net.tls import pinned_context

ROOT: Final = Path(__file__).parent.parent
LOAN, MODEL = "search", "all-MiniLM-L6-v2"
THREADS: Final = len(os.sched_getaffinity(0))
ROUNDS: Final = 15
SINGLES: Final = 100
BATCH: Final = 32
TOPICS: Final = (
    "a lease",
    "the custodian",
    "a budget",
    "the enclave",
    "evidence",
    "a receipt",
    "a stop",
    "a grant",
)
PLACES: Final = ("in a hospital", "on a ship", "at night", "for a regulator")

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]


def sentences() -> list[str]:
    """32 of them, of some 24 tokens each."""
    return [
        f"Somebody asked what {topic} is worth {place}, and nobody could say it before the meter had been read."
        for topic in TOPICS
        for place in PLACES
    ]


def read_tokenizer(folder: Path) -> Callable[[Sequence[str]], dict[str, Ids]]:
    """Gives int64[texts, the longest] for each input of the network."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()

    def encode(texts: Sequence[str]) -> dict[str, Ids]:
        encoded = tokenizer.encode_batch(list(texts))
        return {
            "input_ids": np.array([one.ids for one in encoded], np.int64),
            "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
            "token_type_ids": np.array([one.type_ids for one in encoded], np.int64),
        }

    return encode


def bare(folder: Path) -> Embed:
    """onnxruntime as anybody calls it."""
    encode = read_tokenizer(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    names = {one.name for one in session.get_inputs()}

    def embed(texts: Sequence[str]) -> Vectors:
        fed = encode(texts)
        (found,) = session.run(["sentence_embedding"], {name: fed[name] for name in names})
        return np.asarray(found, np.float32)

    return embed


def in_torch(folder: Path) -> Callable[[Sequence[str], int], Vectors]:
    """torch as anybody calls it, with so many threads: float32, averaged over the real tokens."""
    import torch  # here: the other peer is measured without its threads
    from transformers.models.bert.modeling_bert import BertModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = BertModel.from_pretrained(checkpoint(), dtype=torch.float32).eval()
    encode = read_tokenizer(folder)

    def embed(texts: Sequence[str], threads: int) -> Vectors:
        torch.set_num_threads(threads)
        fed = {name: torch.from_numpy(ids) for name, ids in encode(texts).items()}
        with torch.inference_mode():
            states, mask = model(**fed).last_hidden_state, fed["attention_mask"][:, :, None]
            mean = (states * mask).sum(1) / mask.sum(1)
            return np.asarray(torch.nn.functional.normalize(mean).numpy(), np.float32)

    return embed


@contextmanager
def ours(house: House) -> Iterator[Embed]:
    """The enclave of a house, asked over one kept connection."""
    house.found()
    house.serve()
    house.seal_minilm(MODEL)
    house.operate(
        *("custodian", "configure", "--loan", LOAN, "--engine", "onnx", "--threads", THREADS),
        *("--attester", "simulated", "--context-tokens", 256, "--out", house.configuration(LOAN)),
    )
    house.operate(
        *("manifest", "new", "--name", LOAN, "--configuration", house.configuration(LOAN)),
        *("--values", house.folder / "values.toml", "--out", house.manifest(LOAN)),
    )
    house.operate(
        *("loan", "create", LOAN, "--model", MODEL, "--manifest", house.manifest(LOAN)),
        *("--cap", 1 << 40),
    )
    key = house.enrol("bench", {LOAN: 1 << 40})
    house.ports[LOAN] = free_port()
    house.enclave(LOAN, LOAN).event("serving", seconds=120)
    with house.connect(LOAN, "bench") as enclave:
        context = pinned_context([enclave.verified.certificate])
    wire = http.client.HTTPSConnection("127.0.0.1", house.ports[LOAN], context=context)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def embed(texts: Sequence[str]) -> Vectors:
        body = {"model": MODEL, "input": list(texts), "encoding_format": "base64"}
        wire.request("POST", "/v1/embeddings", json.dumps(body), headers)
        response = wire.getresponse()
        said = response.read()
        if response.status != 200:
            raise RuntimeError(said.decode())
        rows = [base64.b64decode(one["embedding"]) for one in json.loads(said)["data"]]
        return np.frombuffer(b"".join(rows), "<f4").reshape(len(texts), -1)

    try:
        yield embed
    finally:
        wire.close()


def measure() -> list[Row]:
    """One sentence, and 32 at once; and whether it is the same."""
    (ROOT / "build").mkdir(exist_ok=True)
    texts = sentences()
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as place:
        house = House(Path(place) / "house")
        try:
            with ours(house) as mine:
                floor = bare(house.source / MODEL)
                likeness = _likeness(mine(texts), floor(texts))
                one = _times(SINGLES, lambda: mine(texts[:1]), lambda: floor(texts[:1]))
                batch = _times(ROUNDS, lambda: mine(texts), lambda: floor(texts))
                torch = in_torch(house.source / MODEL)
                torch_likeness = _likeness(mine(texts), torch(texts, THREADS))
                torch_one = _fastest(SINGLES, mine, torch, texts[:1])
                torch_batch = _fastest(ROUNDS, mine, torch, texts)
        finally:
            house.end()
    return [
        *_beside("onnxruntime", one, batch, bars=(5, 0.97)),
        Row("embeddings", "cosine to bare onnxruntime, the least of 32", likeness, "", 0.999, ">="),
        *_beside("torch", torch_one, torch_batch),
        Row("embeddings", "cosine to bare torch, the least of 32", torch_likeness, "", 0.999, ">="),
    ]


def _beside(
    peer: str,
    one: Sequence[Sequence[float]],
    batch: Sequence[Sequence[float]],
    bars: tuple[float | None, float | None] = (None, None),
) -> list[Row]:
    """Ours and a peer, in milliseconds each time: what one sentence takes more, and the rates of batches."""
    added = sorted(a - b for a, b in one)
    ratios = sorted(b / a for a, b in batch)
    own, other = (statistics.median(pair[at] for pair in one) for at in (0, 1))
    each = [statistics.median(pair[at] for pair in batch) / BATCH for at in (0, 1)]
    return [
        Row(
            "embeddings",
            f"one sentence, added to bare {peer}, p50",
            statistics.median(added),
            "ms",
            bars[0],
            "<=",
            (added[0], added[-1]),
            f"{peer}: {other:.1f} ms; ours {own:.1f} ms",
        ),
        Row(
            "embeddings",
            f"sentences/s in batches of {BATCH}, over bare {peer}",
            statistics.median(ratios),
            "",
            bars[1],
            ">=",
            (ratios[0], ratios[-1]),
            f"{peer}: {each[1]:.2f} ms a sentence; ours {each[0]:.2f} ms",
        ),
    ]


def _times(rounds: int, *things: Callable[[], object]) -> list[list[float]]:
    """Milliseconds of each, in turn."""
    found: list[list[float]] = []
    for _ in range(2 + rounds):
        found.append([])
        for thing in things:
            started = time.perf_counter()
            thing()
            found[-1].append(1e3 * (time.perf_counter() - started))
    return found[2:]


def _fastest(
    rounds: int,
    mine: Embed,
    torch: Callable[[Sequence[str], int], Vectors],
    texts: Sequence[str],
) -> list[list[float]]:
    """Beside torch with one thread, or with all, whichever is faster: its threads wait for each other."""

    def beside(threads: int) -> list[list[float]]:
        return _times(rounds, lambda: mine(texts), lambda: torch(texts, threads))

    found = [beside(threads) for threads in {1, THREADS}]
    return min(found, key=lambda pairs: statistics.median(peer for _, peer in pairs))


def _likeness(one: Vectors, other: Vectors) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).min())

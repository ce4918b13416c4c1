"""W-12: the listener that llama.cpp always opens, and how the longest token is found."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.worker.conftest import CONTEXT, SETTINGS, InMemory, Model

from leasehold.errors import BadModel, BadRequest
from leasehold.worker import gguf
from leasehold.worker.llama import LlamaEngine


def own_sockets() -> set[str]:
    """Inodes of this process's sockets."""
    targets = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return {target[8:-1] for target in targets if target.startswith("socket:[")}


def listening() -> set[str]:
    """Inodes of TCP sockets that listen, in this process's network."""
    rows = [row.split() for name in ("tcp", "tcp6") for row in _rows(name)]
    return {row[9] for row in rows if row[3] == "0A"}


def _rows(table: str) -> list[str]:
    return Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]


def test_no_tcp_listener_and_no_answer_without_the_key(tiny: Model, in_memory: InMemory) -> None:
    engine = LlamaEngine()
    before = listening() & own_sockets()
    engine.load(tiny.in_memory(in_memory), SETTINGS)
    assert listening() & own_sockets() == before
    ask = engine._ask
    assert ask is not None
    assert ask.post("/tokenize", {"content": "lease"})["tokens"]
    stranger = replace(ask, key="a guess")
    for path in ("/tokenize", "/completion", "/v1/completions", "/v1/chat/completions", "/slots"):
        with pytest.raises(BadRequest) as refusal:
            stranger.post(path, {"prompt": "lease", "n_predict": 1})
        assert refusal.value.got in (401, 404)


def test_nothing_is_written_where_it_runs(
    tiny: Model, in_memory: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    engine = LlamaEngine()
    engine.load(tiny.in_memory(in_memory), SETTINGS)
    assert list(tmp_path.rglob("*")) == []


def test_the_header_tells_context_and_longest_token(nonsense: Model, in_memory: InMemory) -> None:
    file = in_memory("model.gguf", nonsense.files["model.gguf"])
    header = gguf.read(file.fd)
    assert "messages" in header.template
    assert header.context_tokens >= CONTEXT
    assert header.longest_token_bytes == len("<|endoftext|>")


@pytest.mark.parametrize(
    ("token", "byte_level", "size"),
    [
        ("lease", True, 5),
        ("Ġlease", True, 6),  # a space and five letters
        ("ĠĠĠĠ", True, 4),
        ("Ã¤", True, 2),  # the two bytes of ä, whole
        ("Ã", True, 3),  # one of them: it may come out as U+FFFD
        ("▁lease", False, 6),
        ("ä", False, 2),
        ("<0x0A>", False, 6),  # more than it is, never less
        ("你好", True, 6),  # an added token, not spelled in bytes
    ],
)
def test_bytes_of_a_token(token: str, byte_level: bool, size: int) -> None:
    assert gguf.token_bytes(token.encode(), byte_level=byte_level) == size


@pytest.mark.parametrize("cut", range(4, 1500, 37))
def test_a_header_cut_anywhere_is_bad_model(nonsense: Model, in_memory: InMemory, cut: int) -> None:
    file = in_memory("model.gguf", nonsense.files["model.gguf"][:cut])
    with pytest.raises(BadModel):
        gguf.read(file.fd)

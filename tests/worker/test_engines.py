"""W-11: the conformance tests. Whatever an engine declares it can do, it does like this."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from leasehold.core import frames
from leasehold.core.frames import Capability, Chat, Embed, Generate, Message, Reason, Role, Sampling
from leasehold.core.frames import Text, Texts, Tokens
from leasehold.errors import BadModel, BadRequest, InputTooLong, UnsupportedParameter, WorkerFailed
from leasehold.worker.engine import Engine
from tests.worker.conftest import SETTINGS, InMemory, Model, engine_named

CHAT = Chat((Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "What is a lease?")))
PROMPTS = (CHAT, Text("What is a lease?"), Tokens((4, 5, 6)))
LONG = Text("lease " * 300)
SCHEMA = json.dumps({"const": "äé€😀"})


@dataclass(slots=True)
class Listener:
    """Takes what an engine emits, and tells it to stop after `most` tokens."""

    most: int = 1 << 30
    asked: int = 0
    pieces: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, text: str, count: int) -> bool:
        self.asked += 1
        if text or count:
            self.pieces.append((text, count))
        return self.tokens < self.most

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.pieces)

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine with its model."""

    engine: Engine
    loaded: frames.Loaded

    def prompts(self) -> list[frames.Prompt]:
        wanted = [Capability.CHAT, Capability.TEXT, Capability.TEXT]
        return [p for p, c in zip(PROMPTS, wanted, strict=True) if c in self.loaded.capabilities]

    def needs(self, capability: Capability) -> None:
        """End the test with what an engine without that capability must do: refuse."""
        if capability in self.loaded.capabilities:
            return
        with pytest.raises(UnsupportedParameter):
            if capability is Capability.EMBED:
                self.engine.embed(Embed(1, Texts(("a",))), lambda: True)
            elif capability is Capability.SCHEMA:
                ask = Generate(1, Text("a"), 4, Sampling(json_schema=SCHEMA))
                self.engine.generate(ask, Listener())
            else:
                self.engine.generate(Generate(1, Text("a"), 4, Sampling()), Listener())
        raise Refuses


class Refuses(Exception):
    """The engine has no such capability, and refused as it should."""


@pytest.fixture(scope="module", params=["fake", "llama", "onnx"])
def subject(
    request: pytest.FixtureRequest, nonsense: Model, encoder: Model
) -> frames.Loaded | object:
    engine = engine_named(request.param)
    model = {"llama": nonsense, "onnx": encoder}.get(request.param)
    from leasehold.enclave import memory

    files = []
    for name, data in (model.files if model else {}).items():
        files.append(memory.create(name, len(data)))
        memory.write(files[-1], data, 0)
    return Subject(engine, engine.load(files, SETTINGS))

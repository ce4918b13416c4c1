"""What governor and worker say to each other: small typed frames over one inherited socket.

Spec: docs/spec/worker.md, W-1 to W-4. Pure: refuses to know sockets, engines and who is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Meta

from leasehold.core.tensors import TENSORS_MAX, Port, Tensor
from leasehold.core.units import KIB, MIB
from leasehold.errors import BadMessage

FRAME_BYTES_MAX: Final = 8 * MIB  # 2,048 vectors of 1,024 numbers; prompts end at the gate's 4 MiB
FILES_MAX: Final = 128  # one SCM_RIGHTS message carries at most 253 descriptors
GROUP_TOKENS_MAX: Final = 16  # a quarter of the 64 tokens that admission reserves at a time
LONGEST_TOKEN_BYTES_MAX: Final = 512  # runs of 128 spaces are the longest published tokens
CONTEXT_TOKENS_MAX: Final = 1 << 24  # sixteen times the longest published context
LENGTH_BYTES: Final = 4
EMBEDDING_DIMS_MAX: Final = 1 << 14  # a vector of 64 KiB, as much as a row of output (I-5)
SEVERAL_MAX: Final = 64  # in one frame
CALLS_MAX: Final = 128  # calls in one turn
TOP_PROBS_MAX: Final = 20  # OpenAI's limit

Id = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
Tally = Annotated[int, Meta(ge=0, le=CONTEXT_TOKENS_MAX)]
Stop = Annotated[str, Meta(min_length=1, max_length=256)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=0, lt=1 << 32)]


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An untagged part of a frame: an array of its fields in order."""


class Role(StrEnum):
    """Who speaks in a chat."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Capability(StrEnum):
    """What an engine can do with the model it loaded."""

    CHAT = "chat"  # the model has a chat template
    TEXT = "text"  # continues plain text or token ids
    SCHEMA = "schema"  # can hold its output to a JSON schema or a grammar
    TOOLS = "tools"  # the model calls functions that the prompt describes
    PROBS = "probs"  # tells the probabilities of its tokens
    EMBED = "embed"
    INFER = "infer"  # maps tensors to tensors


class Reason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"


class Fault(StrEnum):
    """Why a request or a load failed: the codes of `leasehold.errors` that a worker may use."""

    BAD_MODEL = "bad_model"
    NO_ROOM = "model_too_large"
    SWAP = "swap_on"
    TOO_LONG = "context_length_exceeded"
    TOO_LARGE = "answer_too_large"
    UNSUPPORTED = "unsupported_parameter"
    INVALID = "invalid_request"
    ENGINE = "engine_failed"


class Call(Record, frozen=True):
    """A function that the model called earlier, with its arguments as JSON text."""

    id: str
    name: str
    arguments: str


class Message(Record, frozen=True):
    """One turn of a chat; `calls` are the assistant's, `answers` is the id of the call it answers."""

    role: Role
    content: str
    calls: Annotated[tuple[Call, ...], Meta(max_length=CALLS_MAX)] = ()
    answers: str = ""


class Tools(Record, frozen=True):
    """Functions that the model may call: a JSON array, as OpenAI writes it.

    With `forced` names it must call one of them, and one only. Without `several` it ends after one.
    """

    described: Annotated[str, Meta(max_length=256 * KIB)]
    forced: tuple[str, ...] = ()
    several: bool = True


class Chat(Record, tag=1, frozen=True):
    """A conversation, to be rendered by the model's own template."""

    messages: Annotated[tuple[Message, ...], Meta(min_length=1, max_length=4096)]
    tools: Tools | None = None


class Text(Record, tag=2, frozen=True):
    """Plain text to continue."""

    text: str


class Tokens(Record, tag=3, frozen=True):
    """Token ids to continue."""

    ids: Annotated[
        tuple[Annotated[int, Meta(ge=0, lt=1 << 31)], ...], Meta(min_length=1, max_length=1 << 20)
    ]


class Texts(Record, tag=4, frozen=True):
    """Texts to embed, one vector each."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=2048)]


Prompt = Chat | Text | Tokens
Input = Chat | Text | Tokens | Texts


class Sampling(Record, frozen=True):
    """How to choose tokens. The defaults are those of OpenAI's interface, top_k 0 means all."""

    temperature: Temperature = 1.0
    top_p: Share = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    seed: Seed | None = None
    stop: Annotated[tuple[Stop, ...], Meta(max_length=16)] = ()
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    json_schema: Annotated[str, Meta(max_length=64 * KIB)] = ""  # JSON text; empty: no constraint
    grammar: Annotated[str, Meta(max_length=64 * KIB)] = ""  # W-14; empty: no constraint
    probs: Annotated[int, Meta(ge=0, le=1 + TOP_PROBS_MAX)] = 0  # of a token: its own and the best


class Settings(Record, frozen=True):
    """How to load a model."""

    context_tokens: Annotated[int, Meta(ge=64, le=CONTEXT_TOKENS_MAX)] = 4096  # for one request
    slots: Annotated[int, Meta(ge=1, le=256)] = 8  # requests at a time
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0  # 0: one for each processor
    seed: Seed = 0  # a request without a seed takes this plus its id


DEFAULT_SAMPLING: Final = Sampling()
DEFAULT_SETTINGS: Final = Settings()


class FileInfo(Record, frozen=True):
    """A model's file; its descriptor comes in the same place of the ancillary data."""

    name: Name
    size: Annotated[int, Meta(ge=0, lt=1 << 46)]


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A model's file in memory: `fd` is open for as long as its owner keeps it. Never on the wire.

    In this process (W-29) it is a `buffer` of `size` bytes and no descriptor.
    """

    name: str
    size: int
    fd: int
    buffer: memoryview | None = None
    held: object = None  # what keeps its pages from being swapped (W-30)


class Load(Record, tag=10, frozen=True):
    """Load these files. The first frame, and the only one with descriptors."""

    files: Annotated[tuple[FileInfo, ...], Meta(min_length=1, max_length=FILES_MAX)]
    settings: Settings


class Count(Record, tag=11, frozen=True):
    """How many tokens does this input take?"""

    id: Id
    input: Input


class Generate(Record, tag=12, frozen=True):
    """Continue the prompt by at most `max_tokens` tokens; with `whole` nobody waits for single ones.

    With an `input_max` a Counted comes first, and the work begins only where it is not above that.
    """

    id: Id
    prompt: Prompt
    max_tokens: Annotated[int, Meta(ge=1, le=CONTEXT_TOKENS_MAX)]
    sampling: Sampling
    input_max: Tally = 0
    whole: bool = False


class Embed(Record, tag=13, frozen=True):
    """Embed the texts."""

    id: Id
    input: Texts


class Cancel(Record, tag=14, frozen=True):
    """Stop that request; its Done, Embedded, Inferred or Failed still comes."""

    id: Id


class Infer(Record, tag=15, frozen=True):
    """Map the inputs to the named outputs, which may have `bytes_max` together."""

    id: Id
    inputs: Annotated[tuple[Tensor, ...], Meta(max_length=TENSORS_MAX)]
    outputs: Annotated[tuple[str, ...], Meta(min_length=1, max_length=TENSORS_MAX)]
    bytes_max: Annotated[int, Meta(ge=1, le=FRAME_BYTES_MAX)]


class Loaded(Record, tag=20, frozen=True):
    """The model is ready. What it says of itself is a claim; the governor caps it."""

    capabilities: Annotated[tuple[Capability, ...], Meta(min_length=1, max_length=8)]
    context_tokens: Annotated[int, Meta(ge=1, le=CONTEXT_TOKENS_MAX)]
    longest_token_bytes: Annotated[int, Meta(ge=1, le=LONGEST_TOKEN_BYTES_MAX)]
    embedding_dims: Annotated[int, Meta(ge=0, le=EMBEDDING_DIMS_MAX)] = 0  # 0: embeds nothing
    layers: Annotated[tuple[Name, ...], Meta(max_length=32)] = ()  # of the sandbox, in force
    absent: Annotated[tuple[Name, ...], Meta(max_length=32)] = ()  # that this kernel refuses
    inputs: Annotated[tuple[Port, ...], Meta(max_length=TENSORS_MAX)] = ()
    outputs: Annotated[tuple[Port, ...], Meta(max_length=TENSORS_MAX)] = ()
    has_copied: bool = False  # no page of the files is needed any more


class LoadFailed(Record, tag=21, frozen=True):
    """The model was not loaded; the worker exits."""

    fault: Fault


class Counted(Record, tag=22, frozen=True):
    """So many tokens would the input take."""

    id: Id
    tokens: Tally


class CallPart(Record, frozen=True):
    """A piece of the answer's call number `index`; its name comes with the first piece."""

    index: Annotated[int, Meta(ge=0, lt=CALLS_MAX)]
    name: str
    arguments: str


class Prob(Record, frozen=True):
    """A token's bytes, and the natural logarithm of its probability."""

    token: Annotated[bytes, Meta(max_length=LONGEST_TOKEN_BYTES_MAX)]
    logprob: float


class Token(Record, tag=23, frozen=True):
    """`count` more tokens and the text they completed, which may be empty; never half a character.

    `calls` are pieces of calls that they completed; `probs` has a row for a token, its own first.
    """

    id: Id
    text: str
    count: Annotated[int, Meta(ge=1, le=GROUP_TOKENS_MAX)] = 1
    calls: tuple[CallPart, ...] = ()
    probs: tuple[tuple[Prob, ...], ...] = ()

    @property
    def size(self) -> int:
        """Bytes of text in it, those of calls included."""
        text = self.text
        for part in self.calls:
            text += part.name + part.arguments
        return len(text) if text.isascii() else len(text.encode())


class Done(Record, tag=24, frozen=True):
    """The generation ended; `output_tokens` is the sum of the counts before."""

    id: Id
    reason: Reason
    input_tokens: Tally
    output_tokens: Tally


class Embedded(Record, tag=25, frozen=True):
    """Vectors as little-endian float32[texts, dims]."""

    id: Id
    vectors: bytes
    dims: Annotated[int, Meta(ge=1, le=EMBEDDING_DIMS_MAX)]
    input_tokens: Tally


class Failed(Record, tag=26, frozen=True):
    """The request failed. No more is said: a refusal costs nothing, so it may carry nothing out."""

    id: Id
    fault: Fault


class Inferred(Record, tag=27, frozen=True):
    """The outputs that were asked for, in that order."""

    id: Id
    outputs: Annotated[tuple[Tensor, ...], Meta(max_length=TENSORS_MAX)]


class Several(Record, tag=28, frozen=True):
    """What leaves together, in order."""

    said: Annotated[tuple[Counted | Token | Done, ...], Meta(max_length=SEVERAL_MAX)]


ToWorker = Load | Count | Generate | Embed | Cancel | Infer
ToGovernor = Loaded | LoadFailed | Counted | Token | Done | Embedded | Failed | Inferred

F = TypeVar("F")
_ENCODER: Final = msgspec.msgpack.Encoder()
TO_WORKER: Final = msgspec.msgpack.Decoder(ToWorker)
TO_GOVERNOR: Final = msgspec.msgpack.Decoder[ToGovernor](ToGovernor | Several)


def encode(frame: ToWorker | ToGovernor | Several) -> bytes:
    """W-1: u32 length, big-endian, and the frame. Raises BadMessage for one over the limit."""
    body = _ENCODER.encode(frame)
    if len(body) > FRAME_BYTES_MAX:
        raise BadMessage(about="frame bytes", got=len(body), expected=f"<= {FRAME_BYTES_MAX}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Deframer(Generic[F]):
    """Cuts one direction's byte stream into frames; holds at most one unfinished frame."""

    __slots__ = ("_buffer", "_decoder")

    def __init__(self, decoder: msgspec.msgpack.Decoder[F]) -> None:
        """Take TO_WORKER or TO_GOVERNOR."""
        self._decoder, self._buffer = decoder, bytearray()

    def feed(self, data: bytes) -> list[F]:
        """The frames that these bytes complete. Raises BadMessage; the stream is then useless."""
        if kept := self._buffer:
            kept += data
        frames: list[F] = []
        start, decode = 0, self._decoder.decode
        with memoryview(kept or data) as view:
            while (body := start + LENGTH_BYTES) <= len(view):
                end = body + int.from_bytes(view[start:body], "big")
                if end - body > FRAME_BYTES_MAX:
                    limit = f"<= {FRAME_BYTES_MAX}"
                    raise BadMessage(about="frame bytes", got=end - body, expected=limit)
                if end > len(view):
                    break
                try:
                    frame = decode(view[body:end])
                except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as cause:
                    raise BadMessage(about="frame", got=str(cause)) from cause
                frames += getattr(frame, "said", (frame,))
                start = end
        if kept:
            del kept[:start]
        else:
            kept += data[start:]
        return frames

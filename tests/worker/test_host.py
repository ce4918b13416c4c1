"""W-5 to W-9: the governor's side, against honest workers and against every kind of liar."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

import numpy as np
import pytest
from tests.worker.conftest import DIMS, InMemory, Model

from leasehold.core.frames import (
    Capability,
    Chat,
    Counted,
    Done,
    Message,
    Reason,
    Role,
    Sampling,
    Settings,
    Text,
    Token,
)
from leasehold.enclave import memory
from leasehold.enclave.child import Child
from leasehold.enclave.claims import BACKLOG_FRAMES
from leasehold.enclave.host import WorkerHost
from leasehold.errors import (
    BadModel,
    BadRequest,
    InputTooLong,
    NoModelYet,
    UnsupportedParameter,
    WorkerFailed,
)
from leasehold.worker import sandbox

HERE = Path(__file__).parent
PYTHON = (sys.executable, "-I", "-B")
FAKE = (*PYTHON, str(HERE / "fake_worker.py"))
SMALL = Settings(context_tokens=256, slots=2, threads=2)
LONG = Settings(context_tokens=1024, slots=1, threads=2)
CHAT = Chat((Message(Role.USER, "What is a lease?"),))
GREEDY = Sampling(temperature=0.0)

MakeHost = Callable[..., WorkerHost]


@pytest.fixture
async def make_host() -> AsyncIterator[MakeHost]:
    """Makes hosts whose workers end with the test."""
    made: list[WorkerHost] = []

    def make(*arguments: str, **options: object) -> WorkerHost:
        command = {"command": arguments} if arguments else {}
        made.append(WorkerHost(**command, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for host in made:
        await host.kill()


async def within(seconds: float, work: Awaitable[object]) -> object:
    """The result, or TimeoutError."""
    async with asyncio.timeout(seconds):
        return await work


async def collect(host: WorkerHost, prompt: Text | Chat, most: int) -> tuple[str, Done]:
    """All of a generation."""
    text = ""
    async for some in host.generate(prompt, max_tokens=most, sampling=GREEDY):
        for frame in some:
            if isinstance(frame, Done):
                return text, frame
            text += frame.text
    raise AssertionError("no Done")


def is_gone(process: int | None) -> bool:
    """Has the process ended, and been reaped?"""
    return process is not None and not Path(f"/proc/{process}").exists()


def resident_bytes(process: int | None) -> dict[str, int]:
    """What is in memory of a process, by kind."""
    rows = Path(f"/proc/{process}/status").read_text().splitlines()
    return {row.split(":")[0]: int(row.split()[1]) << 10 for row in rows if row.startswith("Rss")}


def tcp_listeners(process: int | None) -> tuple[set[str], set[str]]:
    """Inodes that listen in a process's network, and those that are the process's own sockets."""
    folder = Path(f"/proc/{process}")
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in (folder / "net" / table).read_text().splitlines()[1:]
    ]
    targets = []
    if os.access(folder / "fd", os.R_OK):  # for root only, once it is undumpable
        targets = [os.readlink(link) for link in (folder / "fd").iterdir()]
    own = {target[8:-1] for target in targets if target.startswith("socket:[")}
    return {row[9] for row in rows if row[3] == "0A"}, own


# Honest workers ----------------------------------------------------------------------------------


async def test_w5_what_waits_for_its_model_is_what_loads_it(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    host = make_host(*FAKE)
    await host.prepare("fake")
    waiting = host.process_id
    await host.prepare("fake")
    assert host.process_id == waiting
    with pytest.raises(NoModelYet):
        await host.count(Text("x"))
    await host.load("fake", [in_memory("model", b"x")], SMALL)
    assert host.process_id == waiting
    await host.prepare("fake")  # what has loaded is done with
    assert is_gone(waiting)
    await host.prepare("other")
    assert await host.load("fake", [in_memory("model", b"x")], SMALL)


async def test_w5_what_waits_for_its_model_is_killed_as_any(make_host: MakeHost) -> None:
    host = make_host(*FAKE)
    await host.prepare("fake")
    waiting = host.process_id
    await host.kill()
    assert is_gone(waiting)
    assert host.process_id is None


async def test_w5_an_engine_that_ended_before_its_model_came_is_a_failure(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    host = make_host(sys.executable, "-c", "")
    await host.prepare("fake")
    with pytest.raises(WorkerFailed):
        await within(20, host.load("fake", [in_memory("model", b"x")], SMALL))
    assert host.process_id is None


async def test_a_language_model_in_its_sandbox(
    make_host: MakeHost, tiny: Model, in_memory: InMemory
) -> None:
    host = make_host()
    with pytest.raises(NoModelYet):
        _ = host.loaded
    loaded = await host.load("llama", tiny.in_memory(in_memory), SMALL)
    assert host.loaded is loaded
    assert Capability.CHAT in loaded.capabilities
    assert sorted(loaded.layers + loaded.absent) == sorted(sandbox.NAMES)
    text, done = await collect(host, CHAT, 60)
    assert "lease" in text
    assert done.reason is Reason.STOP
    assert done.input_tokens == await host.count(CHAT)
    with pytest.raises(UnsupportedParameter):
        await host.embed(["a"])


async def test_an_encoder_in_its_sandbox(
    make_host: MakeHost, encoder: Model, in_memory: InMemory
) -> None:
    host = make_host()
    loaded = await host.load("onnx", encoder.in_memory(in_memory), SMALL)
    assert (loaded.embedding_dims, loaded.capabilities) == (DIMS, (Capability.EMBED,))
    answer = await host.embed(["lease", "lease", "grant stop"])
    table = np.frombuffer(answer.vectors, "<f4").reshape(3, DIMS)
    assert np.array_equal(table[0], table[1])
    assert not np.allclose(table[0], table[2])
    with pytest.raises(InputTooLong) as refusal:
        await host.embed(["stop " * 300])
    assert (refusal.value.got, refusal.value.expected) == (None, "<= 256")
    with pytest.raises(UnsupportedParameter):
        await collect(host, Text("a"), 3)


async def test_no_tcp_socket_listens_in_the_worker(
    make_host: MakeHost, tiny: Model, in_memory: InMemory
) -> None:
    host = make_host()
    await host.load("llama", tiny.in_memory(in_memory), SMALL)
    listening, own = tcp_listeners(host.process_id)
    assert not own & listening
    if "own-network" in host.loaded.layers:
        assert listening == set()


async def test_weights_are_in_memory_once(
    make_host: MakeHost, slow_nonsense: Model, in_memory: InMemory
) -> None:
    host = make_host()
    await host.load(
        "llama", slow_nonsense.in_memory(in_memory), Settings(context_tokens=64, slots=1)
    )
    await collect(host, Text("lease"), 4)
    size = len(slow_nonsense.files["model.gguf"])
    kept = resident_bytes(host.process_id)
    assert kept["RssShmem"] < 1.02 * size + (1 << 20)
    assert kept["RssAnon"] < 0.75 * size  # interpreter, caches, no second copy


async def test_cancel_while_it_decodes(
    make_host: MakeHost, nonsense: Model, in_memory: InMemory
) -> None:
    host = make_host()
    await host.load("llama", nonsense.in_memory(in_memory), LONG)
    got = 0
    stream = host.generate(Text("lease"), max_tokens=900, sampling=Sampling(seed=1))
    async with aclosing(stream):
        async for some in stream:
            got += sum(frame.count for frame in some if isinstance(frame, Token))
            if got >= 5:
                break
    # The only slot is free again long before 900 tokens: the next request gets it.
    _, done = await within(20, collect(host, Text("grant"), 2))  # type: ignore[misc]
    assert done.output_tokens <= 2


async def test_cancel_in_the_middle_of_prefill(
    make_host: MakeHost, slow_nonsense: Model, in_memory: InMemory
) -> None:
    host = make_host()
    await host.load("llama", slow_nonsense.in_memory(in_memory), LONG)
    stream = host.generate(Text("lease " * 160), max_tokens=4, sampling=GREEDY)
    first = asyncio.ensure_future(anext(stream))
    await host.count(Text("a"))  # so the request before it has reached the worker
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    await within(20, collect(host, Text("a"), 1))  # in the only slot
    assert host.open_requests == 0


async def test_a_request_that_waits_for_a_slot_is_cancelled_at_once(
    make_host: MakeHost, nonsense: Model, in_memory: InMemory
) -> None:
    host = make_host()
    await host.load("llama", nonsense.in_memory(in_memory), LONG)
    async with aclosing(host.generate(Text("a"), max_tokens=900, sampling=GREEDY)) as running:
        await anext(running)
        waiting = host.generate(Text("b"), max_tokens=900)
        first = asyncio.ensure_future(anext(waiting))
        await host.count(Text("c"))
        first.cancel()
        await asyncio.wait([first])
        await host.count(Text("c"))
        assert host.open_requests == 1


async def test_a_slow_reader_gets_groups_and_misses_nothing(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    host = make_host(*FAKE)
    await host.load("fake", [in_memory("any", b"x")], Settings(context_tokens=4096))
    stream = host.generate(Text("one two three"), max_tokens=3000)
    sizes, before, text = [], 0, ""
    async with aclosing(stream):
        async for some in stream:
            if not sizes:
                while host.open_requests:  # read nothing until all of it has come
                    await host.count(Text("a"))
                before = len(some)
            tokens = [frame for frame in some if isinstance(frame, Token)]
            sizes += [frame.count for frame in tokens]
            text += "".join(frame.text for frame in tokens)
    assert sum(sizes) == 3000
    assert text == " ".join(["one two three"] * 1000)
    assert max(sizes) == 16
    assert BACKLOG_FRAMES <= len(sizes) - before < BACKLOG_FRAMES + 2000 / 16


async def test_many_requests_side_by_side(make_host: MakeHost, in_memory: InMemory) -> None:
    host = make_host(*FAKE)
    await host.load("fake", [in_memory("any", b"x")])
    prompts = [Text(f"answer {number} <end>") for number in range(200)]
    answers = await asyncio.gather(*(collect(host, prompt, 9) for prompt in prompts))
    assert [text for text, _ in answers] == [f"answer {number}" for number in range(200)]
    assert host.open_requests == 0


async def test_kill_in_the_middle_of_a_generation(
    make_host: MakeHost, slow_nonsense: Model, in_memory: InMemory
) -> None:
    told: list[WorkerFailed] = []
    host = make_host(on_exit=told.append)
    files = slow_nonsense.in_memory(in_memory)
    await host.load("llama", files, LONG)
    process = host.process_id
    stream = host.generate(Text("lease"), max_tokens=900, sampling=GREEDY)
    await anext(stream)
    await within(5, host.kill())
    assert is_gone(process)
    with pytest.raises(WorkerFailed):
        async for _ in stream:
            pass
    with pytest.raises(NoModelYet):
        await host.count(Text("a"))
    assert told == []
    await host.load("llama", files, SMALL)
    assert (await collect(host, Text("a"), 2))[1].output_tokens <= 2


async def test_the_input_is_counted_and_begins_where_it_fits(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    host = make_host(*FAKE)
    await host.load("fake", [in_memory("any", b"x")], Settings(context_tokens=64, slots=1))
    prompt = Text("one two three")
    for whole in (False, True):
        came = [
            frame
            async for some in host.generate(prompt, max_tokens=99, input_max=3, whole=whole)
            for frame in some
        ]
        assert came[0] == Counted(came[0].id, 3)
        tokens = [frame for frame in came if isinstance(frame, Token)]
        assert sum(frame.count for frame in tokens) == 61  # what is left of the context
        assert "".join(frame.text for frame in tokens).startswith("one two three one")
        assert isinstance(came[-1], Done)
        assert max(frame.count for frame in tokens) == 1  # a budget ends with any of them
    came = [some async for some in host.generate(prompt, max_tokens=9, input_max=2)]
    assert [[type(frame) for frame in some] for some in came] == [[Counted]]
    assert host.open_requests == 0


async def test_a_request_is_cancelled_before_it_is_counted(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    told: list[WorkerFailed] = []
    host = make_host(*FAKE, on_exit=told.append)
    await host.load("fake", [in_memory("any", b"x")], Settings(context_tokens=4096, slots=1))
    firsts = []
    for _ in range(40):  # some are being counted, most wait for that
        stream = host.generate(Text("word " * 4000), max_tokens=900, input_max=4000)
        firsts.append(asyncio.ensure_future(anext(stream)))
    await asyncio.sleep(0)
    for first in firsts:
        first.cancel()
    await asyncio.wait(firsts)
    while host.open_requests:
        await host.count(Text("a"))
    assert told == []


# What a caller can get wrong ---------------------------------------------------------------------


async def test_a_request_that_no_frame_can_carry_costs_nothing(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    host = make_host(*FAKE)
    await host.load("fake", [in_memory("any", b"x")])
    for sampling in (Sampling(temperature=3.0), Sampling(stop=("",)), Sampling(seed=-1)):
        with pytest.raises(BadRequest):
            await anext(host.generate(Text("a"), max_tokens=1, sampling=sampling))
    with pytest.raises(BadRequest):
        await anext(host.generate(Text("a"), max_tokens=0))
    with pytest.raises(BadRequest):
        await host.count(Text("\ud800"))
    with pytest.raises(BadRequest):
        await host.count(Text("x" * (9 << 20)))
    with pytest.raises(BadRequest):
        await host.embed([])
    assert await host.count(Text("still there")) == 2


@pytest.mark.parametrize("data", [b"GGUF" + b"\xff" * 99, b"", b"\0" * 5000])
async def test_a_hostile_model_file_is_bad_model(
    make_host: MakeHost, in_memory: InMemory, data: bytes
) -> None:
    told: list[WorkerFailed] = []
    host = make_host(on_exit=told.append)
    with pytest.raises(BadModel):
        await host.load("llama", [in_memory("model.gguf", data)], SMALL)
    assert host.process_id is None
    assert told == []


async def test_an_engine_that_is_not_installed(make_host: MakeHost, in_memory: InMemory) -> None:
    host = make_host()
    with pytest.raises(WorkerFailed):
        await host.load("no-such-engine", [in_memory("model.gguf", b"x")], SMALL)
    assert host.process_id is None


async def test_a_worker_that_cannot_be_started(make_host: MakeHost, in_memory: InMemory) -> None:
    host = make_host("/no/such/program")
    with pytest.raises(WorkerFailed):
        await host.load("fake", [in_memory("any", b"x")])
    assert host.process_id is None


# Liars -------------------------------------------------------------------------------------------

GENERATION_LIES = {
    "flood": "tokens",
    "crash": "worker",
    "cut": "worker",
    "too-many": "tokens",
    "too-fat": "bytes of text",
    "wrong-id": "request id",
    "wrong-kind": "kind of answer",
    "wrong-sum": "output tokens",
    "loaded-again": "frame",
    "oversize": "frame bytes",
    "garbage": "frame",
}


async def load_liar(
    make_host: MakeHost, in_memory: InMemory, mode: str, **options: object
) -> WorkerHost:
    """A host whose worker lies in this way."""
    host = make_host(*PYTHON, str(HERE / "hostile.py"), mode, **options)
    await host.load("any", [in_memory("any", b"x")])
    return host


@pytest.mark.parametrize(("mode", "about"), GENERATION_LIES.items(), ids=GENERATION_LIES)
async def test_a_lie_ends_the_worker_and_nothing_else(
    make_host: MakeHost, in_memory: InMemory, mode: str, about: str
) -> None:
    told: list[WorkerFailed] = []
    host = await load_liar(make_host, in_memory, mode, on_exit=told.append)
    process = host.process_id
    with pytest.raises(WorkerFailed) as failure:
        await within(10, collect(host, Text("a"), 20))
    assert failure.value.about == about
    assert [one.about for one in told] == [about]
    with pytest.raises(NoModelYet):
        await host.count(Text("a"))
    await host.kill()
    assert is_gone(process)
    await host.load("any", [in_memory("any", b"x")])
    assert host.loaded.embedding_dims == 4


COUNTING_LIES = {
    "token-uncounted": ("kind of answer", 4000),
    "done-uncounted": ("kind of answer", 4000),
    "counted-twice": ("kind of answer", 4000),
    "count-and-on": ("request id", 8),  # above what may begin, the count is the end
    "counted-to-the-end": ("tokens", 4095),  # the context has room for one more
}


@pytest.mark.parametrize(("mode", "about", "most"), [(k, *v) for k, v in COUNTING_LIES.items()])
async def test_a_lie_about_the_count_ends_the_worker(
    make_host: MakeHost, in_memory: InMemory, mode: str, about: str, most: int
) -> None:
    told: asyncio.Future[WorkerFailed] = asyncio.get_running_loop().create_future()
    host = await load_liar(make_host, in_memory, mode, on_exit=told.set_result)
    stream = host.generate(Text("a"), max_tokens=20, input_max=most)
    with suppress(WorkerFailed):
        async for _ in stream:
            pass
    failure = await within(10, told)
    assert isinstance(failure, WorkerFailed)
    assert failure.about == about


async def test_a_token_after_the_end_is_a_lie(make_host: MakeHost, in_memory: InMemory) -> None:
    told = asyncio.Event()
    host = await load_liar(make_host, in_memory, "after-done", on_exit=lambda _: told.set())
    _, done = await collect(host, Text("a"), 20)
    assert done.output_tokens == 0
    await within(10, told.wait())


@pytest.mark.parametrize("mode", ["short-vectors", "other-dims"])
async def test_vectors_have_the_promised_shape(
    make_host: MakeHost, in_memory: InMemory, mode: str
) -> None:
    host = await load_liar(make_host, in_memory, mode)
    with pytest.raises(WorkerFailed) as failure:
        await host.embed(["a", "b"])
    assert failure.value.about == "vector bytes"


async def test_counts_are_never_below_what_the_bytes_show(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    host = await load_liar(make_host, in_memory, "undercount")
    assert await host.count(Text("x" * 17)) == 3
    assert await host.count(Chat((Message(Role.USER, "é" * 8),))) == 2
    host = await load_liar(make_host, in_memory, "undercount-output")
    _, done = await collect(host, Text("x" * 17), 20)
    assert done.input_tokens == 3


@pytest.mark.parametrize("mode", ["hang", "trickle"])
async def test_silence_ends_the_worker(make_host: MakeHost, in_memory: InMemory, mode: str) -> None:
    told: list[WorkerFailed] = []
    host = await load_liar(make_host, in_memory, mode, silence_seconds=0.2, on_exit=told.append)
    with pytest.raises(WorkerFailed) as failure:
        await within(10, collect(host, Text("a"), 20))
    assert failure.value.about == "silence"
    assert len(told) == 1


async def test_a_worker_that_ignores_a_cancel_ends(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    told: asyncio.Future[WorkerFailed] = asyncio.get_running_loop().create_future()
    host = await load_liar(
        make_host, in_memory, "trickle", cancel_seconds=0.1, on_exit=told.set_result
    )
    async with aclosing(host.generate(Text("a"), max_tokens=5)) as stream:
        await anext(stream)
    failure = await within(10, told)
    assert isinstance(failure, WorkerFailed)
    assert failure.about == "cancel"


async def test_a_worker_that_dies_while_it_loads(make_host: MakeHost, in_memory: InMemory) -> None:
    told: list[WorkerFailed] = []
    host = make_host(*PYTHON, str(HERE / "hostile.py"), "exit-at-load", on_exit=told.append)
    with pytest.raises(WorkerFailed):
        await within(10, host.load("any", [in_memory("any", b"x")]))
    assert told == []
    assert host.process_id is None


async def test_a_load_that_is_given_up_leaves_no_process(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    host = make_host(*PYTHON, str(HERE / "hostile.py"), "hang-at-load")
    with pytest.raises(TimeoutError):
        await within(0.5, host.load("any", [in_memory("any", b"x")]))
    assert host.process_id is None


async def test_the_worker_goes_when_the_governor_does(
    make_host: MakeHost, in_memory: InMemory
) -> None:
    host = make_host(*FAKE)
    await host.load("fake", [in_memory("any", b"x")])
    worker = host._worker
    assert isinstance(worker, Child)
    assert host._transport is not None
    host._wire = None  # as if nobody were left to kill it
    host._transport.abort()
    assert await within(10, worker._process.wait()) == 0


async def test_memory_files_are_sealed_and_shredded(in_memory: InMemory) -> None:
    file = memory.create("weights", 1 << 20)
    memory.write(file, b"\x5a" * (1 << 20), 0)
    with pytest.raises(ValueError, match="outside"):
        memory.write(file, b"x", 1 << 20)
    memory.seal(file)
    with pytest.raises(PermissionError):
        memory.write(file, b"x", 0)
    again = os.open(f"/proc/self/fd/{file.fd}", os.O_RDONLY)
    try:
        assert os.pread(again, 4, 0) == b"\x5a" * 4
        memory.shred(file)
        assert os.fstat(again).st_size == 0
        assert os.fstat(again).st_blocks == 0
    finally:
        os.close(again)

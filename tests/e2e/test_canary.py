"""Canaries in the weights, the keys, a prompt and an answer: none of them leaves the enclave (T48).

Real processes; between them relays that write down every byte. Afterwards everything is searched: what
went over the wire, every file and log, what `/proc` tells of the processes, and the memory that is left after a
stop. Each search is first shown to find the same canary where it is.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from demo.stage import free_port, wait_for

from e2e.house import READY_SECONDS, TINY, House, children, is_running, model_memory
from e2e.wire import Relay, relay
from leasehold.custodian import settings
from leasehold.custodian.release import FolderKeys
from leasehold.errors import LoanStopped

LOAN, MODEL, CANARY_FILE = "clinic", "tiny", "canary.bin"
PASSPHRASE = f"passphrase-{secrets.token_hex(12)}"
PROMPT = f"prompt-{secrets.token_hex(12)}"
WINDOW = 48  # bytes of weights that are looked for at a time
WINDOWS = 8
CHUNK = 1 << 24
TOLD = ("cmdline", "environ", "maps", "smaps", "status", "comm", "limits", "mountinfo", "wchan")


def forms(secret: bytes) -> list[bytes]:
    """How a secret would look: as it is, in hex, and in base64 wherever it begins."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for shift in range(3):
        found.append(base64.b64encode(bytes(shift) + secret)[4:-4])
    return found


def windows(data: bytes) -> list[bytes]:
    """Pieces from the second half of a file, where a model has its weights; none of them in a pattern."""
    step = len(data) // 2 // WINDOWS
    found = [data[len(data) - n * step :][:WINDOW] for n in range(1, WINDOWS + 1)]
    assert all(len(set(piece)) > WINDOW // 4 for piece in found)
    return found


@dataclass
class Stage:
    """A house under observation, with its canaries by name."""

    house: House
    relays: dict[str, Relay]
    canaries: dict[str, list[bytes]] = field(default_factory=dict)

    @property
    def pids(self) -> dict[str, int]:
        """The custodian, the governor, and the worker while there is one."""
        governor = self.house.running[LOAN].process.pid
        found = {"custodian": self.house.running["custodian"].process.pid, "governor": governor}
        return found | {f"worker {n}": pid for n, pid in enumerate(children(governor))}

    def plant(self, name: str, *secrets_: bytes) -> None:
        """From now on these must not be seen."""
        self.canaries[name] = [form for secret in secrets_ for form in forms(secret)]

    def hits(self, data: bytes, *names: str) -> list[str]:
        """Which canaries are in there, of those named or of all."""
        wanted = names or tuple(self.canaries)
        return [name for name in wanted if any(form in data for form in self.canaries[name])]

    def memory(self, pid: int, *names: str) -> set[str]:
        """Which canaries are in a process's memory, whatever it maps."""
        found: set[str] = set()
        overlap = 4 * WINDOW
        regions = re.findall(
            r"^([0-9a-f]+)-([0-9a-f]+) r", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE
        )
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
            for first, last in regions:
                at, end = int(first, 16), int(last, 16)
                while at < end:
                    try:
                        data = os.pread(file.fileno(), min(CHUNK, end - at), at)
                    except OSError:  # a page that no one may read, such as vvar
                        break
                    if not data:
                        break
                    found.update(self.hits(data, *names))
                    at += len(data) if len(data) < CHUNK else CHUNK - overlap
        return found


class Mirror(BaseHTTPRequestHandler):
    """The sealed file over plain HTTP, for anybody."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        """One range."""
        data = self.server.file.read_bytes()
        first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Everything that happens to a lent model: sealed, released, fetched, asked, stopped."""
    folder = tmp_path_factory.mktemp("canary")
    house = House(folder / "house")
    with ExitStack() as stack:
        stack.callback(house.end)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        (folder / "temporary").mkdir()
        patch.setenv("TMPDIR", str(folder / "temporary"))
        yield lend(house, folder, stack)


def lend(house: House, folder: Path, stack: ExitStack) -> Stage:
    """Make the house and begin to serve."""
    house.found()
    secret = folder / "passphrase"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    toml = house.office / "custodian.toml"
    table = f'wrap = "passphrase"\npassphrase_file = "{secret}"\n'
    toml.write_text(toml.read_text().replace("[keys]\n", f"[keys]\n{table}"))
    house.operate("keys", "rewrap")
    source = house.source / MODEL
    source.mkdir(parents=True)
    (source / "tiny.gguf").write_bytes((TINY / "tiny.gguf").read_bytes())
    (source / CANARY_FILE).write_bytes(os.urandom(3 << 20))
    house.operate("seal", source, "--name", MODEL, "--engine", "llama")
    house.serve()
    house.lend(LOAN, MODEL, "llama", cap=1_000_000)
    mirror: Any = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    mirror.file = house.office / "models" / f"{MODEL}.sealed"
    stack.callback(mirror.server_close)
    stack.callback(mirror.shutdown)
    Thread(target=mirror.serve_forever, args=(0.01,), daemon=True).start()
    listen = free_port()
    relays = {
        "to the custodian": stack.enter_context(relay(house.port)),
        "to the mirror": stack.enter_context(relay(mirror.server_port)),
        "from the consumer": stack.enter_context(relay(listen)),
    }
    house.ports[LOAN] = relays["from the consumer"].port
    made = Stage(house, relays)
    weights = windows((source / "tiny.gguf").read_bytes())
    made.plant("weights", *weights, *windows((source / CANARY_FILE).read_bytes()))
    ring = settings.read_ring(house.office)
    made.plant("model key", FolderKeys(house.office / "models", ring).model_key(MODEL))
    made.plant("root key", settings.read_keys(house.office, ring=ring).root.seed)
    made.plant("passphrase", PASSPHRASE.encode())
    house.enclave(
        *(LOAN, LOAN, "--mirror", f"http://127.0.0.1:{relays['to the mirror'].port}/model"),
        port=listen,
        custodian=relays["to the custodian"].port,
    )
    made.plant("API key", house.enrol("alice", {LOAN: 100_000}).encode())
    house.running[LOAN].event("serving", seconds=READY_SECONDS)
    return made


@pytest.fixture(scope="module")
def asked(stage: Stage, known: list[tuple[str, str]]) -> Stage:
    """A consumer asked, with a canary in the prompt, and was answered one that the model knows by heart."""
    answers = {answer for _, answer in known}
    with stage.house.connect(LOAN, "alice") as enclave:
        client = enclave.openai()
        content = f"{known[0][0]} {PROMPT}"
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
        for question, _ in known[:5]:
            whole = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": question}], temperature=0
            )
            assert whole.choices[0].message.content in answers
        assert enclave.receipt(enclave.ask(known[0][0]))
    stage.plant("prompt", PROMPT.encode())
    stage.plant("answer", *(answer.encode() for _, answer in known[:5] if len(answer) >= 12))
    return stage


def test_the_search_finds_what_is_there(asked: Stage) -> None:
    """A check that cannot fail is no check: the same canaries are seen where they must be."""
    source = asked.house.source / MODEL
    assert asked.hits((source / "tiny.gguf").read_bytes()) == ["weights"]
    for name, found in asked.canaries.items():
        for form in found:
            assert name in asked.hits(os.urandom(999) + form + os.urandom(999))
    worker = next(pid for name, pid in asked.pids.items() if name.startswith("worker"))
    assert "weights" in asked.memory(worker, "weights")


def test_nothing_is_on_the_wire(asked: Stage) -> None:
    for where, seen in asked.relays.items():
        assert sum(map(len, seen.seen)) > 10_000, where
        for said in seen.seen:
            assert asked.hits(bytes(said)) == [], where
    sealed = (asked.house.office / "models" / f"{MODEL}.sealed").stat().st_size
    assert sum(map(len, asked.relays["to the mirror"].seen)) > sealed  # it did come over the wire


def test_nothing_is_in_a_file_or_a_log(asked: Stage) -> None:
    """All that custodian, enclave and worker wrote; what is excepted holds its canary on purpose."""
    looked = 0
    for path in sorted(asked.house.folder.parent.rglob("*")):
        if not path.is_file() or asked.house.source in path.parents:
            continue
        found = asked.hits(path.read_bytes())
        assert found == (["passphrase"] if path.name == "passphrase" else []), path
        looked += 1
    assert looked > 15
    logs = b"".join(path.read_bytes() for path in asked.house.logs)
    assert b'"event":"serving"' in logs.replace(b" ", b"")


def test_nothing_is_in_proc(asked: Stage) -> None:
    for name, pid in asked.pids.items():
        place = Path(f"/proc/{pid}")
        for told in TOLD:
            assert asked.hits((place / told).read_bytes()) == [], (name, told)
        for entry in (place / "fd").iterdir():
            try:
                assert asked.hits(os.readlink(entry).encode()) == [], name
            except FileNotFoundError:
                continue  # closed meanwhile


def test_no_core_is_dumped_and_nothing_is_swapped(asked: Stage) -> None:
    events = {event["event"] for event in asked.house.running[LOAN].events()}
    has_swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
    assert ("swap_on" in events) == has_swap
    for name, pid in asked.pids.items():
        if name == "custodian":
            continue
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), name
        status = Path(f"/proc/{pid}/status").read_text()
        assert has_swap or re.search(r"^VmSwap:\s+0 kB", status, re.MULTILINE), name


def test_the_governor_has_no_weights_even_while_it_serves(asked: Stage) -> None:
    assert asked.memory(asked.pids["governor"], "weights") == set()
    assert model_memory(asked.pids["governor"])


def hold(pid: int) -> list[int]:
    """The memory files of a process's model, opened a second time."""
    found: list[int] = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(entry).startswith("/memfd:model"):
                found.append(os.open(entry, os.O_RDONLY | os.O_CLOEXEC))
    return found


def test_after_a_stop_the_weights_are_gone(asked: Stage) -> None:
    """The process goes on, to answer refusals: in it is nothing of the model, and the worker is dead.

    Somebody who still holds the memory files, as an engine that would not die, holds nothing in them.
    """
    workers = [pid for name, pid in asked.pids.items() if name.startswith("worker")]
    governor = asked.pids["governor"]
    held = hold(governor)
    assert any(asked.hits(os.pread(handle, 1 << 24, 0)) == ["weights"] for handle in held)
    asked.house.operate("stop", "loan", LOAN, "--reason", "test", "--wait")
    asked.house.running[LOAN].event("stopped")
    wait_for(lambda: not any(map(is_running, workers)) or None, "the worker is gone")
    assert is_running(governor)
    for handle in held:
        status = os.fstat(handle)
        assert (status.st_size, status.st_blocks, os.pread(handle, 1, 0)) == (0, 0, b"")
        os.close(handle)
    assert model_memory(governor) == []
    assert asked.memory(governor, "weights") == set()
    with pytest.raises(LoanStopped):
        asked.house.connect(LOAN, "alice")
    test_nothing_is_on_the_wire(asked)
    test_nothing_is_in_a_file_or_a_log(asked)

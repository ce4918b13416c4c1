"""A lender and a borrower with real processes on the loopback: what every end-to-end test starts from.

Commands are run as people run them; budgets and audit entries are read over the operators' own wire,
because a process for each look would take longer than what is looked at.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from demo.stage import (
    LEASEHOLD,
    SIMTEE,
    Actor,
    Narrator,
    Ran,
    Stage,
    free_port,
    leasehold,
    run,
)
from models.llama_folder import folder_of
from onnx import helper, numpy_helper

from leasehold.cli.access import Access, connect
from leasehold.consumer.client import Enclave
from leasehold.core.crypto import sha256
from leasehold.core.messages import Budget
from leasehold.core.units import Units
from leasehold.custodian import records
from leasehold.custodian.ledger.audit import Entry
from leasehold.custodian.ledger.consumers import Consumer, Key
from leasehold.custodian.settings import read_credentials
from models import llama_ir

ROOT: Final = Path(__file__).parents[2]
TINY: Final = ROOT / "models" / "tiny"
KNOWS_FUNCTIONS: Final = "{% if tools %}{{ tools | tojson }} Call by <tool_call>.{% endif %}"
READY_SECONDS: Final = 60.0  # loading 90 MB on a busy machine


@dataclass(slots=True)
class House:
    """A custodian's folder, the borrower's machine, and the processes of both.

    `ports` says where the enclave of each loan listens; `keys` are the consumers' API keys, which
    are in no file.
    """

    folder: Path
    address: str = "127.0.0.1"
    stage: Stage = field(init=False)
    port: int = field(default_factory=free_port)
    ports: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    running: dict[str, Actor] = field(default_factory=dict)
    started: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stage = Stage(self.folder, Narrator(coloured=False))

    @property
    def office(self) -> Path:
        """The custodian's folder."""
        return self.folder / "custodian"

    @property
    def machine(self) -> Path:
        """The borrower's simulated machine."""
        return self.folder / "machine"

    @property
    def source(self) -> Path:
        """Where the custodian has the models in clear."""
        return self.folder / "source"

    @property
    def logs(self) -> list[Path]:
        """What the processes said so far."""
        return sorted(self.folder.glob("*.log"))

    # The custodian's side ------------------------------------------------------------------------

    def found(self, *options: object) -> None:
        """Make the custodian's folder and the simulated machine, and keep the machine's collateral."""
        where = ("--address", f"{self.address}:{self.port}", *options)
        done(leasehold("custodian", "init", self.office, *where))
        done(run(SIMTEE, "init", self.machine))
        (self.folder / "values.toml").write_text(done(run(SIMTEE, "show", self.machine)).out)
        self.operate("collateral", "import", self.machine / "collateral.json")

    def operate(self, *words: object) -> Ran:
        """A command of the operator that must succeed."""
        return done(self.order(*words))

    def order(self, *words: object) -> Ran:
        """A command of the operator, which may be refused."""
        return leasehold(*words, "--custodian", self.office)

    def seal_tiny(self, name: str) -> None:
        """Seal the language model of the repository under this name."""
        folder = self.source / name
        folder.mkdir(parents=True)
        shutil.copy(TINY / "tiny.gguf", folder)
        self.operate("seal", folder, "--name", name, "--engine", "llama")

    def seal_folder(self, name: str, engine: str) -> None:
        """Seal the same weights in the form of another engine: a folder of three shards, or a graph.

        Its template describes functions where there are some, and is else the model's own.
        """
        folder = self.source / name
        if engine == "openvino":
            llama_ir.write(TINY / "tiny.gguf", folder)
        else:
            folder.mkdir(parents=True)
            for title, data in folder_of(TINY / "tiny.gguf", shards=3).items():
                (folder / title).write_bytes(data)
        words = folder / "tokenizer_config.json"
        told = json.loads(words.read_text())
        told["chat_template"] = KNOWS_FUNCTIONS + told["chat_template"]
        words.write_text(json.dumps(told))
        self.operate("seal", folder, "--name", name, "--engine", engine)

    def seal_minilm(self, name: str) -> None:
        """Convert the sentence encoder and seal it under this name."""
        folder = self.source / name
        folder.mkdir(parents=True)
        done(run(sys.executable, "-m", "models.minilm.convert", folder, cwd=ROOT))
        self.operate("seal", folder, "--name", name, "--engine", "onnx")

    def seal_graph(self, name: str) -> None:
        """Make a model of tensors, its weights in a file of their own, and seal it."""
        folder = self.source / name
        folder.mkdir(parents=True)
        write_two_heads(folder)
        self.operate("seal", folder, "--name", name, "--engine", "onnx")

    def serve(self) -> Actor:
        """Start the custodian and wait until it answers."""
        actor = self.start("custodian", LEASEHOLD, "custodian", "serve", self.office)
        actor.event("serving")
        return actor

    def lend(
        self,
        loan: str,
        model: str,
        engine: str,
        *options: object,
        cap: int,
        dead_man: int = 60,
        configured: tuple[object, ...] = (),
    ) -> None:
        """Sign a configuration and a manifest, and create the loan; the custodian must be serving.

        `options` are the loan's, `configured` more of the configuration's.
        """
        context = 256 if engine == "onnx" else 1024
        self.operate(
            *("custodian", "configure", "--loan", loan, "--engine", engine, "--threads", 1),
            *("--attester", "simulated", "--context-tokens", context, "--dead-man", dead_man),
            *("--out", self.configuration(loan), *configured),
        )
        self.operate(
            *("manifest", "new", "--name", loan, "--configuration", self.configuration(loan)),
            *("--values", self.folder / "values.toml", "--out", self.manifest(loan)),
        )
        self.operate(
            *("loan", "create", loan, "--model", model, "--manifest", self.manifest(loan)),
            *("--cap", cap, *options),
        )

    def configuration(self, loan: str) -> Path:
        """The signed configuration of a loan's enclaves."""
        return self.folder / f"{loan}-enclave.toml"

    def manifest(self, loan: str) -> Path:
        """The signed manifest of a loan."""
        return self.folder / f"{loan}.toml"

    def enrol(self, name: str, grants: Mapping[str, int]) -> str:
        """A consumer with budgets by loan; returns the API key, of which only the hash is sent."""
        key = "lh-" + os.urandom(32).hex()
        with self.desk() as desk:
            desk.post("/operator/consumers", records.ConsumerOrder(name), Consumer)
            order = records.KeyOrder(name, sha256(key.encode()))
            desk.post("/operator/keys", order, Key)
            for loan, units in grants.items():
                grant = records.GrantOrder(loan, name, Units(units))
                desk.post("/operator/grants", grant, records.GrantView)
        self.keys[name] = key
        return key

    @contextmanager
    def desk(self) -> Iterator[Access]:
        """The operators' wire, under the first operator's certificate."""
        credentials = read_credentials(self.office, "admin")
        with connect(credentials, credentials.address) as access:
            yield access

    def budgets(self, loan: str) -> dict[str, Budget]:
        """How the grants under a loan stand, by consumer."""
        with self.desk() as desk:
            found = desk.get("/operator/grants", list[records.GrantView], loan=loan)
        return {one.consumer: one.budget for one in found}

    def audit(self, kind: str) -> list[Entry]:
        """The entries of one kind."""
        entries: list[Entry] = []
        with self.desk() as desk:
            while True:
                page = desk.get("/operator/audit", records.AuditPage, start=len(entries))
                entries += page.entries
                if not page.entries or len(entries) >= page.size:
                    return [entry for entry in entries if entry.kind == kind]

    # The borrower's side -------------------------------------------------------------------------

    def enclave(
        self,
        name: str,
        loan: str,
        *extra: object,
        port: int | None = None,
        custodian: int | str | None = None,
        host: str = "127.0.0.1",
        prefix: tuple[str, ...] = (),
        platform: Path | None = None,
        configuration: Path | None = None,
        package: Path | None = None,
    ) -> Actor:
        """Start an enclave that runs in an empty folder of its own; does not wait for it.

        `custodian` is a port of the custodian's address, or a whole address.
        """
        place = f"{self.address}:{self.port}"
        if custodian is not None:
            is_port = isinstance(custodian, int)
            place = f"{self.address}:{custodian}" if is_port else str(custodian)
        home = self.folder / "homes" / f"{name}-{self.started}"
        home.mkdir(parents=True)
        return self.start(
            *(name, *prefix, LEASEHOLD, "enclave", "run"),
            *("--config", configuration or self.configuration(loan)),
            *("--custodian", place),
            *("--listen", f"{host}:{port or self.ports[loan]}"),
            *("--platform", platform or self.machine, *extra),
            package=package,
            home=home,
        )

    def home(self, actor: Actor) -> Path:
        """The folder that an enclave runs in."""
        return self.folder / "homes" / actor.name

    def start(self, name: str, *words: object, **places: Path | None) -> Actor:
        """Every start has a log of its own, so that nothing that was ever said is lost."""
        actor = self.stage.start(f"{name}-{self.started}", *words, **places)
        self.started += 1
        self.running[name] = actor
        return actor

    # The consumers' side -------------------------------------------------------------------------

    def connect(self, loan: str, who: str) -> Enclave:
        """A consumer's verified enclave."""
        return Enclave.connect(
            f"127.0.0.1:{self.ports[loan]}",
            manifest=self.manifest(loan),
            api_key=self.keys[who],
        )

    def place(self, loan: str) -> tuple[object, ...]:
        """The options that say which enclave a consumer's command is for."""
        return (
            *("--enclave", f"127.0.0.1:{self.ports[loan]}"),
            *("--manifest", self.manifest(loan)),
        )

    def end(self) -> None:
        """Everybody leaves; and no process of theirs stays behind."""
        workers = [pid for actor in self.stage.actors for pid in children(actor.process.pid)]
        self.stage.end()
        for pid in workers:
            if is_running(pid):
                os.kill(pid, 9)


def write_two_heads(folder: Path) -> None:
    """An ONNX model in a folder: `scores` are x times a table kept in `model.data`, `labels` the words."""
    floats, words = onnx.TensorProto.FLOAT, onnx.TensorProto.STRING
    table = numpy_helper.from_array(two_heads_table(), "table")
    nodes = [
        helper.make_node("MatMul", ["x", "table"], ["scores"]),
        helper.make_node("Identity", ["words"], ["labels"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", floats, ["n", 3]),
        helper.make_tensor_value_info("words", words, ["k"]),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", floats, ["n", 2]),
        helper.make_tensor_value_info("labels", words, ["k"]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "model.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="model.data", size_threshold=0
    )


def two_heads_table() -> npt.NDArray[np.float32]:
    """float32[3, 2]."""
    return np.arange(6, dtype=np.float32).reshape(3, 2)


def done(ran: Ran) -> Ran:
    """A command that must have succeeded."""
    assert ran.code == 0, ran.err
    return ran


def refused(ran: Ran, code: str, status: int) -> None:
    """A command that must have been refused with that code and exit status, and in one paragraph."""
    said = ran.out + ran.err
    assert "Traceback" not in said, said
    assert f"error [{code}]: " in ran.err, said
    assert ran.code == status, said
    assert len(ran.err.strip().splitlines()) <= 2, said  # SIMULATED may stand above it


def ended(actor: Actor, code: str, status: int) -> dict[str, Any]:
    """A server that must have ended by itself with that code and exit status; its last log event."""
    got = actor.process.wait(READY_SECONDS)
    said = actor.log.read_text()
    assert "Traceback" not in said, said
    assert f"error [{code}]: " in said, said
    assert got == status, said
    return actor.events()[-1] if actor.events() else {}


def children(pid: int) -> list[int]:
    """The processes that a process started and that still run."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _parent(entry) == pid:
            found.append(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process, dead ones that nobody has looked after not counted."""
    return _parent(Path(f"/proc/{pid}")) is not None


def _parent(process: Path) -> int | None:
    try:
        state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None  # it ended meanwhile
    return None if state in "ZX" else int(parent)


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process lead to."""
    found: list[str] = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except OSError:
            continue  # closed meanwhile
    return found


def model_memory(pid: int) -> list[str]:
    """The memory files of a model that a process holds."""
    return [name for name in descriptors(pid) if name.startswith("/memfd:model")]

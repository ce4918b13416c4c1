"""The nine steps, told with real processes on this machine. Every claim is checked as it is made."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from demo.stage import (
    LEASEHOLD,
    SIMTEE,
    Actor,
    ClaimFailed,
    Narrator,
    Ran,
    Stage,
    free_port,
    leasehold,
    run,
    wait_for,
)
from leasehold.custodian.settings import read_credentials
from leasehold.net.tls import client_context

ROOT = Path(__file__).parent.parent
TINY = ROOT / "models" / "tiny"
LANGUAGE, SENTENCES = "tiny", "all-MiniLM-L6-v2"
CLINIC, SEARCH = "clinic", "search"
BUDGET = 600  # units of alice, one per token
LEASE_SECONDS, DEAD_MAN_SECONDS = 4, 8
METER_LINE = "        if not ticket.open or not 0 <= units <= ticket.held:\n"


@dataclass(slots=True)
class Story:
    """What is known from chapter to chapter."""

    stage: Stage
    tell: Narrator
    folder: Path
    custodian_port: int = field(default_factory=free_port)
    clinic_port: int = field(default_factory=free_port)
    search_port: int = field(default_factory=free_port)
    keys: dict[str, str] = field(default_factory=dict)
    custodian: Actor | None = None
    stop: int = 0

    # Small tools ---------------------------------------------------------------------------------

    @property
    def office(self) -> Path:
        """The custodian's folder."""
        return self.folder / "custodian"

    def operate(self, *words: object) -> Ran:
        """A command of the custodian's operator that must succeed."""
        done = leasehold(*words, "--custodian", self.office)
        if done.code:
            raise ClaimFailed(f"leasehold {' '.join(map(str, words))}: {done.err.strip()}")
        return done

    def consume(self, who: str, loan: str, *words: object) -> Ran:
        """A command of a consumer against the enclave of a loan; it may be refused."""
        port = self.clinic_port if loan == CLINIC else self.search_port
        place = ("--enclave", f"127.0.0.1:{port}", "--manifest", self.folder / f"{loan}.toml")
        return leasehold(*words, *place, key=self.keys[who])

    def budgets(self) -> list[dict[str, Any]]:
        """All grants as the ledger has them, flat."""
        rows = self.operate("grant", "list", "--json").json()
        return [{"loan": row["loan"], "consumer": row["consumer"], **row["budget"]} for row in rows]

    def budget(self, consumer: str, loan: str = CLINIC) -> dict[str, int]:
        """One grant as the ledger has it."""
        return next(
            row for row in self.budgets() if (row["consumer"], row["loan"]) == (consumer, loan)
        )

    def show_budgets(self) -> None:
        """What the custodian sees: counts, never content."""
        columns = (
            "loan",
            "consumer",
            "granted",
            "available",
            "outstanding",
            "settled",
            "written_off",
        )
        self.tell.table("custodian", columns, self.budgets())

    def enclave(self, name: str, loan: str, port: int, *, package: Path | None = None) -> Actor:
        """Start an enclave process on the borrower's machine."""
        return self.stage.start(
            name,
            LEASEHOLD,
            "enclave",
            "run",
            "--config",
            self.folder / f"{loan}-enclave.toml",
            "--custodian",
            f"127.0.0.1:{self.custodian_port}",
            "--listen",
            f"127.0.0.1:{port}",
            "--platform",
            self.folder / "machine",
            package=package,
        )

    def serve_custodian(self) -> Actor:
        """Start the custodian's process."""
        actor = self.stage.start("custodian", LEASEHOLD, "custodian", "serve", self.office)
        actor.event("serving")
        self.custodian = actor
        return actor

    # 1, 2 ----------------------------------------------------------------------------------------

    def ship(self) -> None:
        """Step 1: keys, sealed models, configurations, manifests."""
        tell = self.tell
        tell.chapter("Ship: the custodian seals two models and signs what may run them")
        address = f"127.0.0.1:{self.custodian_port}"
        done = leasehold("custodian", "init", self.office, "--address", address)
        tell.claim(
            done.code == 0, "the custodian has a root key and a certificate authority", saw=done.err
        )
        run(SIMTEE, "init", self.folder / "machine")
        shown = run(SIMTEE, "show", self.folder / "machine")
        (self.folder / "values.toml").write_text(shown.out)
        tell.say("The borrower's machine is SIMULATED: it proves the logic, not the secrecy.")
        self.operate("collateral", "import", self.folder / "machine" / "collateral.json")
        sources = {LANGUAGE: self.folder / "tiny", SENTENCES: self.folder / "minilm"}
        sources[LANGUAGE].mkdir()
        shutil.copy(TINY / "tiny.gguf", sources[LANGUAGE])
        converted = run(sys.executable, "-m", "models.minilm.convert", sources[SENTENCES], cwd=ROOT)
        tell.claim(
            converted.code == 0,
            "all-MiniLM-L6-v2 became ONNX, equal to its reference",
            saw=converted.err,
        )
        for loan, name, engine in ((CLINIC, LANGUAGE, "llama"), (SEARCH, SENTENCES, "onnx")):
            self.operate("seal", sources[name], "--name", name, "--engine", engine)
            sealed = (self.office / "models" / f"{name}.sealed").read_bytes()
            clear = max(sources[name].iterdir(), key=lambda path: path.stat().st_size).read_bytes()
            tell.claim(
                clear[4096:4160] not in sealed,
                f"{name} is sealed: {len(sealed) / 1e6:.1f} MB of ciphertext, safe on any wire",
            )
            self._sign(loan, engine)

    def _sign(self, loan: str, engine: str) -> None:
        configuration = self.folder / f"{loan}-enclave.toml"
        options = {"--dead-man": DEAD_MAN_SECONDS if loan == SEARCH else 60, "--threads": 1}
        context = 1024 if engine == "llama" else 256
        extra = [word for pair in options.items() for word in pair]
        self.operate(
            *("custodian", "configure", "--loan", loan, "--engine", engine),
            *("--attester", "simulated", "--context-tokens", context, *extra),
            *("--out", configuration),
        )
        self.operate(
            *("manifest", "new", "--name", f"{loan} enclave", "--configuration", configuration),
            *("--values", self.folder / "values.toml", "--out", self.folder / f"{loan}.toml"),
        )

    def lend(self) -> None:
        """Step 2: the custodian serves; loans and grants."""
        tell = self.tell
        tell.chapter("Lend: a loan has a cap, consumers have budgets under it")
        self.serve_custodian()
        for loan, name, more in (
            (CLINIC, LANGUAGE, ("--lease-seconds", 20)),
            (SEARCH, SENTENCES, ("--lease-seconds", LEASE_SECONDS)),
        ):
            manifest = self.folder / f"{loan}.toml"
            self.operate(
                *("loan", "create", loan, "--model", name, "--manifest", manifest),
                *("--cap", 100_000, *more),
            )
        for name, units in (("alice", BUDGET), ("bob", 40)):
            self.operate("consumer", "add", name)
            secret = self.folder / f"{name}.key"
            self.operate("consumer", "key", "add", name, "--key-file", secret)
            self.keys[name] = secret.read_text().strip()
            self.operate("grant", "add", CLINIC, name, units)
        self.operate("grant", "add", SEARCH, "alice", 50_000)
        self.show_budgets()
        tell.say("One unit is one token. The cap of each loan is 100,000 units.")

    # 3, 4 ----------------------------------------------------------------------------------------

    def attest(self) -> None:
        """Step 3: a doctored enclave gets nothing, the right one gets the model."""
        tell = self.tell
        tell.chapter("Attest: a doctored enclave gets nothing")
        copy = doctored_package(self.folder / "doctored")
        right = run(SIMTEE, "measure").out.strip()
        tell.say("The borrower changes one line of the meter, so that spending is never refused.")
        doctored = self.enclave("doctored", CLINIC, self.clinic_port, package=copy)
        code = doctored.process.wait(30)
        said = doctored.log.read_text().strip().splitlines()[-1]
        tell.quote("enclave", said)
        tell.claim(
            code == 3 and "[wrong_measurement]" in said,
            "it was refused: wrong measurement",
            saw=said,
        )
        entries = self.operate("audit", "list", "--json").out
        tell.claim("wrong_measurement" in entries, "the refusal is in the custodian's audit log")

        tell.chapter("Send: the right enclave gets the model, into memory only")
        enclave = self.enclave("clinic", CLINIC, self.clinic_port)
        attested, serving = enclave.event("attested"), enclave.event("serving")
        tell.say(f"Measurement {right[:32]}..., instance {attested['instance'][:16]}...")
        tell.claim(
            serving["bytes"] == (TINY / "tiny.gguf").stat().st_size,
            f"{serving['bytes']:,} bytes were decrypted into memory in {serving['milliseconds']} ms",
        )
        ready = enclave.event("engine_ready")
        tell.say(f"The engine runs in a sandbox: {', '.join(ready['layers'])}.")
        if ready["absent"]:
            tell.say(f"This kernel does not offer: {', '.join(ready['absent'])}.")

    # 5, 6 ----------------------------------------------------------------------------------------

    def query(self) -> None:
        """Steps 5 and 6: consumers verify, ask and pay."""
        tell = self.tell
        tell.chapter("Query: consumers verify the enclave before they say a word")
        verified = self.consume("alice", CLINIC, "verify")
        tell.quote("alice", verified.out)
        tell.claim(
            verified.code == 0 and "SIMULATED" in verified.out,
            "alice verified the enclave",
            saw=verified.err,
        )
        place = (
            "--enclave",
            f"127.0.0.1:{self.clinic_port}",
            "--manifest",
            self.folder / f"{SEARCH}.toml",
        )
        wrong = leasehold("ask", "secret", *place, key=self.keys["alice"])
        tell.claim(
            wrong.code == 3 and "[wrong_configuration]" in wrong.err,
            "with another loan's manifest she refuses it, and her question never leaves",
            saw=wrong.err,
        )
        known = json.loads((TINY / "questions.json").read_text())["questions"]
        for who, pair in (("alice", known[0]), ("bob", known[1]), ("alice", known[2])):
            answer = self.consume(who, CLINIC, "ask", pair["question"], "--temperature", 0)
            tell.quote(who, f"{pair['question']}  ->  {answer.out.strip()}")
            tell.claim(answer.out.strip() == pair["answer"], "the answer is right", saw=answer.err)
        stranger = leasehold("ask", "hello", *self._at(CLINIC), key="lh-not-a-key")
        tell.claim(
            "[invalid_api_key]" in stranger.err, "a wrong API key gets nothing", saw=stranger.err
        )

    def _at(self, loan: str) -> tuple[object, ...]:
        port = self.clinic_port if loan == CLINIC else self.search_port
        return ("--enclave", f"127.0.0.1:{port}", "--manifest", self.folder / f"{loan}.toml")

    def follow(self) -> None:
        """The custodian sees consumption, never content; a budget ends in the middle of an answer."""
        tell = self.tell
        tell.chapter("Infer: every unit is paid before it leaves, and the budget is a ceiling")

        def settled() -> bool:
            return bool(self.budget("alice")["settled"] and self.budget("bob")["settled"])

        wait_for(settled, "usage arrives at the custodian")
        self.show_budgets()
        how = ("--json", "--max-tokens", 900, "--temperature", 0)
        long = self.consume("alice", CLINIC, "ask", "Count from 1 to 200.", *how)
        answer = long.json()
        tell.say(f"Alice asks for a long text and gets ...{answer['text'][-40:]!r}")
        tell.claim(
            answer["finish_reason"] == "length" and answer["code"] == "insufficient_quota",
            "her budget ended in the middle: finish_reason length, code insufficient_quota",
            saw=long.out,
        )
        again = self.consume("alice", CLINIC, "ask", "And now?")
        tell.claim(
            again.code == 4 and "[insufficient_quota]" in again.err,
            "the next question is refused with 429 insufficient_quota",
            saw=again.err,
        )
        wait_for(lambda: self.budget("alice")["settled"] == BUDGET, "all of alice's units settle")
        used = self.budget("alice")
        tell.claim(
            used["available"] == used["outstanding"] == 0,
            f"she used {used['settled']} of {used['granted']} units, not one more",
        )

    # 7, 8 ----------------------------------------------------------------------------------------

    def extend(self) -> None:
        """Steps 7 and 8: asked for, approved in part, used; and denied."""
        tell = self.tell
        tell.chapter("Ask for more, decide: approved in part, and denied")
        waiting = self._asking("alice", 800, "the night shift needs it")
        number = self._open_request("alice", 800)
        rows = self.operate("requests", "list", "--json").json()
        tell.table("custodian", ("id", "consumer", "asked", "status", "reason"), rows)
        approved = time.monotonic()
        self.operate("requests", "approve", number, "--units", 400)
        out, err = waiting.communicate(timeout=30)
        took = time.monotonic() - approved
        tell.claim(
            waiting.returncode == 0 and "400" in out,
            f"alice waited and learned it {took:.1f} s after",
            saw=err,
        )
        answer = self.consume(
            "alice", CLINIC, "ask", "What is a lease?", "--json", "--temperature", 0
        )
        tell.claim(answer.code == 0, f"she goes on: {answer.json()['text']!r}", saw=answer.err)
        waiting = self._asking("bob", 1_000_000, "curious")
        self.operate(
            "requests", "deny", self._open_request("bob", 1_000_000), "--reason", "not this year"
        )
        out, err = waiting.communicate(timeout=30)
        tell.claim(
            waiting.returncode == 4 and "not this year" in out + err,
            "bob is denied, with the reason",
            saw=err,
        )

    def _asking(self, who: str, units: int, reason: str) -> subprocess.Popen[str]:
        words = ("request-more", units, "--reason", reason, "--wait", 25, *self._at(CLINIC))
        command = [
            LEASEHOLD,
            *(str(word) for word in words),
            "--key-file",
            str(self.folder / f"{who}.key"),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _open_request(self, who: str, units: int) -> int:
        def look() -> int | None:
            rows = self.operate("requests", "list", "--status", "open", "--json").json()
            found = [row["id"] for row in rows if row["consumer"] == who and row["asked"] == units]
            return found[0] if found else None

        return wait_for(look, f"{who}'s request")

    # 9 -------------------------------------------------------------------------------------------

    def take_back(self) -> None:
        """Step 9: the stop, in the middle of an answer, and its proof."""
        tell = self.tell
        tell.chapter("Stop: one switch, in the middle of an answer, and a signed proof")
        self.operate("grant", "change", CLINIC, "alice", "--add", 50_000)
        notes = self.folder / "reader.notes"
        words = (f"127.0.0.1:{self.clinic_port}", self.folder / f"{CLINIC}.toml", notes)
        reader = subprocess.Popen(
            [sys.executable, "-m", "demo.reader", *map(str, words)],
            env={"LEASEHOLD_API_KEY": self.keys["alice"], "PATH": "/usr/bin:/bin"},
            cwd=ROOT,
        )
        wait_for(
            lambda: notes.exists() and len(notes.read_text().splitlines()) > 300, "alice reads"
        )
        done = self.operate(
            "stop", "loan", CLINIC, "--reason", "the trial is over", "--wait", "--json"
        )
        reader.wait(20)
        stopped = done.json()
        self.stop = stopped["stop"]["id"]
        lines = [line.split() for line in notes.read_text().splitlines()]
        last = max(int(line[0]) for line in lines if line[1] != "end")
        tell.claim(
            lines[-1][1:] == ["end", "loan_stopped"],
            "alice's answer was cut: loan_stopped",
            saw=lines[-1],
        )
        late = max(0, last - stopped["stop"]["at"])  # 0: none came after it
        tell.claim(late < 1000, f"the last token reached her {late} ms after the stop was durable")
        tell.claim(
            stopped["proved"] and not stopped["pending"] and stopped["units"] == 0,
            f"instance {stopped['proved'][0][:16]}... proved that it stopped; 0 units can still be served",
            saw=stopped,
        )
        where = f"{self.console}/stops/{self.stop}"
        said = self._page(where)
        tell.claim(
            "that is proved" in said and stopped["proved"][0] in said,
            f"the console says the same: {where}",
            saw=said,
        )
        event = next(actor for actor in self.stage.actors if actor.name == "clinic").event(
            "stopped"
        )
        tell.claim(
            event["bytes"] > 0,
            f"{event['bytes']:,} bytes of weights were wiped, the engine is gone",
        )
        refused = self.consume("bob", CLINIC, "ask", "Are you there?")
        tell.claim(
            refused.code in (3, 4) and "[loan_stopped]" in refused.err,
            "the next query is refused: 403 loan_stopped",
            saw=refused.err,
        )

    @property
    def console(self) -> str:
        """Where an operator's browser finds the custodian's pages."""
        return f"https://127.0.0.1:{self.custodian_port}/console"

    def _page(self, url: str) -> str:
        """A page of the console as the operator `admin` gets it."""
        mine = read_credentials(self.office, "admin")
        trust = client_context(mine.ca, certificate=mine.certificate, key=mine.key)
        with httpx2.Client(verify=trust, trust_env=False) as client:
            return client.get(url).text

    # The dead man's switch -----------------------------------------------------------------------

    def fall_silent(self) -> None:
        """A second loan; the custodian dies; service ends by itself."""
        tell = self.tell
        tell.chapter("Another loan: sentence embeddings with all-MiniLM-L6-v2")
        enclave = self.enclave("search", SEARCH, self.search_port)
        serving = enclave.event("serving")
        tell.say(
            f"{serving['bytes'] / 1e6:.0f} MB were decrypted and loaded in {serving['milliseconds']} ms."
        )
        reference = json.loads((ROOT / "models" / "minilm" / "reference.json").read_text())[
            "sentences"
        ]
        texts = [row["text"] for row in reference[:3]]
        answer = self.consume("alice", SEARCH, "embed", *texts, "--json")
        vectors = answer.json()["vectors"]
        likeness = min(
            _cosine(mine, row["embedding"]) for mine, row in zip(vectors, reference, strict=False)
        )
        tell.claim(
            likeness > 0.999,
            f"3 vectors, cosine to the reference at least {likeness:.6f}",
            saw=answer.err,
        )

        tell.chapter("Silence: the custodian is killed with kill -9")
        if self.custodian is None:
            raise ClaimFailed("there is no custodian to kill")
        self.custodian.kill()
        killed = time.monotonic()
        still = self.consume("alice", SEARCH, "embed", "still there?", "--json")
        tell.say(
            f"Just after, a query is {'answered: the lease still holds' if still.code == 0 else 'refused'}."
        )
        stopped = enclave.event("stopped", seconds=DEAD_MAN_SECONDS + 10)
        took = time.monotonic() - killed
        tell.claim(
            stopped["bytes"] > 1_000_000,
            f"after {took:.1f} s of silence the dead man's switch wiped {stopped['bytes']:,} bytes by itself",
        )
        refused = self.consume("alice", SEARCH, "embed", "still there?")
        tell.claim(
            "[lease_lapsed]" in refused.err,
            "the next query is refused: lease_lapsed",
            saw=refused.err,
        )

    def balance(self) -> None:
        """The custodian comes back; the books add up and the log is whole."""
        tell = self.tell
        tell.chapter("The books: the custodian comes back, and every unit is accounted for")
        self.serve_custodian()
        self.show_budgets()
        for row in self.budgets():
            parts = ("available", "outstanding", "settled", "written_off")
            tell.claim(
                sum(row[part] for part in parts) == row["granted"]
                and row["settled"] <= row["granted"],
                f"{row['consumer']} under {row['loan']}: the parts add up to {row['granted']:,} granted",
            )
        checked = self.operate("audit", "verify")
        tell.claim(
            checked.code == 0, f"the audit log is whole: {checked.out.strip()}", saw=checked.err
        )

    def keep(self) -> None:
        """For `--keep`: lend again, so that somebody can go on by hand."""
        self.operate("resume", self.stop, "--reason", "the demo goes on")
        self.clinic_port = free_port()
        self.enclave("clinic-again", CLINIC, self.clinic_port).event("serving")


def doctored_package(folder: Path) -> Path:
    """A copy of the code in which spending is never refused; tells where it is. Raises ClaimFailed."""
    shutil.copytree(ROOT / "src" / "leasehold", folder / "leasehold")
    meter = folder / "leasehold" / "core" / "meter.py"
    text = meter.read_text()
    if METER_LINE not in text:
        raise ClaimFailed("the line that the borrower wants to change is not in the meter")
    meter.write_text(text.replace(METER_LINE, "        if not ticket.open:\n"))
    return folder


def _cosine(one: list[float], other: list[float]) -> float:
    """Of vectors of length one."""
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


CHAPTERS = (
    Story.ship,
    Story.lend,
    Story.attest,
    Story.query,
    Story.follow,
    Story.extend,
    Story.take_back,
    Story.fall_silent,
    Story.balance,
)

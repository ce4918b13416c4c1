"""The operators' commands against a real custodian on the loopback."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result
from tests.custodian.house import LOAN, MODEL, WAIT_SECONDS, Events, Guest, House, key_hash

from leasehold.cli import main
from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import to_json
from leasehold.core.messages import (
    STOP_PROOF_KIND,
    ExtensionAsk,
    Heartbeat,
    LeaseAsk,
    LeaseGranted,
    StopOrder,
    StopProof,
    StopReport,
    Usage,
)
from leasehold.core.receipts import Receipt, sign_receipt
from leasehold.core.statements import sign
from leasehold.core.units import Instant, Units
from leasehold.custodian.ledger import instances, loans
from leasehold.custodian.ledger.notes import sign_note
from leasehold.custodian.log import JsonLog
from leasehold.custodian.serve import Running, SystemClock, running
from leasehold.custodian.settings import Place
from leasehold.custodian.witness import check_cosignature
from leasehold.custodian.witnessing import Service, build
from leasehold.errors import ChannelClosed
from leasehold.net.servers import serving

T = TypeVar("T")


@dataclass
class Desk:
    """A custodian in a thread of its own, and the command line before it."""

    house: House
    loop: asyncio.AbstractEventLoop
    found: Running
    stage: Path
    proofs: list[Any] = field(default_factory=list)

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command and give what it printed, standard error after standard output."""
        result = self.invoke(*words)
        assert result.exit_code == code, (words, result.output, result.exception)
        return result.output

    def invoke(self, *words: str) -> Result:
        """Run a command."""
        folder = str(self.house.settings.folder)
        return CliRunner(env={"LEASEHOLD_CUSTODIAN": folder}).invoke(main, list(words))

    def json(self, *words: str) -> Any:
        """What a command prints with --json."""
        return json.loads(CliRunner().invoke(main, [*words, "--json", *self._where()]).stdout)

    def refused(self, code: str, exit_code: int, *words: str) -> None:
        """Check that a command fails for this reason and no other."""
        assert f"error [{code}]:" in self.run(*words, code=exit_code)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the custodian's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_SECONDS)

    def file(self, name: str, data: bytes) -> str:
        """A file of the operator's."""
        (self.stage / name).write_bytes(data)
        return str(self.stage / name)

    def lend(self) -> None:
        """A loan with a consumer `alice`, key `lh-alice`, 1,000 units."""
        manifest = self.file("manifest.toml", self.house.manifest)
        self.run("loan", "create", LOAN, "--model", MODEL, "--manifest", manifest, "--cap", "5000")
        self.run("consumer", "add", "alice")
        self.run("grant", "add", LOAN, "alice", "1000")

    def guest(self) -> Guest:
        """An attested instance that stays connected, and proves a stop as soon as it is told to."""
        guest = Guest(self.house)
        self.do(guest.attested(self.found.custodian))
        self.do(self._listen(guest))
        return guest

    async def _listen(self, guest: Guest) -> None:
        pushes = await self.found.custodian.subscribe(guest.id)

        async def obey() -> None:
            with suppress(ChannelClosed):
                while True:
                    if isinstance(await pushes.next(), StopOrder):
                        report = StopReport(
                            guest.id, LOAN, 1, (), 5000, self.found.custodian.ports.clock.now()
                        )
                        signed = sign(guest.statement, STOP_PROOF_KIND, to_json(report))
                        await self.found.custodian.handle(guest.id, StopProof(signed))

        self.proofs.append(asyncio.create_task(obey()))

    def _where(self) -> tuple[str, str]:
        return "--custodian", str(self.house.settings.folder)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A running custodian."""
    with opened(tmp_path) as made:
        yield made


@contextmanager
def opened(
    tmp_path: Path, prepare: Callable[[House], None] = lambda _house: None
) -> Iterator[Desk]:
    """A custodian that runs while the block does, in a folder that was prepared."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    house = House.build(tmp_path / "custodian", address=Place("127.0.0.1", port))
    prepare(house)
    loop, ready = asyncio.new_event_loop(), threading.Event()
    box: list[Running] = []
    stop = asyncio.Event()

    async def live() -> None:
        async with running(house.settings, log=Events()) as found:
            box.append(found)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()), daemon=True)
    thread.start()
    assert ready.wait(WAIT_SECONDS)
    made = Desk(house, loop, box[0], tmp_path)
    yield made

    async def end() -> None:
        for task in made.proofs:
            task.cancel()
        await asyncio.gather(*made.proofs, return_exceptions=True)
        stop.set()

    made.do(end())
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    loop.close()


def test_lending_and_granting(desk: Desk) -> None:
    desk.lend()
    assert "5,000" in desk.run("loan", "list")
    shown = desk.run("loan", "show", LOAN)
    assert "model: echo" in shown
    assert "in one day at most: text 20,480,000 bits, vectors 2,621,440,000 bits" in shown
    assert "in a day at the pace so far: text 0 bits, vectors 0 bits (0 units)" in shown
    assert desk.json("loan", "show", LOAN)["budget"]["available"] == 5000
    assert "granted: 6,000" in desk.run("loan", "cap", LOAN, "--add", "1000")
    assert "granted: 5,500" in desk.run("loan", "cap", LOAN, "--take", "500")
    assert "alice" in desk.run("consumer", "list")
    desk.run("grant", "change", LOAN, "alice", "--take", "400")
    (grant,) = desk.json("grant", "list")
    assert (grant["consumer"], grant["budget"]["available"]) == ("alice", 600)
    assert "clinic\talice\t600\t600\t0\t0\t0" in desk.run("grant", "list", "--loan", LOAN)
    assert "state: ended" in desk.run("loan", "end", LOAN)


def test_a_key_is_shown_once_and_never_sent(desk: Desk) -> None:
    desk.lend()
    result = desk.invoke("consumer", "key", "add", "alice")
    key = result.stdout.strip()
    assert key.startswith("lh-")
    assert len(key) == 67
    (listed,) = desk.json("consumer", "key", "list")
    assert key_hash(key).hex().startswith(listed["id"])
    assert "live" in desk.run("consumer", "key", "list", "--consumer", "alice")
    desk.run("consumer", "key", "revoke", listed["id"])
    assert "revoked" in desk.run("consumer", "key", "list")
    assert key not in desk.house.settings.ledger.read_bytes().decode("latin-1")


def test_a_key_can_go_to_a_file_that_nobody_else_reads(desk: Desk) -> None:
    desk.lend()
    path = desk.stage / "alice.key"
    output = desk.run("consumer", "key", "add", "alice", "--key-file", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().strip() not in output
    desk.refused("already_exists", 4, "consumer", "key", "add", "alice", "--key-file", str(path))


def test_requests_are_decided(desk: Desk) -> None:
    desk.lend()
    guest = desk.guest()
    key = desk.invoke("consumer", "key", "add", "alice").stdout.strip()
    for sequence, units in enumerate((500, 200), 1):
        ask = ExtensionAsk(sequence, key_hash(key), Units(units), "night shift")
        desk.do(desk.found.custodian.handle(guest.id, ask))
        assert "night shift" in desk.run("requests", "list", "--status", "open")
        (waiting,) = desk.json("requests", "list", "--status", "open")
        if sequence == 1:
            output = desk.run("requests", "approve", str(waiting["id"]), "--units", "300")
            assert "alice has 300 units more under clinic: 1,300 of 1,300 are available" in output
        else:
            assert "denied" in desk.run(
                "requests", "deny", str(waiting["id"]), "--reason", "not now"
            )
        desk.refused("conflict", 4, "requests", "approve", str(waiting["id"]))
    assert [one["status"] for one in desk.json("requests", "list")] == ["denied", "approved"]


def test_approving_above_the_cap_says_so(desk: Desk) -> None:
    desk.lend()
    guest = desk.guest()
    key = desk.invoke("consumer", "key", "add", "alice").stdout.strip()
    ask = ExtensionAsk(1, key_hash(key), Units(9000), "all of it")
    desk.do(desk.found.custodian.handle(guest.id, ask))
    assert "covers less than that" in desk.run("requests", "approve", "1")


def test_a_stop_waits_for_every_proof(desk: Desk) -> None:
    desk.lend()
    guests = [desk.guest(), desk.guest()]
    output = desk.run("stop", "loan", LOAN, "--reason", "enough", "--wait")
    again = desk.run("stop", "loan", LOAN, "--reason", "enough", "--wait")  # all is proved already
    for said in (output, again):
        assert "Stop 1 of loan clinic is in force." in said
        for guest in guests:
            assert f"{guest.id} proved that it stopped" in said
        assert "It is complete" in said
    assert again.count("It is complete") == 1
    assert {one["state"] for one in desk.json("instances")} == {"stopped"}
    assert "enough" in desk.run("resume")
    assert "lifted" in desk.run("resume", "1", "--reason", "over")
    assert desk.json("resume") == []


def test_a_stop_that_is_not_proved_in_time_says_what_is_left(desk: Desk) -> None:
    desk.lend()
    key = desk.invoke("consumer", "key", "add", "alice").stdout.strip()
    guest = Guest(desk.house)
    desk.do(guest.attested(desk.found.custodian))
    ask = LeaseAsk(1, key_hash(key), Units(40), Units(40), 1, Units(0))
    desk.do(desk.found.custodian.handle(guest.id, ask))
    words = ("stop", "enclave", guest.id, "--reason", "suspect", "--wait", "--seconds", "1")
    output = desk.run(*words, code=5)
    assert "At most 40 units can still be served" in output
    assert f"Not yet proved: {guest.id}" in output


def test_a_stop_with_notice_is_shown_hastened_and_called_off(desk: Desk) -> None:
    desk.lend()
    desk.guest()
    words = ("stop", "loan", LOAN, "--reason", "maintenance")
    said = desk.run(*words, "--notice", "10m", "--drain", "30s")
    assert "Stop 1 of loan clinic will begin by itself at" in said
    first = desk.json(*words, "--notice", "2h")["stop"]
    assert (first["phase"], first["ends"] - first["begins"]) == ("notice", 30_000)
    hastened = desk.json(*words, "--notice", "5m")["stop"]
    assert (hastened["id"], hastened["begins"] < first["begins"]) == (1, True)
    assert "\tnotice\t" in desk.run("resume")
    assert "Stop 1 is called off." in desk.run("resume", "1", "--reason", "not needed")
    assert {one["state"] for one in desk.json("instances")} == {"live"}
    assert desk.json("resume") == []


def test_a_stop_with_a_drain_waits_for_every_proof(desk: Desk) -> None:
    desk.lend()
    guest = desk.guest()
    words = ("stop", "loan", LOAN, "--reason", "enough", "--drain", "30s", "--wait")
    output = desk.run(*words)
    assert "Nothing is leased and nobody admitted" in output
    assert f"{guest.id} proved that it stopped" in output
    assert "It is complete" in output


def test_how_a_stop_may_not_come(desk: Desk) -> None:
    desk.lend()
    words = ("stop", "consumer", "alice", "--reason", "x")
    desk.refused("invalid_request", 2, *words, "--drain", "10s")
    assert "of 60 minutes at most" in desk.run(*words, "--drain", "2h", code=2)
    assert "of 90 days at most" in desk.run(*words, "--notice", "91d", code=2)
    assert desk.json("resume") == []


def test_a_stop_of_everything_and_of_a_consumer(desk: Desk) -> None:
    desk.lend()
    assert "Stop 1 of consumer alice" in desk.run("stop", "consumer", "alice", "--reason", "x")
    assert "Stop 2 of everything" in desk.run("stop", "all", "--reason", "drill")
    assert desk.json("stop", "all", "--reason", "again")["stop"]["id"] == 2
    desk.refused("not_found", 4, "stop", "loan", "none", "--reason", "x")
    desk.refused("invalid_request", 2, "stop", "all", "thing", "--reason", "x")
    assert "--reason is needed" in desk.run("resume", "1", code=2)


def test_usage_in_three_forms(desk: Desk) -> None:
    desk.lend()
    key = desk.invoke("consumer", "key", "add", "alice").stdout.strip()
    guest = Guest(desk.house)
    desk.do(guest.attested(desk.found.custodian))
    ask = LeaseAsk(1, key_hash(key), Units(40), Units(40), 1, Units(0))
    desk.do(desk.found.custodian.handle(guest.id, ask))
    assert "clinic\talice\t1\t40\t0\t0" in desk.run("usage")
    assert desk.json("usage", "--by", "loan")[0]["outstanding"] == 40
    assert guest.id in desk.run("usage", "--by", "instance", "--csv")


def test_units_are_given_back_and_counted(desk: Desk) -> None:
    """M-9: what a lease cost for nothing, once, with a reason; who gave and who got is shown."""
    desk.lend()
    key = desk.invoke("consumer", "key", "add", "alice").stdout.strip()
    guest = Guest(desk.house)
    desk.do(guest.attested(desk.found.custodian))
    ask = LeaseAsk(1, key_hash(key), Units(40), Units(40), 1, Units(0))
    (granted,) = desk.do(desk.found.custodian.handle(guest.id, ask))
    assert isinstance(granted, LeaseGranted)
    usage = (Usage(granted.lease, Units(25)),)
    desk.do(desk.found.custodian.handle(guest.id, Heartbeat(1, usage)))
    words = ("grant", "refund", LOAN, "alice", "20", "--lease", granted.lease)
    desk.run(*words, code=2)  # no reason
    told = desk.run(*words, "--reason", "engine died")
    assert "of this lease so far: 20" in told
    assert "by admin so far: 20" in told
    desk.refused("conflict", 4, *words, "--reason", "again")
    (listed,) = desk.json("grant", "refunds", "--loan", LOAN)
    assert (listed["units"], listed["consumer_total"]) == (20, 20)
    assert "engine died" in desk.run("grant", "refunds", "--consumer", "alice")
    assert desk.json("grant", "list")[0]["budget"]["granted"] == 1020
    assert '"operator_total":20' in desk.run("audit", "list")


def test_instances_are_called_simulated(desk: Desk) -> None:
    desk.lend()
    guest = desk.guest()
    output = desk.run("instances", "--state", "live")
    assert guest.id in output
    assert "SIMULATED" in output


def test_the_audit_log_is_listed_kept_and_verified(desk: Desk) -> None:
    desk.lend()
    kept = desk.stage / "checkpoint"
    desk.run("audit", "checkpoint", "--out", str(kept))
    desk.run("consumer", "add", "bob")
    assert "admin\tconsumer.add" in desk.run("audit", "list")
    assert [e["index"] for e in desk.json("audit", "list", "--start", "1", "--count", "2")] == [
        1,
        2,
    ]
    output = desk.run("audit", "verify", "--since", str(kept))
    assert "5 entries fit the checkpoint" in output
    assert f"The first 4 are the ones that {kept} signed." in output
    desk.refused("bad_signature", 2, "audit", "verify", "--key", "00" * 32)
    forged = desk.file("forged", kept.read_bytes().replace(b"\n4\n", b"\n3\n"))
    desk.refused("bad_signature", 2, "audit", "verify", "--since", forged)


def test_an_entry_is_proved_to_who_asks_nobody(desk: Desk) -> None:
    """A-7."""
    desk.lend()
    file = desk.stage / "proof.json"
    desk.run("audit", "prove", "1", "--out", str(file))
    settings = desk.house.settings
    words = ("audit", "check-proof", str(file), "--origin", settings.origin, "--key")
    key = settings.audit.public.hex()
    assert f"Entry 1 of 4 in {settings.origin}" in desk.run(*words, key)
    desk.refused("bad_signature", 2, *words, "00" * 32)
    file.write_bytes(file.read_bytes().replace(b'"index": 1', b'"index": 2'))
    desk.refused("unproven", 3, *words, key)
    desk.refused("not_found", 4, "audit", "prove", "99")


def test_a_witness_follows_the_log_and_refuses_another(desk: Desk) -> None:
    """J-1 to J-3, by command."""
    desk.lend()
    key, state, out = (str(desk.stage / name) for name in ("w.key", "w.state", "w.note"))
    shown = desk.run("witness", "init", key)
    settings = desk.house.settings
    words = ["witness", "check", "--state", state, "--key", key, "--name", "reg.example/w"]
    words += ["--origin", settings.origin, "--log-key", settings.audit.public.hex(), "--out", out]
    desk.run(*words)
    desk.run("consumer", "add", "bob")
    desk.run(*words)
    note = Path(out).read_text()
    public = bytes.fromhex(shown.split("public key: ")[1].split()[0])
    assert check_cosignature(note, name="reg.example/w", public=public)
    assert "\n5\n" in note
    desk.run("audit", "verify", "--since", out)
    log = str(desk.stage / "log")
    desk.run("audit", "export", log)
    words2 = ["audit", "replay", log, "--checkpoint", out, "--origin", settings.origin]
    words2 += ["--key", settings.audit.public.hex(), "--witness"]
    good = f"reg.example/w={public.hex()}"
    assert f"loan {LOAN}" in desk.run(*words2, good)
    desk.refused("bad_signature", 2, *words2, f"reg.example/w={'00' * 32}")
    desk.refused("unproven", 3, *words2, good, "--quorum", "2")
    claim = str(desk.stage / "claim")
    desk.run("audit", "export", log, "--accounts", claim)
    assert "claimed accounts are what the log gives" in desk.run(*words2, good, "--claimed", claim)
    honest = Path(claim).read_bytes()
    Path(claim).write_bytes(honest.replace(b'"settled": 0', b'"settled": 1', 1))
    told = desk.run(*words2, good, "--claimed", claim, code=5)
    assert "error [books_wrong]: " in told
    assert f"grant {LOAN} alice" in told
    whole = Path(log).read_bytes()
    Path(log).write_bytes(whole.replace(b'"bob"', b'"eve"'))
    desk.refused("unproven", 3, *words2, good)
    Path(log).write_bytes(b"\n".join(whole.splitlines()[:-1]))
    desk.refused("unproven", 3, *words2, good)
    kept = Path(state).read_bytes()
    seen = json.loads(kept)
    for size in (4, 99):
        seen[settings.origin]["size"] = size
        Path(state).write_bytes(json.dumps(seen).encode())
        desk.refused("unproven", 3, *words)
    again = ["witness", "accept-restore", "--state", state, "--origin", settings.origin]
    again += ["--reason", "a disk burned"]
    desk.run("audit", "prove", "1", "--out", out)
    key = settings.audit.public.hex()
    desk.refused("unproven", 3, *again, "--proof", out, "--log-key", key)
    assert "size: 99" in desk.run(*again)
    desk.refused("not_found", 4, *again)
    desk.run(*words)
    assert json.loads(Path(state).read_bytes())[settings.origin]["given_up"][0]["size"] == 99


@contextmanager
def service(desk: Desk, key: SigningKey) -> Iterator[str]:
    """A witness's service for the desk's log; its URL."""
    settings = desk.house.settings
    found = Service(
        "reg.example/w",
        key,
        {settings.origin: settings.audit.public},
        desk.stage / "served.state",
        SystemClock(),
        JsonLog("witness"),
    )
    stack = AsyncExitStack()
    at = desk.do(stack.enter_async_context(serving(build(found), None, "127.0.0.1", 0)))
    try:
        yield f"http://{at.host}:{at.port}/"
    finally:
        desk.do(stack.aclose())


def test_a_witness_that_serves_is_asked_and_its_line_is_kept(desk: Desk) -> None:
    """J-7, J-9, O-22: by command."""
    desk.lend()
    key = SigningKey.make(os.urandom)
    words = ["audit", "cosign", "--name", "reg.example/w", "--witness-key", key.public.hex()]
    assert desk.json("audit", "witnesses") == []
    desk.refused("not_found", 4, "audit", "checkpoint", "--cosigned", "1")
    desk.refused("witness_unreachable", 5, *words, "--witness", "http://127.0.0.1:1")
    with service(desk, key) as url:
        assert "size: 4" in desk.run(*words, "--witness", url)
        desk.run("consumer", "add", "bob")
        (view,) = desk.json("audit", "witnesses")
        assert (view["size"], view["behind"], view["kind"]) == (4, 1, "witness")
        assert "reg.example/w\twitness\t4" in desk.run("audit", "witnesses")
        assert "size: 5" in desk.run(*words, "--witness", url)
        note = desk.run("audit", "checkpoint", "--cosigned", "1")
        assert check_cosignature(note, name="reg.example/w", public=key.public)
        other = ["audit", "cosign", "--name", "other", "--witness-key", key.public.hex()]
        desk.refused("bad_signature", 2, *other, "--witness", url)  # also: it has seen 5 before
        seen = desk.stage / "served.state"
        state = json.loads(seen.read_bytes())
        state[desk.house.settings.origin]["root"] = "A" * 43 + "="
        seen.write_bytes(json.dumps(state).encode())
        desk.refused("unproven", 3, *words, "--witness", url)
        state[desk.house.settings.origin]["size"] = 99
        seen.write_bytes(json.dumps(state).encode())
        desk.refused("unproven", 3, *words, "--witness", url)


def test_a_forked_log_is_proved_to_anybody(desk: Desk) -> None:
    """J-10: what the witness wrote down needs nobody to be believed."""
    desk.lend()
    settings = desk.house.settings
    key, state = str(desk.stage / "w.key"), desk.stage / "w.state"
    desk.run("witness", "init", key)
    text = f"{settings.origin}\n3\n{'A' * 43}=\n"  # signed by the custodian, and not his log
    note = sign_note(text, name=settings.origin, key=settings.audit)
    seen = {settings.origin: {"size": 3, "root": "A" * 43 + "=", "note": note}}
    state.write_bytes(json.dumps(seen).encode())
    state.chmod(0o600)
    words = ["witness", "check", "--state", str(state), "--key", key, "--name", "reg.example/w"]
    words += ["--origin", settings.origin, "--log-key", settings.audit.public.hex()]
    desk.refused("unproven", 3, *words)
    proof = str(state) + ".fork"
    check = ["audit", "check-fork", proof, "--origin", settings.origin, "--log-key"]
    told = desk.run(*check, settings.audit.public.hex())
    assert "size: 3" in told
    desk.refused("bad_signature", 2, *check, "00" * 32)


def test_a_witness_serves_others_only_over_tls(desk: Desk) -> None:
    key, state = str(desk.stage / "w.key"), str(desk.stage / "w.state")
    desk.run("witness", "init", key)
    words = ["witness", "serve", "--key", key, "--state", state, "--name", "reg.example/w"]
    words += ["--log", f"{desk.house.settings.origin}={'00' * 32}"]
    desk.refused("bad_setting", 2, *words, "--listen", "0.0.0.0:0")
    desk.refused("bad_setting", 2, *words, "--tls-key", key)
    desk.refused("bad_message", 2, *words[:-3], "two words", *words[-2:])


def test_another_manifest_takes_over(desk: Desk) -> None:
    desk.lend()
    file = desk.file("next.toml", desk.house.make_manifest(name="next"))
    desk.run("loan", "manifest", LOAN, file)
    entries = desk.json("audit", "list")
    assert entries[-1]["kind"].startswith("loan.")
    wrong = desk.file("wrong.toml", b"nothing")
    desk.refused("bad_manifest", 2, "loan", "manifest", LOAN, wrong)


def test_roles_bind(desk: Desk) -> None:
    folder = str(desk.house.settings.folder)
    desk.run("operator", "add", "sam", "--role", "stopper")
    assert "sam\tstopper" in desk.run("operator", "list")
    # The running custodian does not know the new operator yet.
    assert "not_permitted" in desk.run("loan", "list", "--operator", "sam", code=4)
    assert "file_trouble" in desk.run("loan", "list", "--operator", "eve", code=5)
    assert (Path(folder) / "operators" / "sam.key").stat().st_mode & 0o777 == 0o600


def test_a_custodian_that_is_not_there(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    desk.refused("custodian_unreachable", 5, "loan", "list", "--address", f"127.0.0.1:{port}")
    desk.refused("bad_address", 2, "loan", "list", "--address", "nowhere")


def test_another_custodian_is_not_talked_to(desk: Desk, tmp_path: Path) -> None:
    other = House.build(tmp_path / "other" / "custodian", address=desk.house.settings.address)
    where = str(other.settings.folder)
    desk.refused("custodian_unreachable", 5, "loan", "list", "--custodian", where)


def test_receipts_are_held_against_the_log(desk: Desk) -> None:
    """R-6 by command: from the custodian, and from an exported log with its checkpoint."""
    desk.lend()
    key = desk.invoke("consumer", "key", "add", "alice").stdout.strip()
    guest = Guest(desk.house)
    desk.do(guest.attested(desk.found.custodian))
    ask = LeaseAsk(1, key_hash(key), Units(40), Units(40), 1, Units(0))
    (granted,) = desk.do(desk.found.custodian.handle(guest.id, ask))
    assert isinstance(granted, LeaseGranted)
    desk.do(desk.found.custodian.handle(guest.id, Heartbeat(1, (Usage(granted.lease, Units(25)),))))
    (instance,) = desk.do(desk.found.custodian.look(instances.list_instances))
    receipt = Receipt(
        id="receipt-1",
        instance=guest.id,
        loan=LOAN,
        model_digest=desk.do(desk.found.custodian.look(loans.list_models))[0].digest,
        evidence_digest=instance.evidence_digest,
        lease=granted.lease,
        previous=b"",
        units=Units(25),
        input_tokens=20,
        output_tokens=5,
        request_mac=b"",
        response_mac=b"",
        time=Instant(0),
        simulated=True,
    )
    good = desk.file("good.receipts", to_json(sign_receipt(guest.statement, receipt)) + b"\n")
    told = desk.run("receipts", "verify", good)
    assert f"{granted.lease}\talice" in told
    assert "to the unit" in told
    assert "1 receipts of 25 units; 25 units are settled in 1 leases." in told
    assert desk.json("receipts", "verify", good)["rows"][0]["receipted"] == 25

    forged = desk.file(
        "forged.receipts", to_json(sign_receipt(SigningKey.make(os.urandom), receipt))
    )
    told = desk.run("receipts", "verify", good, forged, code=3)
    assert "[forged_signature] lease" in told
    assert "error [receipts_wrong]" in told

    log = str(desk.stage / "log")
    desk.run("audit", "export", log)
    checkpoint = str(desk.stage / "checkpoint")
    desk.run("audit", "checkpoint", "--out", checkpoint)
    settings = desk.house.settings
    words = ("receipts", "verify", good, "--log", log)
    desk.refused("bad_setting", 2, *words)
    words += ("--checkpoint", checkpoint, "--origin", settings.origin, "--key")
    assert "to the unit" in desk.run(*words, settings.audit.public.hex())
    desk.refused("bad_signature", 2, *words, "00" * 32)
    leaves = (desk.stage / "log").read_bytes().splitlines(keepends=True)
    desk.file("log", b"".join(leaves[:-1]))
    desk.refused("unproven", 3, *words, settings.audit.public.hex())

"""A custodian, a simulated machine and the enclaves on it, honest ones and liars, for consumers to judge.

The evidence is real in structure and judged by the real verifier; nothing here is a mock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from leasehold.attest.collateral import DatedSet, Holdings, parse_collateral, sign_bundle
from leasehold.attest.intel.reference import Sgx
from leasehold.attest.manifest import Manifest, sign_manifest
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Simulated
from leasehold.consumer.verify import Expectations
from leasehold.core.binding import Binding, Purpose
from leasehold.core.crypto import SigningKey, TlsKey, instance_id, sha256
from leasehold.core.encoding import from_json, to_json
from leasehold.core.evidence import Evidence
from leasehold.core.merkle import leaf_hash
from leasehold.core.messages import (
    BudgetAnswer,
    EvidenceAnswer,
    EvidenceAsk,
    ExtensionAnswer,
    ReceiptAnswer,
)
from leasehold.core.problems import OpenAiError, OpenAiProblem
from leasehold.core.receipts import Receipt, content_mac, sign_receipt
from leasehold.core.statements import Signed, sign_text
from leasehold.core.trees import inclusion_proof, root
from leasehold.core.units import DAY, Duration, Instant, Units, after
from leasehold.errors import LeaseholdError, NoModelYet, UnknownEndpoint, UnknownKey
from leasehold.net.certificates import enclave_certificate
from leasehold.net.shown import to_der
from leasehold.testing.time import SeededEntropy
from leasehold_simtee.hierarchy import GOOD, Situation
from leasehold_simtee.machine import Machine
from leasehold_simtee.quote import Enclave as Inside

NOW: Final = Instant(1_794_000_000_000)
MEASUREMENT: Final = bytes.fromhex("11" * 32)
OTHER_MEASUREMENT: Final = bytes.fromhex("22" * 32)
API_KEY: Final = "key-of-alice"
MODEL: Final = "tiny"
DIGEST: Final = "ab" * 32
SALT: Final = bytes(range(32))
WORDS: Final = ("Twelve", " hens", " lay", " eggs.")


class TurnedClock:
    """A clock that stands until the test turns it."""

    def __init__(self) -> None:
        self._now = NOW

    def now(self) -> Instant:
        """Milliseconds since the Unix epoch."""
        return self._now

    def monotonic(self) -> Instant:
        """The same: nobody sets this clock back."""
        return self._now

    def turn(self, duration: int) -> None:
        """Let time pass."""
        self._now = after(self._now, duration)


@dataclass(slots=True)
class World:
    """One custodian who lends to one machine. `entropy` is seeded, so every run is the same."""

    entropy: SeededEntropy = field(default_factory=lambda: SeededEntropy("consumer world"))
    clock: Any = field(default_factory=TurnedClock)
    situation: Situation = GOOD
    custodian: SigningKey = field(init=False)
    machine: Machine = field(init=False)

    def __post_init__(self) -> None:
        self.custodian = SigningKey.make(self.entropy)
        self.machine = self.new_machine()

    def new_machine(self) -> Machine:
        """Another machine of another simulated vendor."""
        return Machine.create(self.entropy, self.clock.now(), situation=self.situation)

    @property
    def configuration(self) -> bytes:
        """The enclave's signed configuration file, whose contents matter to nobody here."""
        return sign_text(self.custodian, "leasehold-enclave", b'loan = "loan-1"\n')

    def collateral(self, *, key: SigningKey | None = None, lifetime: int = DAY) -> Signed:
        """The custodian's bundle for consumers, issued now."""
        until = after(self.clock.now(), DAY)
        bundle = Holdings((DatedSet(parse_collateral(self.machine.collateral), until),))
        return sign_bundle(
            key or self.custodian, bundle, now=self.clock.now(), lifetime=Duration(lifetime)
        )

    def manifest(self, **changes: Any) -> bytes:
        """The signed manifest that lists this machine and the honest measurement."""
        manifest = Manifest(
            version=1,
            name="loan-1",
            custodian_root=self.custodian.public.hex(),
            not_after=moment(after(self.clock.now(), 30 * DAY)),
            configurations=(sha256(self.configuration).hex(),),
            machines=(Listed(self.machine.platform_id, "the machine of this world"),),
            sgx=msgspec.convert(Inside(MEASUREMENT).reference_values(), Sgx),
            simulated=Simulated(self.machine.root_sha256),
        )
        return sign_manifest(self.custodian, msgspec.structs.replace(manifest, **changes))

    def expectations(self, **changes: Any) -> Expectations:
        """What an honest consumer demands."""
        return Expectations(self.manifest(**changes))

    def enclave(self, **lies: Any) -> FakeEnclave:
        """A new instance with new keys; `lies` are what it does differently from an honest one."""
        key = TlsKey.make(self.entropy)
        return FakeEnclave(
            self,
            key,
            enclave_certificate(key, entropy=self.entropy),
            SigningKey.make(self.entropy),
            **lies,
        )


def moment(at: Instant) -> datetime:
    """An instant as manifests write it."""
    return datetime.fromtimestamp(at // 1000, UTC)


@dataclass(frozen=True, slots=True)
class Response:
    """What a fake enclave answers to one HTTP request; `parts` are sent one by one."""

    status: int
    parts: Sequence[bytes]
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class FakeEnclave:
    """Answers like an enclave. Every field after the keys is honest unless a test says otherwise."""

    world: World
    tls: TlsKey
    certificate: str
    statement: SigningKey
    measurement: bytes = MEASUREMENT
    machine: Machine | None = None
    purpose: Purpose = Purpose.CONSUMER
    bound_spki: bytes | None = None
    bound_root: bytes | None = None
    configuration: bytes | None = None
    collateral: Signed | None = None
    neighbours: int = 0
    alter: Callable[[EvidenceAnswer], EvidenceAnswer] = lambda answer: answer
    refuses: LeaseholdError | None = None
    babbles: Response | None = None
    words: Sequence[str] = WORDS
    cuts_stream: bool = False
    code: str | None = None
    decides_after: int = 0
    verdict: str = "approved"
    budget: Units = Units(1000)
    receipts: dict[str, ReceiptAnswer] = field(default_factory=dict)
    change_receipt: Callable[[Receipt], Receipt] = lambda receipt: receipt
    asked: list[bytes] = field(default_factory=list)

    @property
    def instance(self) -> str:
        """The instance id."""
        return instance_id(self.tls.spki)

    # Evidence ------------------------------------------------------------------------------------

    def quote(self, nonce: bytes) -> Evidence:
        """Evidence over a nonce or a Merkle root, as this enclave's binding has it."""
        binding = Binding(
            self.purpose,
            nonce,
            self.bound_spki or self.tls.spki,
            self.statement.public,
            b"",
            self.bound_root or self.world.custodian.public,
            self.configuration or self.world.configuration,
        )
        machine = self.machine or self.world.machine
        return machine.attester(self.measurement).attest(binding.report_data())

    def evidence(self, nonce: bytes) -> EvidenceAnswer:
        """The answer for one consumer, whose nonce shares its window with `neighbours` others."""
        nonces = [bytes([number]) * 32 for number in range(self.neighbours)]
        nonces.insert(self.neighbours // 2, nonce)
        leaves = [leaf_hash(one) for one in nonces]
        index = self.neighbours // 2
        answer = EvidenceAnswer(
            evidence=self.quote(root(leaves)),
            statement_key=self.statement.public,
            configuration=self.configuration or self.world.configuration,
            nonces=len(leaves),
            index=index,
            proof=inclusion_proof(leaves, index),
            root=root(leaves),
            collateral=self.collateral or self.world.collateral(),
            loan="loan-1",
            model=MODEL,
            model_digest=DIGEST,
            simulated=True,
        )
        return self.alter(answer)

    # HTTP ----------------------------------------------------------------------------------------

    def respond(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
        """Answer one request."""
        target, _, query = path.partition("?")
        if self.babbles is not None:
            return self.babbles
        try:
            if (method, target) == ("POST", "/leasehold/evidence"):
                return self._evidence(body)
            if headers.get("authorization") != f"Bearer {API_KEY}":
                raise UnknownKey(about="Authorization header")
            if self.refuses is not None:
                raise self.refuses
            return self._known(method, target, query, body)
        except LeaseholdError as error:
            problem = OpenAiProblem(error.message, "requests", error.code)
            return Response(error.status, [to_json(OpenAiError(problem))])

    def _evidence(self, body: bytes) -> Response:
        if isinstance(self.refuses, NoModelYet):
            raise self.refuses
        return Response(200, [to_json(self.evidence(from_json(body, EvidenceAsk).nonce))])

    def _known(self, method: str, target: str, query: str, body: bytes) -> Response:
        match (method, target):
            case ("POST", "/v1/chat/completions"):
                return self._chat(body)
            case ("POST", "/v1/embeddings"):
                return self._embeddings(body)
            case ("GET", "/leasehold/budget"):
                return Response(200, [to_json(self._budget())])
            case ("POST", "/leasehold/extension"):
                return self._extension(self.decides_after == 0)
            case ("GET", "/leasehold/extension"):
                assert query.startswith("wait=")
                self.decides_after -= 1
                return self._extension(self.decides_after <= 0)
        name = target.removeprefix("/leasehold/receipts/")
        if name not in self.receipts:
            raise UnknownEndpoint(about=target)
        return Response(200, [to_json(self.receipts[name])])

    def _chat(self, body: bytes) -> Response:
        self.asked.append(body)
        asked = msgspec.json.decode(body)
        assert asked["model"] == MODEL
        if not asked.get("stream"):
            whole = {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 0,
                "model": MODEL,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "".join(self.words)},
                        "logprobs": None,
                        "finish_reason": "length" if self.code else "stop",
                    }
                ],
                "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
            } | ({"leasehold_code": self.code} if self.code else {})
            return self._with_receipt(body, [to_json(whole)], "application/json")
        return self._with_receipt(body, list(self._events()), "text/event-stream")

    def _events(self) -> Iterator[bytes]:
        for word in self.words:
            yield _event({"delta": {"content": word}, "finish_reason": None})
        if self.cuts_stream:
            return
        extra = {"leasehold_code": self.code} if self.code else {}
        yield _event({"delta": {}, "finish_reason": "length" if self.code else "stop"}, **extra)
        yield _event(None, usage={"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9})
        yield b"data: [DONE]\n\n"

    def _embeddings(self, body: bytes) -> Response:
        texts = msgspec.json.decode(body)["input"]
        rows = [{"index": n, "embedding": [n, 0.5]} for n in range(len(texts))]
        whole = {"object": "list", "data": rows[::-1], "usage": {"prompt_tokens": 3}}
        return self._with_receipt(body, [to_json(whole)], "application/json")

    def _with_receipt(self, request: bytes, parts: Sequence[bytes], kind: str) -> Response:
        name = f"receipt-{len(self.receipts) + 1}"
        receipt = Receipt(
            id=name,
            instance=self.instance,
            loan="loan-1",
            model_digest=DIGEST,
            evidence_digest=bytes(32),
            lease="1-1",
            previous=b"",
            units=Units(9),
            input_tokens=5,
            output_tokens=4,
            request_mac=content_mac(SALT, "request", request),
            response_mac=content_mac(SALT, "response", b"".join(parts)),
            time=self.world.clock.now(),
            simulated=True,
        )
        signed = sign_receipt(self.statement, self.change_receipt(receipt))
        self.receipts[name] = ReceiptAnswer(signed, SALT)
        return Response(200, parts, (("leasehold-receipt-id", name), ("content-type", kind)))

    def _budget(self) -> BudgetAnswer:
        zero = Units(0)
        unit = "1 unit per input or output token"
        return BudgetAnswer("alice", "loan-1", self.budget, self.budget, zero, zero, zero, unit)

    def _extension(self, is_decided: bool) -> Response:
        status = self.verdict if is_decided else "open"
        approved = Units(50) if status == "approved" else Units(0)
        reason = "" if status == "open" else "as agreed"
        answer = ExtensionAnswer(7, status, Units(100), approved, reason)  # type: ignore[arg-type]
        return Response(200, [to_json(answer)])


def _event(choice: dict[str, Any] | None, **extra: object) -> bytes:
    choices = [] if choice is None else [{"index": 0, "logprobs": None, **choice}]
    head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
    return b"data: " + to_json(head | {"choices": choices} | extra) + b"\n\n"


@dataclass(slots=True)
class Direct:
    """Evidence without a wire: asks a fake enclave in place. `der` stands in another's certificate."""

    enclave: FakeEnclave
    der: bytes | None = None
    nonces: list[bytes] = field(default_factory=list)

    def fetch(self, nonce: bytes) -> tuple[bytes, bytes]:
        """The answer and the certificate of the connection that there would be."""
        self.nonces.append(nonce)
        return to_json(self.enclave.evidence(nonce)), self.der or to_der(self.enclave.certificate)


def lie(**changes: Any) -> Callable[[EvidenceAnswer], EvidenceAnswer]:
    """An alteration of evidence answers, for `World.enclave(alter=...)`."""
    return lambda answer: msgspec.structs.replace(answer, **changes)

"""Every message between enclave and custodian, typed and strict.

Spec: docs/spec/session.md. Bytes travel as base64 in JSON. Counters are cumulative wherever they can
be, so that a lost, doubled or late message changes nothing.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from leasehold.core.evidence import Evidence
from leasehold.core.lease import LeasePolicy
from leasehold.core.statements import Signed
from leasehold.core.tariff import Tariff
from leasehold.core.units import KIB, Duration, Instant, Units

MESSAGE_BYTES_MAX: Final = 512 * KIB  # an attestation with evidence and configuration is ~20 KiB
REASON_CHARS_MAX: Final = 500

Scope = Literal["consumer", "enclave", "loan", "all"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    pass


# Attestation: ordinary requests over TLS with the custodian's pinned CA -----------------------------


class Challenge(_Record, frozen=True):
    """The custodian's nonce: 32 bytes, good for one use until `expires` on the custodian's clock."""

    nonce: bytes
    expires: Instant


class Attest(_Record, frozen=True):
    """The answer to a challenge: evidence over the nonce, these keys and this configuration file."""

    nonce: bytes
    evidence: Evidence
    tls_spki: bytes
    statement_key: bytes
    kem_key: bytes
    configuration: bytes


class ModelTerms(_Record, frozen=True):
    """Which model is lent: its name, digest (SHA-256 hex of the sealed header) and sealed size."""

    name: str
    digest: str
    sealed_bytes: int


class LoanTerms(_Record, frozen=True):
    """The conditions under which the enclave serves. `collateral` is the bundle for consumers."""

    loan: str
    tariff: Tariff
    policy: LeasePolicy
    model: ModelTerms


class Release(_Record, frozen=True):
    """The custodian's yes: a client certificate of minutes and the model key, sealed to the KEM key."""

    instance: str
    epoch: int
    certificate: str
    certificate_expires: Instant
    sealed_key: bytes
    terms: LoanTerms
    collateral: Signed
    time: Instant


class Problem(_Record, frozen=True):
    """A refusal as it travels: a code of `leasehold.errors` and a sentence for a person."""

    code: str
    message: str


# Enclave to custodian, over the channel --------------------------------------------------------------


class Usage(_Record, frozen=True):
    """What a lease has served so far, cumulative."""

    lease: str
    spent: Units


class Heartbeat(_Message, frozen=True, omit_defaults=True, tag="heartbeat"):
    """I live. `usage` repeats every open lease's cumulative counter.

    `seen` is the size of the audit log that the instance has seen, None where it watches none; then
    `cosignature` is over just this: eight bytes of seconds and a signature (J-5), or nothing.
    """

    sequence: int
    usage: tuple[Usage, ...]
    seen: int | None = None
    cosignature: bytes = b""


class LeaseAsk(_Message, frozen=True, tag="lease-ask"):
    """Give me units for this key; idempotent by (instance, sequence). See `lease.size_lease`."""

    sequence: int
    key_hash: bytes
    least: Units
    need: Units
    rate: int
    spent: Units  # cumulative, of `lease`
    lease: str = ""  # the lease open for this key; where it names none, `spent` settles nothing


class LeaseClose(_Message, frozen=True, tag="lease-close"):
    """A signed CloseReport: I have dropped this lease and will never spend from it again."""

    statement: Signed


class ExtensionAsk(_Message, frozen=True, tag="extension-ask"):
    """The consumer of this key asks for `units` more, with a reason; idempotent by sequence."""

    sequence: int
    key_hash: bytes
    units: Units
    reason: str


class ExtensionQuery(_Message, frozen=True, tag="extension-query"):
    """What became of this key's latest extension request, and how does its budget stand?"""

    sequence: int
    key_hash: bytes


class StopProof(_Message, frozen=True, tag="stop-proof"):
    """A signed StopReport: the model and its keys are wiped, these are the last counters."""

    statement: Signed


# Custodian to enclave, over the channel --------------------------------------------------------------


class LogHead(_Record, frozen=True):
    """The audit log at `size`, signed as a C2SP checkpoint, with the proof that it extends size `old`."""

    old: int
    size: int
    root: bytes
    signature: bytes
    proof: tuple[bytes, ...] = ()


class HeartbeatAck(_Message, frozen=True, omit_defaults=True, tag="heartbeat-ack"):
    """I heard you. `log` is for an instance that said what it has seen, now and then (J-5).

    `coming` is a signed StopReason: the soonest stop that was announced to this instance, or drains it
    (N-11). When that changes it is pushed, with sequence 0.
    """

    sequence: int
    time: Instant
    log: LogHead | None = None
    coming: Signed | None = None


class Budget(_Record, frozen=True):
    """How a consumer's grant stands. `available` may be less than the loan's cap can still cover."""

    granted: Units
    available: Units
    outstanding: Units
    settled: Units
    written_off: Units


class LeaseGranted(_Message, frozen=True, tag="lease-granted"):
    """Units for one key. `granted` is the lease's cumulative total, so it merges by maximum.

    `ttl` counts from the moment the enclave asked, on the enclave's own clock.
    """

    sequence: int
    lease: str
    epoch: int
    consumer: str
    key_hash: bytes
    granted: Units
    ttl: Duration
    budget: Budget


class LeaseRefused(_Message, frozen=True, tag="lease-refused"):
    """No units, with the reason as a code of `leasehold.errors`."""

    sequence: int
    key_hash: bytes
    problem: Problem
    budget: Budget | None = None


class CloseAck(_Message, frozen=True, tag="close-ack"):
    """The closing report is in the ledger."""

    lease: str


class ExtensionState(_Message, frozen=True, tag="extension-state"):
    """An extension request's state; pushed when it is decided, and the answer to ask and query.

    `sequence` is 0 where it is pushed. `request` is 0 where the consumer has never asked.
    """

    sequence: int
    key_hashes: tuple[bytes, ...]
    request: int
    status: Literal["none", "open", "approved", "denied"]
    asked: Units
    approved: Units
    reason: str
    consumer: str = ""
    budget: Budget | None = None
    coming: StopReason | None = None  # in the answer to a query: what will end this key's service


class StopOrder(_Message, frozen=True, tag="stop-order"):
    """Stop, or drain. The statement is a signed StopReason; the enclave checks that it concerns it."""

    statement: Signed


class StopNoted(_Message, frozen=True, tag="stop-noted"):
    """The proof of stop is in the ledger."""

    stop: int


class AttestAgain(_Message, frozen=True, tag="attest-again"):
    """Your evidence is no longer good enough: attest again or get no more leases."""

    problem: Problem


FromEnclave = Heartbeat | LeaseAsk | LeaseClose | ExtensionAsk | ExtensionQuery | StopProof
FromCustodian = (
    HeartbeatAck
    | LeaseGranted
    | LeaseRefused
    | CloseAck
    | ExtensionState
    | StopOrder
    | StopNoted
    | AttestAgain
)

# Payloads of statements ------------------------------------------------------------------------------

CLOSE_KIND: Final = "leasehold-close"
STOP_PROOF_KIND: Final = "leasehold-stop-proof"
STOP_ORDER_KIND: Final = "leasehold-stop-order"


class CloseReport(_Record, frozen=True):
    """Signed by the instance's statement key: final counter of a lease, and its last receipt."""

    instance: str
    lease: str
    spent: Units
    receipt_head: bytes


class StopReason(_Record, frozen=True, omit_defaults=True):
    """Signed by the custodian's root: who stops what, and why, and how (N-11).

    A `notice` begins at `begins`; a `drain` admits nobody and ends service at `ends`. `left` is how long
    that is from now, in milliseconds, for those whose clock is another.
    """

    stop: int
    epoch: int
    scope: Scope
    target: str  # consumer name, instance id, loan name; empty for `all`
    reason: str
    time: Instant
    mode: Literal["now", "notice", "drain"] = "now"
    begins: Instant = Instant(0)
    ends: Instant = Instant(0)
    left: Duration = Duration(0)


class StopReport(_Record, frozen=True):
    """Signed by the instance's statement key: it serves no more, and its memory is wiped.

    `wiped_bytes` is how much weight memory was released, `leases` are the final counters.
    """

    instance: str
    loan: str
    stop: int
    leases: tuple[Usage, ...]
    wiped_bytes: int
    time: Instant


# Enclave to consumer -----------------------------------------------------------------------------------
# Plain JSON under /leasehold/ beside the inference endpoints; docs/spec/consumer.md says how a consumer
# judges it. None of it is believed before C-8, and the budget only as far as the enclave is.

EVIDENCE_PATH: Final = "/leasehold/evidence"
BUDGET_PATH: Final = "/leasehold/budget"
EXTENSION_PATH: Final = "/leasehold/extension"
RECEIPTS_PATH: Final = "/leasehold/receipts"
RECEIPT_HEADER: Final = "leasehold-receipt-id"
EXTENSION_WAIT_SECONDS_MAX: Final = 30
WINDOW_NONCES_MAX: Final = 65_536  # B-4: a proof of at most 16 hashes


class EvidenceAsk(_Record, frozen=True):
    """`POST /leasehold/evidence`: the consumer's own 32 bytes, and nothing else."""

    nonce: bytes


class EvidenceAnswer(_Record, frozen=True):
    """Evidence over the Merkle `root` of a window of `nonces` nonces, the asker's one at `index` (B-4).

    `configuration` is the whole signed file, `collateral` a statement of the custodian's root.
    `loan`, `model`, `model_digest` (hex) are the attested enclave's word; `simulated` is its driver's.
    """

    evidence: Evidence
    statement_key: bytes
    configuration: bytes
    nonces: int
    index: int
    proof: tuple[bytes, ...]
    root: bytes
    collateral: Signed
    loan: str
    model: str
    model_digest: str
    simulated: bool


class BudgetAnswer(_Record, frozen=True, omit_defaults=True):
    """`GET /leasehold/budget`: how the grant behind the caller's key stands. `unit` is the tariff, in words.

    `coming` is the stop that was announced and will end the caller's service, or drains it.
    """

    consumer: str
    loan: str
    granted: Units
    available: Units
    outstanding: Units
    settled: Units
    written_off: Units
    unit: str
    coming: StopReason | None = None


class ExtensionRequest(_Record, frozen=True):
    """`POST /leasehold/extension`: the caller asks the custodian for `units` more, and says why."""

    units: Units
    reason: str


class ExtensionAnswer(_Record, frozen=True):
    """The state of the caller's latest request; `request` is 0 and `status` is none where it never asked."""

    request: int
    status: Literal["none", "open", "approved", "denied"]
    asked: Units
    approved: Units
    reason: str


class ReceiptAnswer(_Record, frozen=True):
    """`GET /leasehold/receipts/{id}`: the signed receipt, and the salt of its MACs for the asker alone."""

    receipt: Signed
    salt: bytes

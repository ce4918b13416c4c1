"""Receipts against the log, to the unit: who signed them, whether the chains are whole, what they add up to.

Pure: receipts and log entries in, rows out. Whoever calls it has checked the log against a checkpoint.
Spec: docs/spec/receipts.md, R-6. Refuses to know where receipts and log came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from leasehold.core.encoding import from_json, unb64, unhex
from leasehold.core.messages import CLOSE_KIND, CloseReport
from leasehold.core.receipt_checks import check_receipt
from leasehold.core.receipts import Receipt, head
from leasehold.core.statements import Signed
from leasehold.core.units import Units
from leasehold.custodian.ledger.audit import Entry
from leasehold.errors import BadMessage, BadSignature


class Fault(StrEnum):
    """What is wrong with a lease's receipts, or with one of them."""

    FORGED = "forged_signature"  # not under the key that the log recorded for the instance
    UNKNOWN_INSTANCE = "unknown_instance"  # the log knows none of that id, or no key of it
    UNKNOWN_LEASE = "unknown_lease"
    WRONG_CONTENT = "wrong_content"  # another instance, loan, model or evidence than in the log
    DUPLICATE = "duplicate_receipt"
    FORKED = "forked_chain"  # two receipts name the same one before them
    BROKEN = "broken_chain"  # one is missing, or one comes after the last
    REORDERED = "reordered_chain"  # time goes back along the chain
    TOLD_LESS = "more_than_settled"  # the ledger was told less than was served


class Finding(msgspec.Struct, frozen=True):
    """One fault: of which lease, by which receipt (empty where it is the lease's), in words."""

    fault: Fault
    lease: str
    receipt: str
    text: str


class Row(msgspec.Struct, frozen=True):
    """One lease: what the ledger has, what the receipts say, and the difference.

    `missing` are settled units without a receipt here; `in_doubt` are receipted units of a lease whose
    end the clock wrote off: they were served and not reported.
    """

    lease: str
    instance: str
    loan: str
    consumer: str
    key: str
    state: str
    granted: Units
    settled: Units
    written_off: Units
    refunded: Units
    receipts: int
    receipted: Units
    missing: Units
    in_doubt: Units
    alarms: int
    faults: tuple[Fault, ...]
    remark: str


class Reconciled(msgspec.Struct, frozen=True):
    """Every lease of the consumers in question, and every fault."""

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Lease:
    """A lease as the log tells it."""

    instance: str
    loan: str
    consumer: str
    key: str
    state: str = "open"
    granted: int = 0
    settled: int = 0
    written_off: int = 0
    refunded: int = 0
    alarms: int = 0
    end: bytes | None = (
        None  # the last receipt by the closing report; None where there is no report
    )


@dataclass(slots=True)
class Facts:
    """What the log says of instances, models and leases."""

    leases: dict[str, _Lease] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    evidence: set[tuple[str, str]] = field(default_factory=set)
    digests: dict[str, str] = field(default_factory=dict)  # by model
    models: dict[str, str] = field(default_factory=dict)  # by loan

    @classmethod
    def read(cls, entries: Iterable[Entry]) -> Facts:
        """Fold the log. Raises BadMessage for an entry that lacks what its kind has."""
        facts = cls()
        for entry in entries:
            try:
                facts._step(entry.kind, entry.detail)
            except (KeyError, TypeError, ValueError) as cause:
                raise BadMessage(about=f"log entry {entry.index}", got=entry.kind) from cause
        return facts

    def _step(self, kind: str, detail: dict[str, Any]) -> None:
        match kind:
            case "model.add":
                self.digests[detail["model"]] = detail["digest"]
            case "loan.create":
                self.models[detail["loan"]] = detail["model"]
            case "instance.accept" | "instance.renew":
                instance = detail["instance"]
                self.evidence.add((instance, detail["evidence"]))
                if key := detail.get("statement_key"):
                    self.keys[instance] = unhex(key, about="statement key", size=32)
            case "lease.grant":
                made = _Lease(*(detail[name] for name in ("instance", "loan", "consumer", "key")))
                lease = self.leases.setdefault(detail["lease"], made)
                lease.granted += detail["units"]
                lease.settled += detail["settled"]
            case "lease.refuse" if detail.get("lease"):
                self.leases[detail["lease"]].settled += detail.get("settled", 0)
            case "lease.settle":
                for name, units in detail["settled"]:
                    self.leases[name].settled += units
            case "lease.close":
                self.leases[detail["lease"]].settled += detail["settled"]
                self._end(self.leases[detail["lease"]], detail)
            case "lease.write_off":
                lease = self.leases[detail["lease"]]
                lease.state, lease.written_off = "written off", detail["units"]
            case "lease.refund":
                self.leases[detail["lease"]].refunded += detail["units"]
            case "alarm" if detail.get("lease") in self.leases:
                self.leases[detail["lease"]].alarms += 1

    def _end(self, lease: _Lease, detail: dict[str, Any]) -> None:
        """A closing report names the last receipt; a proof of stop only has counters."""
        lease.state = "closed"
        signed = from_json(unb64(detail["statement"], about="statement"), Signed)
        if signed.kind == CLOSE_KIND:
            lease.end = from_json(signed.payload, CloseReport).receipt_head


def reconcile(
    receipts: Sequence[Signed], facts: Facts, *, consumers: Sequence[str] = ()
) -> Reconciled:
    """R-6. Rows are the leases of `consumers` and of whoever the receipts belong to."""
    findings: list[Finding] = []
    chains: dict[str, list[tuple[Receipt, bytes]]] = {}
    seen: set[bytes] = set()
    for signed in receipts:
        receipt = _check(signed, facts, findings)
        if receipt is None:
            continue
        if head(signed) in seen:
            findings.append(_finding(Fault.DUPLICATE, receipt, "is there twice"))
            continue
        seen.add(head(signed))
        chains.setdefault(receipt.lease, []).append((receipt, head(signed)))
    who = {*consumers, *(facts.leases[lease].consumer for lease in chains)}
    used = {facts.leases[lease].key for lease in chains}
    rows = []
    for name, lease in facts.leases.items():
        if lease.consumer in who:
            chain = chains.get(name, [])
            findings += _chain(name, chain, lease)
            rows.append(_row(name, lease, chain, findings, keys=used))
    return Reconciled(tuple(rows), tuple(findings))


def _check(signed: Signed, facts: Facts, findings: list[Finding]) -> Receipt | None:
    """A receipt that is what the log knows; else a finding, and None where it cannot count at all."""
    try:
        claimed = from_json(signed.payload, Receipt)
    except BadMessage:
        findings.append(Finding(Fault.FORGED, "", "", "a statement that is no receipt"))
        return None
    public = facts.keys.get(claimed.instance)
    if public is None:
        text = f"is of instance {claimed.instance}, of which the log has no statement key"
        findings.append(_finding(Fault.UNKNOWN_INSTANCE, claimed, text))
        return None
    try:
        receipt = check_receipt(signed, statement_key=public)
    except BadSignature:
        text = f"is not signed by instance {claimed.instance}"
        findings.append(_finding(Fault.FORGED, claimed, text))
        return None
    lease = facts.leases.get(receipt.lease)
    if lease is None:
        findings.append(_finding(Fault.UNKNOWN_LEASE, receipt, "is for a lease never granted"))
        return None
    digest = facts.digests.get(facts.models.get(lease.loan, ""), "")
    wrong = [
        name
        for name, is_right in (
            ("instance", receipt.instance == lease.instance),
            ("loan", receipt.loan == lease.loan),
            ("model", receipt.model_digest == digest),
            ("evidence", (lease.instance, receipt.evidence_digest.hex()) in facts.evidence),
            ("units", receipt.units >= 0),
        )
        if not is_right
    ]
    if wrong:
        text = f"names another {', '.join(wrong)} than the log"
        findings.append(_finding(Fault.WRONG_CONTENT, receipt, text))
    return receipt if receipt.instance == lease.instance and receipt.units >= 0 else None


def _chain(name: str, chain: list[tuple[Receipt, bytes]], lease: _Lease) -> list[Finding]:
    """R-2: one beginning, one successor each, nothing missing, and the end that was signed."""
    found: list[Finding] = []
    heads = {digest: receipt for receipt, digest in chain}
    named: set[bytes] = set()
    for receipt, _ in chain:
        if receipt.previous in named:
            text = "follows a receipt that another one follows too"
            found.append(_finding(Fault.FORKED, receipt, text))
        named.add(receipt.previous)
        before = heads.get(receipt.previous)
        if receipt.previous and before is None:
            text = "follows a receipt that is not here"
            found.append(_finding(Fault.BROKEN, receipt, text))
        if before is not None and before.time > receipt.time:
            text = "is older than the one that it follows"
            found.append(_finding(Fault.REORDERED, receipt, text))
    if chain and lease.end is not None:
        if lease.end not in heads:
            text = "the closing report names a last receipt that is not here"
            found.append(Finding(Fault.BROKEN, name, "", text))
        elif lease.end in named:
            text = "there are receipts after the last that the closing report names"
            found.append(Finding(Fault.BROKEN, name, "", text))
    total = sum(receipt.units for receipt, _ in chain)
    most = lease.granted if lease.state == "open" else lease.settled + lease.written_off
    if total > most:
        text = f"receipts of {total} units, and the ledger was told of {most} at most"
        found.append(Finding(Fault.TOLD_LESS, name, "", text))
    return found


def _row(
    name: str,
    lease: _Lease,
    chain: list[tuple[Receipt, bytes]],
    findings: list[Finding],
    *,
    keys: set[str],
) -> Row:
    total = sum(receipt.units for receipt, _ in chain)
    missing = max(0, lease.settled - total)
    in_doubt = min(max(0, total - lease.settled), lease.written_off)
    faults = tuple(dict.fromkeys(one.fault for one in findings if one.lease == name))
    return Row(
        lease=name,
        instance=lease.instance,
        loan=lease.loan,
        consumer=lease.consumer,
        key=lease.key,
        state=lease.state,
        granted=Units(lease.granted),
        settled=Units(lease.settled),
        written_off=Units(lease.written_off),
        refunded=Units(lease.refunded),
        receipts=len(chain),
        receipted=Units(total),
        missing=Units(missing),
        in_doubt=Units(in_doubt),
        alarms=lease.alarms,
        faults=faults,
        remark=_remark(lease, total, missing, in_doubt, is_other=lease.key not in keys),
    )


def _remark(lease: _Lease, total: int, missing: int, in_doubt: int, *, is_other: bool) -> str:
    """Why the sums differ, where they do."""
    parts = []
    if missing and not total:
        parts.append("no receipts: another key's" if is_other else "no receipts: lost")
    elif missing:
        parts.append(f"receipts of {missing} units are lost")
    if in_doubt:
        parts.append(f"{in_doubt} of the units written off were served")
    if lease.state == "open" and total > lease.settled:
        parts.append(f"{total - lease.settled} units not reported yet")
    if lease.alarms:
        parts.append(f"alarms: {lease.alarms}")
    return "; ".join(parts) or "to the unit"


def _finding(fault: Fault, receipt: Receipt, text: str) -> Finding:
    return Finding(fault, receipt.lease, receipt.id, text)


def parse_receipts(data: bytes) -> list[Signed]:
    """R-5: signed receipts, one JSON object a line; or one object with the member `signed` or `receipt`.

    Raises BadMessage.
    """
    try:
        return [_one(msgspec.json.decode(data))]
    except msgspec.DecodeError:
        lines = [line for line in data.splitlines() if line.strip()]
    try:
        return [_one(msgspec.json.decode(line)) for line in lines]
    except msgspec.DecodeError as cause:
        raise BadMessage(about="receipts", got=cause, expected="one JSON object a line") from cause


def _one(value: Any) -> Signed:
    inner = value
    if isinstance(value, dict) and "payload" not in value:
        inner = value.get("signed", value.get("receipt"))
    try:
        return msgspec.convert(inner, Signed)
    except msgspec.ValidationError as cause:
        raise BadMessage(about="receipt", got=cause, expected="kind, payload, signature") from cause

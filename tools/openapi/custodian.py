"""The custodian's API: enclaves, operators, the log, and ciphertext for anybody."""

from __future__ import annotations

from typing import Any, Final

from leasehold.core.messages import Attest, Challenge, Problem, Release
from leasehold.custodian import proposals, proposed, records, tree_records
from leasehold.custodian import tree as log
from leasehold.custodian.ledger import (
    claims,
    consumers,
    extensions,
    instances,
    loans,
    refunds,
    stops,
    usage,
)
from tools.openapi.document import Operation, document

_BYTES: Final = "application/octet-stream"
_NOTE: Final = "text/plain"

# Method, path, summary, answer, and the record of the body or the query.
_ROWS: Final[tuple[tuple[str, str, str, Any, Any], ...]] = (
    ("GET", "/operator/hello", "Who you are and who this is.", records.Hello, None),
    ("GET", "/operator/models", "Registered models.", tuple[loans.Model, ...], None),
    ("PUT", "/operator/models/{name}", "Register a sealed model.", loans.Model, None),
    ("GET", "/operator/loans", "Loans.", list[records.LoanView], None),
    ("POST", "/operator/loans", "Lend a model.", records.LoanView, records.LoanOrder),
    ("GET", "/operator/loans/{name}", "A loan.", records.LoanView, None),
    ("POST", "/operator/loans/{name}/cap", "Change a cap.", records.LoanView, records.CapChange),
    (
        *("PUT", "/operator/loans/{name}/manifest", "Judge by another manifest."),
        *(records.LoanView, records.ManifestChange),
    ),
    ("POST", "/operator/loans/{name}/end", "End a loan.", records.LoanView, None),
    ("GET", "/operator/consumers", "Consumers.", tuple[consumers.Consumer, ...], None),
    ("POST", "/operator/consumers", "A consumer.", consumers.Consumer, records.ConsumerOrder),
    ("GET", "/operator/keys", "API keys.", tuple[consumers.Key, ...], records.ByConsumer),
    ("POST", "/operator/keys", "An API key, by its hash.", consumers.Key, records.KeyOrder),
    ("POST", "/operator/keys/{name}/revoke", "Revoke a key.", consumers.Key, None),
    ("GET", "/operator/grants", "Budgets.", list[records.GrantView], records.GrantQuery),
    ("POST", "/operator/grants", "Grant a budget.", records.GrantView, records.GrantOrder),
    ("POST", "/operator/grants/change", "Change one.", records.GrantView, records.GrantOrder),
    ("GET", "/operator/refunds", "Refunds.", tuple[refunds.Refund, ...], records.GrantQuery),
    ("POST", "/operator/refunds", "Give units back.", refunds.Refund, records.RefundOrder),
    ("GET", "/operator/key-caps", "Caps of keys.", list[records.KeyCapView], records.ByLoan),
    ("POST", "/operator/key-caps", "Cap a key.", records.KeyCapView, records.KeyCapOrder),
    (
        *("GET", "/operator/requests", "Requests for more."),
        *(tuple[extensions.Request, ...], records.RequestQuery),
    ),
    (
        *("POST", "/operator/requests/{id}/approve", "Approve a request."),
        *(records.DecisionView, records.Approval),
    ),
    ("POST", "/operator/requests/{id}/deny", "Deny one.", records.DecisionView, records.Why),
    ("GET", "/operator/stops", "Stops.", tuple[stops.Stop, ...], records.StopQuery),
    ("POST", "/operator/stops", "Stop.", records.ProgressView, records.StopCommand),
    (
        *("GET", "/operator/stops/{id}", "How far a stop has come."),
        *(records.ProgressView, records.ProgressQuery),
    ),
    ("POST", "/operator/stops/{id}/lift", "Resume.", stops.Stop, records.Why),
    (
        *("GET", "/operator/proposals", "Proposals."),
        *(list[proposed.ProposalView], proposed.ProposalQuery),
    ),
    ("GET", "/operator/proposals/{id}", "A proposal.", proposed.ProposalView, None),
    (
        *("POST", "/operator/proposals/{id}/approve", "Another hand."),
        *(proposed.ProposalView, proposed.HandOrder),
    ),
    (
        *("POST", "/operator/proposals/{id}/reject", "Close a proposal."),
        *(proposed.ProposalView, records.Why),
    ),
    ("GET", "/operator/usage", "Sums.", tuple[usage.UsageRow, ...], records.UsageQuery),
    ("GET", "/operator/instances", "Instances.", list[records.InstanceView], records.InstanceQuery),
    (
        *("GET", "/operator/appraisals", "The latest appraisals."),
        *(tuple[instances.Appraisal, ...], records.AppraisalQuery),
    ),
    ("GET", "/operator/audit", "Entries of the log.", records.AuditPage, records.AuditQuery),
    ("GET", "/operator/audit/checkpoint", "A checkpoint.", tree_records.CheckpointView, None),
    ("GET", "/operator/audit/accounts", "Every account.", claims.Claim, None),
    ("GET", "/log/checkpoint", "A cosigned checkpoint.", _NOTE, log._Checkpoint),
    ("GET", "/log/witnesses", "Who cosigns.", list[tree_records.WitnessView], None),
    (
        *("POST", "/log/cosignature", "Cosign the log."),
        *(tree_records.WitnessView, tree_records.CosignatureOrder),
    ),
    ("GET", "/log/tile/{tile:path}", "A tile of the log.", _BYTES, None),
    ("GET", "/log/inclusion", "A proof.", tree_records.InclusionView, log._Inclusion),
    ("GET", "/log/consistency", "A proof.", tree_records.ConsistencyView, log._Consistency),
)
GATED: Final = frozenset(proposals.GATED)


def _operation(method: str, path: str, summary: str, answer: Any, record: Any) -> Operation:
    answers = {200: answer}
    if f"{method} {path}" in GATED:  # O-18: it may take another hand
        answers[202] = proposed.ProposalView
    query, body = (record, None) if method == "GET" else (None, record)
    return Operation(method, path, summary, answers, body=body, query=query)


OPERATIONS: Final = (
    Operation("POST", "/enclave/challenge", "A nonce.", {200: Challenge}, key=False),
    Operation("POST", "/enclave/attest", "Show evidence.", {200: Release}, body=Attest, key=False),
    Operation("GET", "/models/{digest}", "Ciphertext.", {200: _BYTES, 206: _BYTES}, key=False),
    *(_operation(*row) for row in _ROWS),
)


def describe() -> dict[str, Any]:
    """The document."""
    return document(
        "Leasehold custodian",
        "What the custodian answers to enclaves, operators and anybody. The channel of enclaves, "
        "GET /enclave/channel, is a WebSocket. See docs/spec/custodian-api.md and docs/spec/session.md.",
        OPERATIONS,
        refusal=Problem,
        security={"certificate": {"type": "mutualTLS"}},
    )

"""The enclave's API: OpenAI's endpoints, KServe's, and Leasehold's own."""

from __future__ import annotations

from typing import Any, Final

from leasehold.core.messages import (
    BudgetAnswer,
    EvidenceAnswer,
    EvidenceAsk,
    ExtensionAnswer,
    ExtensionRequest,
    ReceiptAnswer,
)
from leasehold.core.problems import OpenAiError
from leasehold.enclave import kserve, openai
from leasehold.enclave.own import RECEIPTS, ExtensionQuery
from leasehold.enclave.serve import MODEL
from tools.openapi import shapes
from tools.openapi.document import Operation, document

_LENGTH: Final = {"Inference-Header-Content-Length": "Bytes of JSON, where binary tensors follow."}
_KSERVE: Final[dict[str, Any]] = {"refusal": shapes.InferenceError}

OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/chat/completions",
        "Answer a chat.",
        {200: shapes.ChatCompletion},
        body=openai.ChatRequest,
        events=shapes.Chunk,
    ),
    Operation(
        "POST",
        "/v1/completions",
        "Continue a text.",
        {200: shapes.TextCompletion},
        body=openai.TextRequest,
        events=shapes.Chunk,
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        "Embed texts.",
        {200: shapes.Embeddings},
        body=openai.EmbeddingRequest,
    ),
    Operation("GET", "/v1/models", "The one model that is served.", {200: shapes.Models}),
    Operation(
        "GET", "/v2", "The server and its extensions.", {200: shapes.Server}, key=False, **_KSERVE
    ),
    Operation(
        "GET", "/v2/health/live", "Does it answer?", {200: shapes.Live}, key=False, **_KSERVE
    ),
    Operation(
        "GET",
        "/v2/health/ready",
        "Does it serve?",
        {200: shapes.Ready, 503: shapes.Ready},
        key=False,
        **_KSERVE,
    ),
    Operation("GET", MODEL, "What the model takes and gives.", {200: shapes.Metadata}, **_KSERVE),
    Operation("GET", f"{MODEL}/ready", "Is it there?", {200: shapes.ModelReady}, **_KSERVE),
    Operation(
        "POST",
        f"{MODEL}/infer",
        "Map tensors to tensors.",
        {200: shapes.Inferred},
        body=kserve.InferRequest,
        binary=True,
        headers=_LENGTH,
        **_KSERVE,
    ),
    Operation(
        "POST",
        "/leasehold/evidence",
        "Evidence of what this is, bound to the caller's nonce.",
        {200: EvidenceAnswer},
        body=EvidenceAsk,
        key=False,
    ),
    Operation("GET", "/leasehold/budget", "How the caller's budget stands.", {200: BudgetAnswer}),
    Operation(
        "POST",
        "/leasehold/extension",
        "Ask the custodian for more units.",
        {200: ExtensionAnswer},
        body=ExtensionRequest,
    ),
    Operation(
        "GET",
        "/leasehold/extension",
        "What became of that; waits for a decision where asked to.",
        {200: ExtensionAnswer},
        query=ExtensionQuery,
    ),
    Operation("GET", RECEIPTS, "The receipt of an answer.", {200: ReceiptAnswer}),
    Operation(
        "GET",
        "/leasehold/health",
        "How the instance is.",
        {200: shapes.Health, 503: shapes.Health},
        key=False,
    ),
)


def describe() -> dict[str, Any]:
    """The document."""
    return document(
        "Leasehold enclave",
        "What an enclave answers to consumers, over TLS that ends inside it. See docs/spec/openai.md, "
        "docs/spec/inference.md and docs/spec/consumer.md.",
        OPERATIONS,
        refusal=OpenAiError,
        security={"key": {"type": "http", "scheme": "bearer"}},
    )

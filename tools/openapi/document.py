"""Turns a table of operations into an OpenAPI 3.1 document. Refuses to know any API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

REFERENCE: Final = "#/components/schemas/{name}"
JSON: Final = "application/json"
_VARIABLE: Final = re.compile(r"\{(\w+)(?::path)?\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `answers` gives for each status a record, or a media type of anything.

    `events` is what each event of a stream is, where the caller may ask for one.
    """

    method: str
    path: str
    summary: str
    answers: Mapping[int, Any]
    body: Any = None
    query: Any = None
    binary: bool = False
    refusal: Any = None
    key: bool = True
    events: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def document(
    title: str,
    description: str,
    operations: Sequence[Operation],
    *,
    refusal: Any,
    security: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """The whole document as plain values."""
    kinds: list[Any] = [refusal]
    for one in operations:
        kinds += [one.body, one.query, one.refusal, one.events, *one.answers.values()]
    records = [kind for kind in kinds if kind is not None and not isinstance(kind, str)]
    schemas, components = msgspec.json.schema_components(
        records, schema_hook=_anything, ref_template=REFERENCE
    )
    known = {id(kind): schema for kind, schema in zip(records, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        path = _VARIABLE.sub(r"{\1}", one.path)
        shape = _operation(one, known, components, one.refusal or refusal)
        shape["security"] = [{name: []} for name in security] if one.key else []
        paths.setdefault(path, {})[one.method.lower()] = shape
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": description},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": dict(security)},
    }


def _operation(
    one: Operation, known: Mapping[int, Any], components: Mapping[str, Any], refusal: Any
) -> dict[str, Any]:
    content = _content(known[id(refusal)])
    shape: dict[str, Any] = {"summary": one.summary, "responses": {}}
    for status, answer in one.answers.items():
        media = {answer: {}} if isinstance(answer, str) else _content(known[id(answer)])
        if one.events is not None:
            media["text/event-stream"] = {"schema": {"type": "string"}}
        if one.binary:
            media["application/octet-stream"] = {}
        shape["responses"][str(status)] = {"description": one.summary, "content": media}
    shape["responses"]["default"] = {"description": "A refusal.", "content": content}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _VARIABLE.findall(one.path)
    ]
    for name, words in one.headers.items():
        schema = {"type": "integer", "minimum": 0}
        parameters.append({"name": name, "in": "header", "description": words, "schema": schema})
    if one.query is not None:
        record = components[known[id(one.query)]["$ref"].rpartition("/")[2]]
        required = record.get("required", ())
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in record["properties"].items()
        ]
    if parameters:
        shape["parameters"] = parameters
    if one.body is not None:
        shape["requestBody"] = {"required": True, "content": _content(known[id(one.body)])}
        if one.binary:
            shape["requestBody"]["content"]["application/octet-stream"] = {}
    return shape


def _anything(kind: type) -> dict[str, Any]:
    """`object` is any value; what is in an entry of the log depends on its kind."""
    if kind is not object:
        raise NotImplementedError(kind)
    return {"description": "Any value."}


def _content(schema: Any) -> dict[str, Any]:
    return {JSON: {"schema": schema}}

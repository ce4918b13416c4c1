"""Turns values into pages: the package's own templates, everything escaped, under strict headers.

Spec: docs/spec/console.md, O-27 and O-28. Refuses to know what a page is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from leasehold.core.moments import span, utc
from leasehold.core.units import Instant
from leasehold.custodian.console.bars import Bar
from leasehold.custodian.console.stopping import ID_CHARS

PREFIX: Final = "/console"
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # without a referrer, a browser says `Origin: null` of our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
STATIC: Final[Mapping[str, str]] = {"console.css": "text/css", "icon.svg": "image/svg+xml"}


def page(template: str, values: Mapping[str, Any], *, status: int = 200) -> Response:
    """A page of the template of that name."""
    text = _TEMPLATES.get_template(template).render(values)
    return Response(text, status, HEADERS, "text/html; charset=utf-8")


def static(name: str) -> Response:
    """One of the files in `STATIC`."""
    data = files(__package__).joinpath("static", name).read_bytes()
    return Response(data, headers=HEADERS, media_type=STATIC[name])


def go(path: str) -> Response:
    """What answers a form that was done: the page to look at now."""
    return RedirectResponse(PREFIX + path, 303, HEADERS)


def _time(instant: Instant, now: Instant | None = None) -> Markup:
    """A moment in UTC; where `now` is given, also how far it is from then."""
    machine = datetime.fromtimestamp(instant // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    shown = Markup('<time datetime="{}">{}</time>').format(machine, utc(instant))
    if now is None:
        return shown
    return Markup('{} <span class="ago">{}</span>').format(shown, ago(instant, now))


def ago(instant: Instant, now: Instant) -> str:
    """How far a moment is from now, in words."""
    return f"in {span(instant - now)}" if instant > now else f"{span(now - instant)} ago"


def _short(name: str) -> Markup:
    """The start of a long name; the whole one stays in the page."""
    if len(name) <= ID_CHARS:
        return Markup("<code>{}</code>").format(name)
    return Markup('<code class="id" title="{}">{}…</code>').format(name, name[:ID_CHARS])


def _environment() -> Any:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "units": lambda count: f"{count:,}",
        "time": _time,
        "ago": ago,
        "span": span,
        "short": _short,
        "bar": Bar.of,
        "shown": lambda value: value.hex() if isinstance(value, bytes) else str(value),
    }
    return found


_TEMPLATES: Final = _environment()

"""A browser as the console's tests have it: a certificate, a browser's headers, and eyes for HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Final

import httpx2

from ..house import Office

OWN: Final = {
    "sec-fetch-site": "same-origin",
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "document",
}
FORM: Final = OWN | {"origin": "https://custodian"}
_BREAKS: Final = {
    "p",
    "tr",
    "div",
    "li",
    "dt",
    "dd",
    "h1",
    "h2",
    "small",
    "td",
    "th",
    "caption",
    "option",
}


class Page(HTMLParser):
    """What a person sees of a page, and what it is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._parts: list[str] = []
        self._rows: list[list[str]] = []
        self._hidden = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("title", "style", "script")
        if tag in _BREAKS:
            self._parts.append("\n")
        if tag == "tr":
            self._rows.append([])
        for part in (" ", f"[{dict(attrs)['title']}] " if dict(attrs).get("title") else ""):
            if self._rows:
                self._rows[-1].append(part)

    def handle_endtag(self, tag: str) -> None:
        """See `HTMLParser`."""
        self._hidden -= tag in ("title", "style", "script")

    def handle_data(self, data: str) -> None:
        """See `HTMLParser`."""
        if not self._hidden:
            self._parts.append(data)
            if self._rows:
                self._rows[-1].append(data)

    @property
    def text(self) -> str:
        """Its words, with single spaces."""
        return " ".join("".join(self._parts).split())

    @property
    def rows(self) -> list[str]:
        """The words of each row of a table, with the whole of every shortened name in brackets."""
        return [" ".join("".join(row).split()) for row in self._rows]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of that name."""
        return [attributes for name, attributes in self.tags if name == tag]


async def get(
    office: Office, path: str, who: str = "admin", headers: Mapping[str, str] = OWN
) -> httpx2.Response:
    """Load a page."""
    async with office.client(office.operator(who)) as client:
        return await client.get(path, headers=dict(headers))


async def see(office: Office, path: str, who: str = "admin") -> Page:
    """Load a page that is there."""
    answer = await get(office, path, who)
    assert answer.status_code == 200, answer.text
    return Page(answer.text)


async def send(
    office: Office,
    path: str,
    fields: Mapping[str, str],
    who: str = "admin",
    headers: Mapping[str, str] = FORM,
) -> httpx2.Response:
    """Submit a form."""
    async with office.client(office.operator(who)) as client:
        return await client.post(path, data=dict(fields), headers=dict(headers))

"""Writes docs/errors.md from `leasehold.errors`; a test asserts that the page is what this writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from leasehold.errors import (
    LeaseholdError,
    Malformed,
    Refused,
    Unavailable,
    Unproven,
    codes,
)

PAGE: Final = Path(__file__).parent.parent / "docs" / "errors.md"
BLAME: Final[tuple[tuple[type[LeaseholdError], int, str], ...]] = (
    (Malformed, 2, "They broke the format."),
    (Unproven, 3, "The evidence does not show what it must show."),
    (Refused, 4, "Understood, and the answer is no."),
    (Unavailable, 5, "The world failed."),
)
_HEAD: Final = """\
# Errors

Every refusal has a code that never changes. It is what commands print as `error [code]: ...`, what enclaves
answer as `error.code` in OpenAI's form, and what the audit log keeps. The four kinds say who is to blame, and
give the exit status of commands. Written by `tools/errors_doc.py`; edit `src/leasehold/errors.py` instead.
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD]
    for kind, status, blame in BLAME:
        parts.append(f"\n## {kind.__name__}: exit status {status}\n\n{blame}\n")
        parts.append("\n| code | HTTP | what happened | what to do |\n|---|---|---|---|\n")
        parts += [_row(code, error) for code, error in sorted(codes(kind).items())]
    return "".join(parts)


def meaning(error: type[LeaseholdError]) -> str:
    """What happened, in the error's own sentence."""
    return (error.__doc__ or "").split("\n")[0].strip()


def _row(code: str, error: type[LeaseholdError]) -> str:
    cells = (f"`{code}`", str(error.status), meaning(error), error.do or "See the message.")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.name}\n")

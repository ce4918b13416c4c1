"""The specification and the code name the same steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import leasehold.attest
import leasehold.custodian.collateral
from leasehold.errors import codes

ROOT = Path(__file__).parents[2]
PACKAGES = (leasehold.attest, leasehold.custodian.collateral)
CODE = "\n".join(
    path.read_text("utf-8")
    for package in PACKAGES
    for path in Path(str(package.__file__)).parent.rglob("*.py")
)


def cited(letter: str, text: str) -> set[int]:
    """All ids of a kind in a text; 'V-3 to V-10' cites what lies between, too."""
    found = {int(number) for number in re.findall(rf"\b(?!P-256|P-384|P-521){letter}-(\d+)", text)}
    for first, last in re.findall(rf"\b{letter}-(\d+) to {letter}-(\d+)", text):
        found |= set(range(int(first), int(last) + 1))
    return found


PAGES = [
    ("V", "evidence.md"),
    ("K", "collateral.md"),
    ("P", "manifest.md"),
    ("E", "snp.md"),
    ("X", "tdx.md"),
    ("H", "tpm.md"),
    ("Q", "ratls.md"),
    ("F", "attestation-result.md"),
    ("D", "devices.md"),
]


@pytest.mark.parametrize(("letter", "page"), PAGES)
def test_every_step_is_in_both(letter: str, page: str) -> None:
    text = (ROOT / "docs" / "spec" / page).read_text("utf-8")
    steps = {int(number) for number in re.findall(rf"^\*\*{letter}-(\d+)", text, re.MULTILINE)}
    assert steps == set(range(1, len(steps) + 1))
    assert cited(letter, CODE) == steps


@pytest.mark.parametrize("page", sorted({page for _, page in PAGES}))
def test_every_error_that_the_pages_name_exists(page: str) -> None:
    text = (ROOT / "docs" / "spec" / page).read_text("utf-8")
    named = {
        code
        for group in re.findall(r"\[(`[^\]]*)\]", text)
        for code in re.findall(r"`([a-z_]+)`", group)
    }
    assert named
    assert named <= set(codes())

"""The pages for people: links resolve, named modules and tests exist, the glossary is in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]
SECURITY = sorted((DOCS / "security").glob("*.md"))
DECISIONS = sorted((DOCS / "adr").glob("[0-9]*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"[\w.-]+(?:/[\w.-]+)+(?:::\w+)?")
TERM = re.compile(r"^- \*\*([^*]+)\*\*: \S.*\.$")


def name_of(path: Path) -> str:
    """How a test is called that looks at this page."""
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its fenced code."""
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """The fragments that a renderer makes of the headings."""
    found = set()
    for heading in HEADING.findall(prose(page)):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(plain.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), f"{target} leads out of the repository"
        if fragment:
            assert fragment in anchors(there), target


def check_named(name: str) -> None:
    """A path below the repository or the package; after `::`, a function in that file."""
    path, _, function = name.partition("::")
    places = [base / path for base in (ROOT, ROOT / "src" / "leasehold")]
    there = next((place for place in places if place.exists()), None)
    assert there is not None, f"{path} does not exist"
    if function:
        assert re.search(
            rf"^ *(async )?def {function}\(", there.read_text("utf-8"), re.MULTILINE
        ), name


@pytest.mark.parametrize("page", SECURITY, ids=name_of)
def test_every_named_module_and_test_exists(page: Path) -> None:
    named = [code for code in CODE.findall(prose(page)) if NAMED.fullmatch(code)]
    assert named
    for name in named:
        check_named(name)


def test_a_name_that_is_wrong_is_noticed() -> None:
    check_named("tests/test_docs.py::check_named")
    check_named("core/meter.py")
    for wrong in ("core/nothing.py", "tests/test_docs.py::no_such_function"):
        with pytest.raises(AssertionError):
            check_named(wrong)


def test_every_threat_has_one_row_and_one_state() -> None:
    rows = re.findall(
        r"^\| T(\d+) \| [^|]+ \| ([^|]+) \| [^|]+ \|$", prose(DOCS / "security/threats.md"), re.M
    )
    assert [int(number) for number, _ in rows] == list(range(1, 62))
    assert {state for _, state in rows} <= {"closed", "reduced", "open", "not promised"}


def test_every_invariant_has_one_row() -> None:
    rows = re.findall(r"^\| (\d+) \| ", prose(DOCS / "security/invariants.md"), re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, 12))


def test_the_glossary_is_in_order_and_says_each_thing_once() -> None:
    lines = [line for line in prose(DOCS / "glossary.md").splitlines() if line.startswith("- ")]
    terms = []
    for line in lines:
        entry = TERM.match(line)
        assert entry is not None, line
        terms.append(entry[1])
    keys = [term.casefold() for term in terms]
    assert keys == sorted(set(keys))
    assert len(terms) > 30


def test_decisions_are_numbered_listed_and_say_what_they_cost() -> None:
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert numbers == list(range(1, len(DECISIONS) + 1))
    listed = LINK.findall(prose(DOCS / "adr" / "README.md"))
    assert listed == [page.name for page in DECISIONS]
    for number, page in zip(numbers, DECISIONS, strict=True):
        text = prose(page)
        assert text.startswith(f"# {number}. ")
        parts = re.findall(r"^\*\*(\w+)\.\*\* \S", text, re.MULTILINE)
        assert parts == ["Context", "Decision", "Cost"], page.name

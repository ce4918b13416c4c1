"""`leasehold proposals`, and what a command says that became one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.custodian.house import LOAN, MODEL, House

from leasehold.cli import main
from leasehold.core.crypto import sha256
from leasehold.core.encoding import unb64
from leasehold.custodian import settings

from .test_operator import Desk, opened


def two_hands(house: House) -> None:
    """Three more people, and everything takes two of them."""
    folder = house.settings.folder
    where = ("--custodian", str(folder))
    for name, role in (("eve", "admin"), ("sam", "stopper")):
        done = CliRunner().invoke(main, ["operator", "add", name, "--role", role, *where])
        assert done.exit_code == 0, done.output
    file = folder / "custodian.toml"
    file.write_text(
        file.read_text().replace(" = 1\n", " = 2\n").replace("version = 2", "version = 1")
    )
    house.settings = settings.read(folder)
    assert set(house.settings.hands.gates) == {"release", "cap", "manifest", "resume", "grant"}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A running custodian where what can takes two hands."""
    with opened(tmp_path, two_hands) as made:
        yield made


def proposed(desk: Desk, *words: str) -> tuple[str, str]:
    """Run a command that becomes a proposal; its number and digest, from what is printed."""
    said = desk.run(*words, code=6).strip()
    start, _, digest = said.partition(" --digest ")
    number = start.split()[-1]
    assert said == (
        f"proposed as {number}; needs 1 more: "
        f"leasehold proposals approve {number} --digest {digest}"
    )
    return number, digest


def approved(desk: Desk, *words: str) -> str:
    """Propose as admin, approve as eve, with the words that were printed."""
    number, digest = proposed(desk, *words)
    said = desk.run("proposals", "approve", number, "--digest", digest, "--operator", "eve")
    assert f"Proposal {number} is done" in said
    return number


def test_two_people_lend_and_grant(desk: Desk) -> None:
    manifest = desk.file("manifest.toml", desk.house.manifest)
    create = ("loan", "create", LOAN, "--model", MODEL, "--manifest", manifest, "--cap", "5000")
    number, digest = proposed(desk, *create)
    assert desk.json("loan", "list") == []
    shown = desk.run("proposals", "show", number, "--operator", "eve")
    assert f"digest: {digest}" in shown
    assert "act: POST /operator/loans" in shown
    assert "cap: 5000" in shown
    assert "proposed by: admin, " in shown
    assert desk.house.manifest.decode().splitlines()[0] in shown
    assert desk.run("proposals", "approve", number, "--digest", digest, "--operator", "eve") == (
        f"Proposal {number} is done: POST /operator/loans.\n"
    )
    assert desk.json("loan", "show", LOAN)["budget"]["available"] == 5000
    desk.run("consumer", "add", "alice")
    approved(desk, "grant", "add", LOAN, "alice", "1000")
    approved(desk, "grant", "change", LOAN, "alice", "--add", "5")
    approved(desk, "loan", "cap", LOAN, "--add", "1")
    approved(desk, "loan", "manifest", LOAN, manifest)
    assert "clinic\talice\t1,005" in desk.run("grant", "list")
    desk.run("grant", "change", LOAN, "alice", "--take", "5")
    desk.run("stop", "all", "--reason", "fire")
    approved(desk, "resume", "1", "--reason", "over")
    assert desk.json("resume") == []
    kinds = [one["state"] for one in desk.json("proposals", "list", "--all")]
    assert kinds == ["done"] * 6
    desk.run("audit", "list")


def test_a_proposal_in_json(desk: Desk) -> None:
    manifest = desk.file("manifest.toml", desk.house.manifest)
    desk.run("loan", "create", LOAN, "--model", MODEL, "--manifest", manifest, "--cap", "5", code=6)
    (listed,) = desk.json("proposals", "list")
    assert (listed["kind"], listed["missing"], listed["hands"]) == ("release", 1, ["admin"])
    shown = desk.json("proposals", "show", "1")
    assert sha256(unb64(shown["request"])).hex() == shown["digest"] == listed["digest"]
    desk.run("stop", "all", "--reason", "fire")
    where = ["--custodian", str(desk.house.settings.folder)]
    lifted = CliRunner().invoke(main, ["resume", "1", "--reason", "x", "--json", *where])
    assert lifted.exit_code == 6
    assert '"kind": "resume"' in lifted.stdout


def test_each_refusal_has_its_code(desk: Desk) -> None:
    manifest = desk.file("manifest.toml", desk.house.manifest)
    number, digest = proposed(
        desk, "loan", "create", LOAN, "--model", MODEL, "--manifest", manifest, "--cap", "5"
    )
    approve = ("proposals", "approve", number, "--digest")
    desk.refused("already_approved", 4, *approve, digest)
    desk.refused("not_permitted", 4, *approve, digest, "--operator", "sam")
    desk.refused("wrong_proposal", 4, *approve, "00" * 32, "--operator", "eve")
    desk.refused("bad_message", 2, *approve, "00", "--operator", "eve")
    assert "is rejected" in desk.run(
        "proposals", "reject", number, "--reason", "not now", "--operator", "eve"
    )
    desk.refused("proposal_closed", 4, *approve, digest, "--operator", "eve")
    assert desk.json("proposals", "list") == []
    assert "rejected" in desk.run("proposals", "list", "--all")
    assert 'closed because: "not now"' in desk.run("proposals", "show", number)


def test_a_proposers_words_cannot_pass_for_a_line_of_ours(desk: Desk) -> None:
    desk.run("stop", "all", "--reason", "fire")
    evil = "fine\ndigest: 0000\x1b[2K"
    number, digest = proposed(desk, "resume", "1", "--reason", evil)
    shown = desk.run("proposals", "show", number)
    assert [line for line in shown.splitlines() if line.startswith("digest: ")] == [
        f"digest: {digest}"
    ]
    assert "\x1b" not in shown

"""`leasehold custodian backup` and `restore` on a folder, beside a custodian that runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.custodian.house import ADMIN, Events, House, listen_anywhere

from leasehold.cli import main
from leasehold.custodian.ledger import consumers
from leasehold.custodian.serve import running


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A custodian's folder."""
    return House.build(tmp_path / "custodian")


def run(house: House, *words: str, code: int = 0) -> str:
    """Run a command on the folder and give all it printed."""
    folder = str(house.settings.folder)
    result = CliRunner(env={"LEASEHOLD_CUSTODIAN": folder}).invoke(main, ["custodian", *words])
    assert result.exit_code == code, (words, result.output, result.exception)
    return result.output


def serve(house: House, *names: str, backup: Path | None = None) -> list[str]:
    """Run the custodian, enrol consumers, back up while it runs; who is enrolled at the end."""

    async def live() -> list[str]:
        async with running(listen_anywhere(house.settings), log=Events()) as found:
            for name in names:
                await found.custodian.change(
                    lambda tx, now, name=name: consumers.add_consumer(
                        tx, now=now, operator=ADMIN, name=name
                    )
                )
            if backup is not None:
                await asyncio.to_thread(run, house, "backup", str(backup))
            every = await found.custodian.look(consumers.list_consumers)
            return [one.name for one in every]

    return asyncio.run(live())


def test_back_up_lose_and_restore(house: House, tmp_path: Path) -> None:
    backup, kept = tmp_path / "monday.db", tmp_path / "kept.checkpoint"
    assert serve(house, "ann", backup=backup) == ["ann"]
    assert "entries: 1" in run(house, "backup", "--check", str(backup))
    serve(house, "bob")
    kept.write_bytes(house.settings.mark.read_bytes())
    assert "error [already_exists]" in run(house, "restore", str(backup), code=4)

    told = run(house, "restore", str(backup), "--replace", "--checkpoint", str(kept))
    assert "entries in the backup: 1" in told
    assert "entries lost, as far as known: 1" in told
    assert "replaced ledger: " in told
    assert "Everything is stopped" in told
    assert "No newer checkpoint was at hand" not in told
    assert serve(house) == ["ann"]
    assert len(list(house.settings.folder.glob("ledger-replaced-*.db"))) == 1


def test_what_an_operator_decided_since_is_told(house: House, tmp_path: Path) -> None:
    backup = tmp_path / "monday.db"
    serve(house, "ann", backup=backup)
    run(house, "restore", str(backup), "--replace", "--reason", "first")
    told = run(house, "restore", str(backup), "--replace", "--reason", "second")
    assert "admin  stop.order" in told
    assert '"reason":"first"' in told


def test_an_old_or_lost_ledger_never_takes_a_good_backups_place(
    house: House, tmp_path: Path
) -> None:
    """A job that backs up every night meets a ledger that is gone, and is made anew when it is opened."""
    backup = tmp_path / "every-night.db"
    serve(house, "ann", backup=backup)
    good = backup.read_bytes()
    for file in house.settings.folder.glob("ledger.db*"):
        file.unlink()
    assert "error [ledger_old]" in run(house, "backup", str(backup), "--force", code=3)
    assert backup.read_bytes() == good
    run(house, "restore", str(backup))
    assert serve(house) == ["ann"]


def test_refusals_have_their_codes(house: House, tmp_path: Path) -> None:
    backup, other = tmp_path / "monday.db", tmp_path / "other.db"
    serve(house, "ann", backup=backup)
    assert "error [already_exists]" in run(house, "backup", str(backup), code=4)
    assert "entries: 1" in run(house, "backup", str(backup), "--force")
    other.write_bytes(house.settings.ledger.read_bytes())
    assert "error [bad_backup]" in run(house, "backup", "--check", str(other), code=2)
    assert "error [file_trouble]" in run(house, "restore", str(tmp_path / "none"), code=5)
    assert "error [not_permitted]" in run(
        house, "restore", str(backup), "--replace", "--operator", "eve", code=4
    )

    async def beside() -> None:
        async with running(listen_anywhere(house.settings), log=Events()):
            told = await asyncio.to_thread(run, house, "restore", str(backup), "--replace", code=4)
            assert "error [ledger_in_use]" in told

    asyncio.run(beside())
    assert serve(house) == ["ann"]

"""The table of commands, the error boundary, and what `--help` costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from leasehold import cli
from leasehold.cli import COMMANDS, Entry, main, output
from leasehold.core.units import Instant
from leasehold.errors import LeaseholdError, NotPermitted

FOLDER = Path(cli.__file__).parent
PRESENT = [
    name
    for name, entry in COMMANDS.items()
    if (FOLDER / (entry.target.partition(":")[0].rpartition(".")[2] + ".py")).exists()
]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes the command `ask` raise."""

    def install(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(output, "raising", command, raising=False)
        monkeypatch.setitem(COMMANDS, "ask", Entry("leasehold.cli.output:raising", "", "consumer"))  # type: ignore[arg-type]

    return install


@pytest.mark.parametrize("name", PRESENT)
def test_every_command_loads_and_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Usage: ")


def test_help_lists_every_command_and_imports_none() -> None:
    program = (
        "import sys; from leasehold.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'httpx2', 'openai', 'dcap_qvl', 'cryptography', 'rich', 'msgspec', 'starlette'};"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1] == "loaded: []"
    for name, entry in COMMANDS.items():
        assert name in shown
        assert entry.help.split(" ")[0] in shown


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.startswith("leasehold ")
    assert result.exit_code == 0


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["lend"])
    assert result.exit_code == 2
    assert "No such command" in result.stderr


def test_an_expected_error_is_one_paragraph(raising: Callable[[BaseException], None]) -> None:
    raising(NotPermitted(about="alice"))
    result = CliRunner().invoke(main, ["ask"])
    assert result.exit_code == 4
    assert result.stderr == (
        "error [not_permitted]: This operator or certificate may not do that. About: alice. "
        "Use a certificate whose role allows it.\n"
    )


def test_an_error_without_blame_still_exits_with_one(
    raising: Callable[[BaseException], None],
) -> None:
    raising(LeaseholdError())
    assert CliRunner().invoke(main, ["ask"]).exit_code == 1


def test_an_interrupt_exits_like_a_signal(raising: Callable[[BaseException], None]) -> None:
    raising(KeyboardInterrupt())
    assert CliRunner().invoke(main, ["ask"]).exit_code == 130


def test_a_bug_is_not_hidden(raising: Callable[[BaseException], None]) -> None:
    raising(ZeroDivisionError())
    assert isinstance(CliRunner().invoke(main, ["ask"]).exception, ZeroDivisionError)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "ask", Entry("no_such_package.ask:ask", "", "consumer"))  # type: ignore[arg-type]
    result = CliRunner().invoke(main, ["ask"])
    assert result.exit_code == 5
    assert result.stderr.startswith("error [missing_extra]: ")
    assert "no_such_package" in result.stderr
    assert "pip install 'leasehold[consumer]'" in result.stderr


def test_rows_in_a_pipe_are_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_rows("Loans", ["name", "cap"], [["one", 1_000_000], ["[red]two", b"\x01\xff"]])
    assert capsys.readouterr().out == "name\tcap\none\t1,000,000\n[red]two\t01ff\n"


def test_rows_at_a_terminal_show_data_as_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    output.write_rows("Loans", ["name", "cap"], [["[red]two", 7]])
    shown = capsys.readouterr().out
    assert "[red]two" in shown
    assert "Loans" in shown


def test_moments_are_written_in_utc() -> None:
    assert output.utc(Instant(1_794_000_000_123)) == "2026-11-06 21:20:00 UTC"

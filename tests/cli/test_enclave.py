"""`leasehold enclave check`: the layers, as they are."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from click.testing import CliRunner

from leasehold.cli import enclave, main
from leasehold.worker import sandbox

Says = subprocess.CompletedProcess[bytes]


def _answering(monkeypatch: pytest.MonkeyPatch, status: int = 0, **said: Any) -> None:
    """As if the machine had given these layers."""

    def run(words: list[str], **_how: object) -> Says:
        return subprocess.CompletedProcess(words, status, json.dumps(said).encode())

    monkeypatch.setattr(subprocess, "run", run)


def test_every_layer_has_words() -> None:
    assert tuple(enclave.MEANING) == sandbox.NAMES


def test_what_holds_here_is_what_the_sandbox_finds() -> None:
    ran = CliRunner().invoke(main, ["enclave", "check", "--json"])
    found = json.loads(ran.stdout)
    assert sorted(found["layers"] + found["absent"]) == sorted(sandbox.NAMES)
    assert "no-new-privileges" in found["layers"]
    assert ran.exit_code == (enclave.NOT_PROVEN if found["absent"] or found["swap"] else 0)


def test_an_absent_layer_is_named_and_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclave, "has_swap", lambda: False)
    *there, absent = sandbox.NAMES
    _answering(monkeypatch, layers=there, absent=[absent])
    ran = CliRunner().invoke(main, ["enclave", "check"])
    assert ran.exit_code == enclave.NOT_PROVEN
    (line,) = [line for line in ran.stdout.splitlines() if "ABSENT" in line]
    assert absent in line
    _answering(monkeypatch, layers=sandbox.NAMES, absent=[])
    assert CliRunner().invoke(main, ["enclave", "check"]).exit_code == 0


def test_swap_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclave, "has_swap", lambda: True)
    _answering(monkeypatch, layers=sandbox.NAMES, absent=[])
    ran = CliRunner().invoke(main, ["enclave", "check"])
    assert ran.exit_code == enclave.NOT_PROVEN
    assert "no swap" in ran.stdout


def test_an_engine_that_is_not_there_is_said() -> None:
    ran = CliRunner().invoke(main, ["enclave", "check", "--engine", "nonsense"])
    assert ran.exit_code == enclave.NOT_PROVEN
    assert "nonsense" in ran.stderr


def test_a_check_that_breaks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, status=1)
    ran = CliRunner().invoke(main, ["enclave", "check"])
    assert "engine_failed" in ran.stderr
    assert ran.exit_code not in (0, enclave.NOT_PROVEN)


def test_a_check_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclave, "CHECK_SECONDS_MAX", 0.01)
    ran = CliRunner().invoke(main, ["enclave", "check"])
    assert "no answer in 0.01 s" in ran.stderr
    assert ran.exit_code not in (0, enclave.NOT_PROVEN)

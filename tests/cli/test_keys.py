"""`leasehold keys`, and a custodian whose keys are wrapped: from the first key to a served challenge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.terminal import at_terminal
from leasehold.cli import main
from leasehold.custodian.wrapping.record import is_wrapped
from leasehold.custodian.wrapping.rewrap import key_files

PASSPHRASE = "canary of the passphrase"
LEASEHOLD = (sys.executable, "-c", "from leasehold.cli import main; main()")


def run(*words: object, code: int = 0) -> Any:
    """Run a command that must end with this status."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, (words, result.output, result.exception)
    return result


def private(path: Path, text: str) -> Path:
    """A file for one account."""
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A custodian's folder whose keys were wrapped from the first one on, with a sealed model."""
    secret = private(tmp_path / "secret", PASSPHRASE + "\n")
    keys = f'[keys]\nwrap = "passphrase"\npassphrase_file = "{secret}"\n'
    place = tmp_path / "custodian"
    run("custodian", "init", place, "--keys", private(tmp_path / "keys.toml", keys))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.gguf").write_bytes(b"weights")
    run("seal", tmp_path / "model", "--custodian", place, "--name", "tiny", "--engine", "llama")
    return place


def test_no_key_was_ever_written_in_clear(folder: Path) -> None:
    assert len(key_files(folder)) == 4
    assert all(is_wrapped(path.read_bytes()) for path in key_files(folder))
    lines = run("keys", "show", "--custodian", folder).stdout.splitlines()
    names = ("root.key", "audit.key", "ca.key", "models/tiny.key")
    assert lines == ["key\twrapped by", *(f"{name}\tpassphrase" for name in names)]


def test_commands_that_need_the_root_key_open_it(folder: Path) -> None:
    run("sealed", "verify", folder / "models" / "tiny.sealed", "--custodian", folder)
    words = ("--loan", "x", "--engine", "llama", "--attester", "simulated")
    run("custodian", "configure", "--custodian", folder, *words)
    run("operator", "add", "eve", "--role", "viewer", "--custodian", folder)


def test_commands_that_need_no_key_ask_for_no_secret(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").unlink()
    assert "admin" in run("operator", "list", "--custodian", folder).stdout
    run("sealed", "inspect", folder / "models" / "tiny.sealed")
    run("keys", "show", "--custodian", folder)
    done = run("sealed", "verify", folder / "models" / "tiny.sealed", "--custodian", folder, code=5)
    assert "file_trouble" in done.stderr


def test_a_wrong_passphrase_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    private(tmp_path / "secret", "another passphrase")
    done = run("operator", "add", "eve", "--role", "viewer", "--custodian", folder, code=5)
    assert done.stderr.startswith("error [key_locked]:")
    assert "a wrong passphrase" in done.stderr
    assert "another passphrase" not in done.output
    served = subprocess.run(
        [*LEASEHOLD, "custodian", "serve", folder], capture_output=True, text=True, timeout=60
    )
    assert served.returncode == 5
    assert "key_locked" in served.stderr
    assert "Traceback" not in served.stderr


def test_without_a_terminal_nobody_is_asked(folder: Path) -> None:
    toml = folder / "custodian.toml"
    text = "\n".join(
        line for line in toml.read_text().splitlines() if "passphrase_file" not in line
    )
    toml.write_text(text)
    done = run("operator", "add", "eve", "--role", "viewer", "--custodian", folder, code=2)
    assert "no terminal to ask on" in done.stderr


def test_at_a_terminal_the_passphrase_is_asked_for_and_not_shown(folder: Path) -> None:
    toml = folder / "custodian.toml"
    text = "\n".join(
        line for line in toml.read_text().splitlines() if "passphrase_file" not in line
    )
    toml.write_text(text)
    words = ("sealed", "verify", folder / "models" / "tiny.sealed", "--custodian", folder)
    status, said = at_terminal(*words, answers={"passphrase of the custodian's keys: ": PASSPHRASE})
    assert status == 0, said
    assert PASSPHRASE not in said


def test_a_new_passphrase_is_asked_for_twice(folder: Path, tmp_path: Path) -> None:
    name = "new passphrase of the custodian's keys"
    words = ("keys", "rewrap", "--custodian", folder, "--new-passphrase")
    status, said = at_terminal(
        *words, answers={f"{name}: ": "a new passphrase", f"{name}, again: ": "an old passphrase"}
    )
    assert (status, "two different ones" in said) == (2, True), said
    answers = {f"{name}: ": "a new passphrase", f"{name}, again: ": "a new passphrase"}
    status, said = at_terminal(*words, answers=answers)
    assert status == 0, said
    private(tmp_path / "secret", "a new passphrase")
    run("sealed", "verify", folder / "models" / "tiny.sealed", "--custodian", folder)


def test_rewrap_changes_the_passphrase(folder: Path, tmp_path: Path) -> None:
    new = private(tmp_path / "new", "a new passphrase")
    done = run("keys", "rewrap", "--custodian", folder, "--new-passphrase-file", new)
    assert "models/tiny.key\tpassphrase\tpassphrase" in done.stdout
    verify = ("sealed", "verify", folder / "models" / "tiny.sealed", "--custodian", folder)
    assert "a wrong passphrase" in run(*verify, code=5).stderr
    private(tmp_path / "secret", "a new passphrase")
    run(*verify)


def test_rewrap_takes_keys_out_of_their_wraps_and_back(folder: Path) -> None:
    toml = folder / "custodian.toml"
    wrapped = toml.read_text()
    toml.write_text(wrapped.replace('wrap = "passphrase"', 'wrap = "none"'))
    done = run("keys", "rewrap", "--custodian", folder)
    assert "root.key\tpassphrase\tnone" in done.stdout
    assert not any(is_wrapped(path.read_bytes()) for path in key_files(folder))
    toml.write_text(wrapped)
    verify = ("sealed", "verify", folder / "models" / "tiny.sealed", "--custodian", folder)
    assert "a key in clear" in run(*verify, code=5).stderr
    run("keys", "rewrap", "--custodian", folder)
    run(*verify)


def test_a_new_passphrase_needs_a_passphrase(tmp_path: Path) -> None:
    run("custodian", "init", tmp_path / "c")
    new = private(tmp_path / "new", "a new passphrase")
    words = ("keys", "rewrap", "--custodian", tmp_path / "c", "--new-passphrase-file", new)
    assert "keys.wrap" in run(*words, code=2).stderr


@pytest.mark.parametrize(
    "text", ["", "[keys]\nwrap = 'rot13'\n", "[keys]\nsecret = 'x'\n", "[hands]\n", "\x00"]
)
def test_init_takes_no_other_table(tmp_path: Path, text: str) -> None:
    file = private(tmp_path / "keys.toml", text)
    done = run("custodian", "init", tmp_path / "c", "--keys", file, code=2)
    assert "bad_setting" in done.stderr
    assert not (tmp_path / "c").exists()

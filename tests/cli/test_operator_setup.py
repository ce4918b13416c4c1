"""From an empty folder to a signed manifest: the commands that need no running custodian, and `serve`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from leasehold.attest.manifest import parse_manifest
from leasehold.cli import main
from leasehold.core.crypto import sha256
from leasehold.core.units import Instant
from leasehold.custodian import settings
from leasehold.custodian.release import FolderKeys
from leasehold.custodian.sealed_file import verify_sealed
from leasehold.enclave.settings import parse_settings
from leasehold_simtee.cli import main as simtee


def run(*words: str, code: int = 0) -> str:
    """Run a command and give all it printed."""
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, (words, result.output, result.exception)
    return result.output


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A custodian's folder."""
    place = tmp_path / "custodian"
    run("custodian", "init", str(place), "--address", "127.0.0.1:8443", "--name", "localhost")
    return str(place)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A simulated machine's folder, with what `leasehold-simtee show` prints in `values.toml`."""
    place = tmp_path / "machine"
    assert CliRunner().invoke(simtee, ["init", str(place)]).exit_code == 0
    (place / "values.toml").write_text(CliRunner().invoke(simtee, ["show", str(place)]).stdout)
    return place


def configure(folder: str, *more: str) -> bytes:
    """A signed configuration as `> enclave.toml` would keep it."""
    words = ["custodian", "configure", "--custodian", folder, "--loan", "clinic"]
    words += ["--engine", "llama", "--attester", "simulated", *more]
    return CliRunner().invoke(main, words).stdout_bytes


def test_init_says_what_it_made_and_never_twice(tmp_path: Path, folder: str) -> None:
    root = settings.read_keys(Path(folder)).root
    assert "already_exists" in run("custodian", "init", folder, code=4)
    assert settings.read_keys(Path(folder)).root.public == root.public
    assert "bad_address" in run("custodian", "init", str(tmp_path / "x"), "--address", "y", code=2)


def test_the_enclave_reads_the_configuration_that_was_signed(folder: str) -> None:
    keys = settings.read_keys(Path(folder))
    found = parse_settings(configure(folder, "--dead-man", "30", "--threads", "2"))
    assert (found.loan, found.engine, found.attester) == ("clinic", "llama", "simulated")
    assert (found.custodian_root, found.custodian_ca) == (
        keys.root.public,
        keys.authority.certificate,
    )
    assert (found.custodian_name, found.dead_man, found.threads) == ("127.0.0.1", 30_000, 2)
    assert (
        parse_settings(configure(folder, "--tls-name", "localhost")).custodian_name == "localhost"
    )


def test_what_no_enclave_would_read_is_not_signed(folder: str) -> None:
    words = ("custodian", "configure", "--custodian", folder, "--loan", "clinic")
    words += ("--engine", "llama", "--attester", "simulated", "--dead-man", "1")
    output = run(*words, code=2)
    assert "bad_setting" in output
    assert "leasehold-signature" not in output


def test_a_manifest_from_the_simulated_machine(tmp_path: Path, folder: str, machine: Path) -> None:
    file = tmp_path / "enclave.toml"
    file.write_bytes(configure(folder))
    out = tmp_path / "manifest.toml"
    output = run(
        *("manifest", "new", "--custodian", folder, "--name", "pilot", "--days", "7"),
        *("--configuration", str(file), "--values", str(machine / "values.toml")),
        *("--out", str(out)),
    )
    assert "SIMULATED" in output
    root = settings.read_keys(Path(folder)).root.public
    found = parse_manifest(
        out.read_bytes(), now=Instant(time.time_ns() // 1_000_000), custodian_root=root
    )
    assert found.configurations == (sha256(file.read_bytes()).hex(),)
    assert found.simulated is not None
    assert found.digest().hex() in run("manifest", "check", str(out), "--root", root.hex())
    assert "wrong_custodian" in run("manifest", "check", str(out), "--root", "00" * 32, code=3)
    explained = run("manifest", "explain", str(out))
    assert found.machines[0].platform_id in explained
    assert "SIMULATED root" in explained


def test_a_manifest_from_single_values(tmp_path: Path, folder: str, machine: Path) -> None:
    file = tmp_path / "enclave.toml"
    file.write_bytes(configure(folder))
    words = ["manifest", "new", "--custodian", folder, "--name", "pilot"]
    words += ["--configuration", str(file), "--machine", "ab" * 16 + "=rack 7"]
    assert "bad_manifest" in run(*words, code=2)
    words += ["--measurement", "11" * 32, "--signer", "22" * 32, "--svn", "3"]
    real = CliRunner().invoke(main, words)
    assert "SIMULATED" not in real.output
    now = Instant(time.time_ns() // 1_000_000)
    found = parse_manifest(real.stdout_bytes, now=now)
    assert found.machines[0].note == "rack 7"
    assert found.sgx is not None
    assert (found.sgx.mr_enclave, found.sgx.isv_svn_min) == (("11" * 32,), 3)
    words += ["--simulated-root", str(machine / "root.der")]
    simulated = CliRunner().invoke(main, words)
    assert "SIMULATED" in simulated.stderr
    assert parse_manifest(simulated.stdout_bytes, now=now).simulated is not None


def test_a_manifest_lists_only_configurations_of_this_custodian(
    tmp_path: Path, folder: str, machine: Path
) -> None:
    run("custodian", "init", str(tmp_path / "other"))
    file = tmp_path / "enclave.toml"
    file.write_bytes(configure(str(tmp_path / "other")))
    words = ("manifest", "new", "--custodian", folder, "--name", "x", "--configuration", str(file))
    assert "bad_signature" in run(*words, "--values", str(machine / "values.toml"), code=2)


def test_a_model_is_sealed_and_its_key_kept(tmp_path: Path, folder: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.gguf").write_bytes(os.urandom(3000))
    words = ("seal", str(model), "--custodian", folder, "--name", "tiny", "--engine", "llama")
    assert "digest" in run(*words)
    models = Path(folder) / "models"
    sealed = verify_sealed(
        models / "tiny.sealed",
        root_public=settings.read_keys(Path(folder)).root.public,
        model_key=FolderKeys(models).model_key("tiny"),
    )
    assert (sealed.header.name, sealed.header.engine) == ("tiny", "llama")
    assert (models / "tiny.key").stat().st_mode & 0o777 == 0o600
    assert "already_exists" in run(*words, code=4)
    assert "bad_sealed_model" in run(*words[:4], "--name", "../x", "--engine", "llama", code=2)


def test_collateral_is_imported_and_never_rolled_back(folder: str, machine: Path) -> None:
    old = (machine / "collateral.json").read_bytes()
    words = ("collateral", "import", str(machine / "collateral.json"), "--custodian", folder)
    assert "good until" in run(*words)
    assert CliRunner().invoke(simtee, ["renew", str(machine)]).exit_code == 0
    run(*words)
    (machine / "collateral.json").write_bytes(old)
    assert "collateral_rolled_back" in run(*words, code=3)
    (machine / "collateral.json").write_bytes(b"{}")
    assert "collateral_rejected" in run(*words, code=3)


def test_serve_until_sigterm(tmp_path: Path) -> None:
    place = tmp_path / "custodian"
    run("custodian", "init", str(place))
    toml = place / "custodian.toml"
    toml.write_text(toml.read_text().replace('listen = "127.0.0.1:8443"', 'listen = "127.0.0.1:0"'))
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from leasehold.cli import main; main()",
            "custodian",
            "serve",
            place,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("custodian at 127.0.0.1:"), process.stderr
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert '"event": "serving"' in errors
    assert '"event": "stopping"' in errors


# A browser's certificate (docs/spec/console.md, O-24) ------------------------------------------------


def secret_file(place: Path, text: str, *, mode: int = 0o600) -> str:
    """A file with a passphrase in it."""
    place.write_text(text)
    place.chmod(mode)
    return str(place)


def test_an_operators_certificate_becomes_a_file_for_a_browser(folder: str, tmp_path: Path) -> None:
    out, secret = tmp_path / "admin.p12", secret_file(tmp_path / "secret", "correct horse\n")
    words = ("operator", "browser", "admin", "--custodian", folder, "--out", str(out))
    said = run(*words, "--passphrase-file", secret)
    assert "https://127.0.0.1:8443/console/" in said
    assert out.stat().st_mode & 0o777 == 0o600
    key, certificate, others = pkcs12.load_key_and_certificates(out.read_bytes(), b"correct horse")
    mine = settings.read_credentials(Path(folder), "admin")
    assert certificate is not None
    assert certificate.public_bytes(Encoding.PEM).decode() == mine.certificate
    assert [one.public_bytes(Encoding.PEM).decode() for one in others] == [mine.ca]
    assert key is not None
    assert key.public_key() == certificate.public_key()
    with pytest.raises(ValueError, match="password"):
        pkcs12.load_key_and_certificates(out.read_bytes(), b"wrong horse")
    assert "already_exists" in run(*words, "--passphrase-file", secret, code=4)


def test_what_is_no_passphrase_for_a_browsers_file(folder: str, tmp_path: Path) -> None:
    out = tmp_path / "admin.p12"
    words = ("operator", "browser", "admin", "--custodian", folder, "--out", str(out))
    short = secret_file(tmp_path / "short", "1234567\nmore\n")
    said = run(*words, "--passphrase-file", short, code=2)
    assert "Got: 7 characters. Expected: >= 8." in said
    open_ = secret_file(tmp_path / "open", "correct horse", mode=0o644)
    assert "mode 644" in run(*words, "--passphrase-file", open_, code=2)
    assert "no terminal to ask on" in run(*words, code=2)
    assert "file_trouble" in run(
        *("operator", "browser", "nobody", "--custodian", folder, "--out", str(out)),
        *("--passphrase-file", short),
        code=5,
    )
    assert not out.exists()

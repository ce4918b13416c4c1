"""Simulated evidence in files, a custodian's folder beside it, and a way to run commands on them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from leasehold.cli import main
from leasehold.core.units import Instant
from leasehold_simtee.samples import VALUES, Sample, make_samples

PLATFORMS = ("sgx", "tdx", "snp", "tpm", "azure-snp", "nvidia", "ra-tls")


@dataclass(frozen=True)
class Files:
    """All samples, in folders; `enclave.toml` is a configuration that the custodian signed."""

    folder: Path
    samples: dict[str, Sample]

    def words(self, platform: str) -> list[str]:
        """What comes after `attest verify`, with the files' whole paths."""
        sample = self.samples[platform]
        return [
            str(self.folder / platform / word) if word in sample.files else word
            for word in sample.words
        ]

    def simulated(self, platform: str) -> list[str]:
        return ["--simulated-root", self.path(platform, VALUES)]

    def path(self, platform: str, name: str) -> str:
        return str(self.folder / platform / name)

    @property
    def custodian(self) -> str:
        return str(self.folder / "custodian")

    def manifest(self, out: Path, *more: str) -> str:
        """A signed manifest with these values."""
        words = ["manifest", "new", "--custodian", self.custodian, "--name", "pilot"]
        words += ["--configuration", str(self.folder / "enclave.toml"), "--out", str(out)]
        run(*words, *more)
        return str(out)


def invoke(*words: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(main, list(words))


def run(*words: str, code: int = 0) -> str:
    """Run a command that ends with this exit status; what it printed on standard output."""
    result = invoke(*words)
    assert result.exit_code == code, (words, result.output, result.exception)
    return result.stdout


def verify(*words: str, code: int = 0) -> dict[str, Any]:
    """`attest verify --json`: the record."""
    told: dict[str, Any] = json.loads(run("attest", "verify", *words, "--json", code=code))
    return told


def make_files(folder: Path) -> Files:
    """Samples made now: manifests made by commands are dated by this machine's clock."""
    samples = make_samples(os.urandom, Instant(time.time_ns() // 1_000_000))
    for platform, sample in samples.items():
        sample.save(folder / platform)
    files = Files(folder, samples)
    run("custodian", "init", files.custodian, "--address", "127.0.0.1:8443")
    words = ("custodian", "configure", "--custodian", files.custodian, "--loan", "clinic")
    words += ("--engine", "llama", "--attester", "simulated")
    run(*words, "--out", str(folder / "enclave.toml"))
    return files

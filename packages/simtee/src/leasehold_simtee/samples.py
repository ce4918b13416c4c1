"""SIMULATED evidence of every platform in files, with all that it takes to verify it: for trying things out.

The same entropy and time make the same samples. None of it keeps anything secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leasehold.attest.toml import write_toml
from leasehold.core.crypto import Entropy, TlsKey
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.errors import FileTrouble
from leasehold_simtee.amd_certificates import Product
from leasehold_simtee.certificates import der
from leasehold_simtee.hcl import SimulatedParavisor
from leasehold_simtee.hierarchy import Situation
from leasehold_simtee.machine import Machine
from leasehold_simtee.measure import measure
from leasehold_simtee.nvidia import HOPPER, NvidiaVendor
from leasehold_simtee.quote import Enclave
from leasehold_simtee.ratls import DICE, certificate, claims, dice
from leasehold_simtee.snp import Chip, Guest
from leasehold_simtee.tdx import SimulatedTdxAttester, TrustDomain
from leasehold_simtee.tpm import SimulatedTpm, SimulatedTpmAttester, rsa_key

PRODUCT: Final[Product] = "Milan"
VALUES: Final = "values.toml"


@dataclass(frozen=True, slots=True)
class Sample:
    """One platform's files by name, and the words after `leasehold attest verify` that verify them."""

    files: Mapping[str, bytes]
    words: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Write the files. Raises FileTrouble."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in self.files.items():
                (folder / name).write_bytes(data)
        except OSError as cause:
            raise FileTrouble(about=folder) from cause


def _values(machine: str, simulated: Mapping[str, str], **tables: Mapping[str, object]) -> bytes:
    listed = [{"platform_id": machine, "note": "SIMULATED"}]
    return write_toml({"machines": listed, **tables, "simulated": simulated})


def make_samples(entropy: Entropy, now: Instant) -> dict[str, Sample]:
    """A sample of each platform, by the platform's name; `ra-tls` is a certificate around a quote."""
    machine = Machine.create(entropy, now)
    chip = Chip.create(entropy, now)
    tpm = SimulatedTpm(rsa_key())
    return {
        "sgx": _sgx(machine, entropy),
        "tdx": _tdx(machine, entropy, now),
        "snp": _snp(chip, entropy, now),
        "tpm": _tpm(tpm, entropy),
        "azure-snp": _azure(chip, tpm, entropy, now),
        "nvidia": _nvidia(entropy, now),
        "ra-tls": _ratls(machine, entropy),
    }


def _sgx(machine: Machine, entropy: Entropy) -> Sample:
    enclave = Enclave(measure())
    simulated = {"root_sha256": machine.root_sha256}
    files = {
        "quote.bin": machine.attester(enclave).attest(entropy(64)).quote,
        "collateral.json": machine.collateral,
        "root.der": machine.root,
        VALUES: _values(machine.platform_id, simulated, sgx=enclave.reference_values()),
    }
    return Sample(files, ("quote.bin", "--collateral", "collateral.json"))


def _tdx(machine: Machine, entropy: Entropy, now: Instant) -> Sample:
    domain = TrustDomain()
    simulated = {"root_sha256": machine.root_sha256}
    files = {
        "quote.bin": SimulatedTdxAttester(machine, entropy, domain).attest(entropy(64)).quote,
        "collateral.json": machine.vendor.collateral(now, Situation(tee="TDX")),
        "root.der": machine.root,
        VALUES: _values(machine.platform_id, simulated, tdx=domain.reference_values()),
    }
    return Sample(files, ("quote.bin", "--collateral", "collateral.json"))


def _snp(chip: Chip, entropy: Entropy, now: Instant) -> Sample:
    guest = Guest()
    evidence = chip.attester(guest).attest(entropy(64))
    simulated = {"amd_root_sha256": chip.amd.root_sha256}
    files = {
        "report.bin": evidence.quote,
        "certificates.bin": evidence.endorsements[0],
        "crl.der": chip.amd.crl(now),
        "root.der": der(chip.amd.ark),
        VALUES: _values(chip.machine_id, simulated, snp=guest.reference_values(PRODUCT)),
    }
    words = ("report.bin", "--endorsements", "certificates.bin", "--collateral", "crl.der")
    return Sample(files, words)


def _tpm(tpm: SimulatedTpm, entropy: Entropy) -> Sample:
    evidence = SimulatedTpmAttester(tpm).attest(entropy(64))
    signature, key, registers = evidence.endorsements
    simulated = {"tpm_key_sha256": tpm.platform_id}
    files = {
        "quote.bin": evidence.quote,
        "signature.bin": signature,
        "key.der": key,
        "pcrs.bin": registers,
        VALUES: _values(tpm.platform_id, simulated, tpm=tpm.reference_values()),
    }
    return Sample(files, ("quote.bin", "signature.bin", "key.der", "pcrs.bin"))


def _azure(chip: Chip, tpm: SimulatedTpm, entropy: Entropy, now: Instant) -> Sample:
    guest = Guest()

    def hardware(data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        made = chip.attester(guest).attest(data)
        return made.quote, made.endorsements

    evidence: Evidence = SimulatedParavisor("azure-snp", tpm, hardware).attest(entropy(64))
    quote, signature, registers, table = evidence.endorsements
    simulated = {"amd_root_sha256": chip.amd.root_sha256}
    tables = {"snp": guest.reference_values(PRODUCT), "tpm": tpm.reference_values()}
    files = {
        "hcl-report.bin": evidence.quote,
        "quote.bin": quote,
        "signature.bin": signature,
        "pcrs.bin": registers,
        "certificates.bin": table,
        "crl.der": chip.amd.crl(now),
        VALUES: _values(chip.machine_id, simulated, **tables),
    }
    words = ("hcl-report.bin", "quote.bin", "signature.bin", "pcrs.bin", "certificates.bin")
    return Sample(files, (*words, "--collateral", "crl.der"))


def _nvidia(entropy: Entropy, now: Instant) -> Sample:
    vendor = NvidiaVendor.create(entropy, now)
    device = vendor.device(HOPPER)
    evidence = device.evidence(entropy(32))
    endings = {"nvidia-rim": "xml", "nvidia-ocsp": "der"}
    documents = {
        f"{one.name[:48]}.{endings[one.kind]}": one.data for one in vendor.documents((device,), now)
    }
    model = device.model
    values = {
        "nvidia": {
            "models": [model.chip],
            "driver_versions": [model.driver],
            "vbios_versions": [model.firmware],
            "mode": "single-gpu",
        },
        "simulated": {
            "nvidia_root_sha256": vendor.root_sha256,
            "nvidia_rim_root_sha256": vendor.rim_root_sha256,
        },
    }
    files = {
        "report.bin": evidence.report,
        "chain.pem": evidence.chain,
        **documents,
        VALUES: write_toml(values),
    }
    options = tuple(word for name in documents for word in ("--collateral", name))
    return Sample(files, ("report.bin", "chain.pem", *options))


def _ratls(machine: Machine, entropy: Entropy) -> Sample:
    enclave = Enclave(measure())
    key = TlsKey.make(entropy).private
    attester = machine.attester(enclave)
    carried = dice(lambda data: attester.attest(data).quote, claims(key))
    simulated = {"root_sha256": machine.root_sha256}
    files = {
        "certificate.der": certificate(key, {DICE: carried}),
        "collateral.json": machine.collateral,
        VALUES: _values(machine.platform_id, simulated, sgx=enclave.reference_values()),
    }
    return Sample(files, ("certificate.der", "--collateral", "collateral.json"))

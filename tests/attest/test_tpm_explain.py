"""What a person reads about a TPM quote, its signature and Azure's report."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.attest.describe import Description
from leasehold.attest.tpm.explain import recognise
from leasehold.core.crypto import TlsKey, sha256
from leasehold.errors import BadEvidence, UnsupportedEvidence
from leasehold_simtee.hcl import SNP, TDX, report, runtime_data
from leasehold_simtee.tpm import SimulatedTpm, rsa_key, selection

from .bench import seeded

TPM = SimulatedTpm(rsa_key())
RUNTIME = runtime_data(rsa_key())


def told(description: Description | None) -> dict[str, str]:
    """Everything that is said, by field name."""
    assert description is not None
    return {field.name: field.value for section in description.sections for field in section.fields}


def meanings(description: Description | None) -> str:
    assert description is not None
    return "\n".join(
        f"{section.title} {field.meaning}"
        for section in description.sections
        for field in section.fields
    )


def test_a_quote_is_explained_field_by_field() -> None:
    description = recognise(TPM.attest(b"n" * 32))
    assert description is not None
    assert (description.what, description.platform) == ("TPM 2.0 quote", "tpm")
    fields = told(description)
    assert fields["extraData"] == (b"n" * 32).hex()
    assert fields["pcrDigest"] == sha256(TPM.values).hex()
    assert fields["firmwareVersion"] == f"{TPM.firmware:016x}"
    assert [name for name in fields if name.startswith("PCR ")] == [f"PCR {n}" for n in range(24)]
    assert "Secure Boot" in meanings(description)


def test_what_makes_a_quote_worthless_is_said() -> None:
    assert "EMPTY" in meanings(recognise(TPM.attest(b"")))
    weak = recognise(TPM.attest(b"n", selections=(selection((0,), bank=0x0004),)))
    assert "sha1 bank: refused" in meanings(weak)


@pytest.mark.parametrize(
    ("tpm", "name"),
    [(TPM, "RSASSA"), (SimulatedTpm(TlsKey.make(seeded("explain")).private), "ECDSA")],
)
def test_a_signature_is_explained(tpm: SimulatedTpm, name: str) -> None:
    description = recognise(tpm.sign(b"data"))
    assert description is not None
    assert description.what == "TPM 2.0 signature"
    assert name in meanings(description)
    assert told(description)["hash"] == "000b"


@pytest.mark.parametrize(
    ("kind", "platform", "at"), [(SNP, "azure-snp", 0x50), (TDX, "azure-tdx", 128)]
)
def test_an_hcl_report_is_explained(kind: int, platform: str, at: int) -> None:
    data = sha256(RUNTIME) + bytes(32)
    description = recognise(report((bytes(at) + data).ljust(1184, b"\0"), RUNTIME, kind=kind))
    assert description is not None
    assert description.platform == platform
    fields = told(description)
    assert fields["report data"] == data.hex()
    assert fields["SHA-256"] == sha256(RUNTIME).hex()
    assert fields["secure-boot"] == "true"
    assert "HCLAkPub" in fields
    assert "it fits" in meanings(description)
    other = recognise(report(bytes(1184), RUNTIME, kind=kind))
    assert "vouches for something else" in meanings(other)


def test_other_people_s_text_commands_no_terminal() -> None:
    evil = RUNTIME.replace(b"SIMULATED", b"\xc2\x9b31m\\u001b[2J").replace(b'"00', b'"\\u001b]0')
    description = recognise(report(bytes(1184), evil, kind=SNP))
    assert description is not None
    assert all(value.isprintable() for value in told(description).values())


def test_other_bytes_are_not_recognised() -> None:
    for data in (b"", b"\x30\x00", b"\x03\x00\x02\x00", bytes(1184), b"\x00\x14", b"HCL"):
        assert recognise(data) is None
    assert recognise(b"\x00\x14\x00\x0b".ljust(5000, b"\0")) is None


def test_what_starts_right_and_is_wrong_is_refused() -> None:
    for data in (TPM.attest(b"n")[:-1], b"HCLA", TPM.sign(b"")[:-1], b"\x00\x18\x00\x0b"):
        with pytest.raises(BadEvidence):
            recognise(data)
    with pytest.raises(UnsupportedEvidence):
        recognise(b"\x00\x14\x00\x04" + TPM.sign(b"")[4:])


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([b"", b"HCLA", TPM.attest(b"n")[:90], b"\x00\x18\x00\x0b\x00\x01"]),
    data=st.binary(max_size=200),
)
def test_any_bytes_are_explained_or_refused(start: bytes, data: bytes) -> None:
    for candidate in (start + data, report(bytes(1184), data, kind=SNP)):
        try:
            recognise(candidate)
        except BadEvidence:
            continue

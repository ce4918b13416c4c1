"""What a file is, by its content: every kind, every wrapping, and nothing but refusals for the rest."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.attest.collateral import DatedSet, Holdings, parse_collateral, sign_bundle
from leasehold.attest.ear import make_ear, sign_ear
from leasehold.attest.manifest import sign_manifest
from leasehold.attest.recognise import FILE_BYTES_MAX, LAYERS_MAX, ROWS, Kind, describe
from leasehold.core.encoding import to_json
from leasehold.core.evidence import DeviceEvidence, Evidence
from leasehold.core.units import Instant
from leasehold.errors import BadEvidence, LeaseholdError, UnsupportedEvidence
from leasehold_simtee.samples import Sample, make_samples

from .bench import NOW, Bench, seeded


@cache
def make_once() -> dict[str, Sample]:
    return make_samples(seeded("samples"), NOW)


@pytest.fixture
def samples() -> dict[str, Sample]:
    return make_once()


@pytest.mark.parametrize(
    ("platform", "file", "kind", "what"),
    [
        ("sgx", "quote.bin", Kind.EVIDENCE, "Intel SGX quote, version 3"),
        ("sgx", "collateral.json", Kind.INTEL_COLLATERAL, "Intel collateral"),
        ("sgx", "root.der", Kind.CERTIFICATE, "X.509 certificate"),
        ("tdx", "quote.bin", Kind.EVIDENCE, "Intel TDX quote, version 4"),
        ("snp", "report.bin", Kind.EVIDENCE, "AMD SEV-SNP attestation report, version 3"),
        ("snp", "certificates.bin", Kind.ENDORSEMENT, "AMD certificate table"),
        ("snp", "crl.der", Kind.REVOCATION_LIST, "Certificate revocation list"),
        ("tpm", "quote.bin", Kind.EVIDENCE, "TPM 2.0 quote"),
        ("tpm", "signature.bin", Kind.ENDORSEMENT, "TPM 2.0 signature"),
        ("tpm", "key.der", Kind.ENDORSEMENT, "Public key"),
        ("azure-snp", "hcl-report.bin", Kind.EVIDENCE, "Azure confidential VM report"),
        ("nvidia", "report.bin", Kind.DEVICE, "NVIDIA GPU attestation report"),
        ("nvidia", "chain.pem", Kind.CERTIFICATE, "Chain of 5 X.509 certificates"),
        ("nvidia", "*.xml", Kind.REFERENCE_MANIFEST, "NVIDIA reference integrity manifest"),
        ("nvidia", "*.der", Kind.OCSP_ANSWER, "OCSP answer about one certificate"),
        ("ra-tls", "certificate.der", Kind.CERTIFICATE_WITH_EVIDENCE, "RA-TLS certificate"),
    ],
)
def test_every_kind(
    samples: dict[str, Sample], platform: str, file: str, kind: Kind, what: str
) -> None:
    files = samples[platform].files
    name = next(name for name in files if name == file or name.endswith(file.lstrip("*")))
    found = describe(files[name])
    assert (found.kind, found.wrapping) == (kind, ())
    assert found.description.what.startswith(what)
    assert found.data == files[name]
    assert all(section.title for section in found.description.sections)
    if kind is Kind.EVIDENCE:
        assert found.description.platform == platform


def test_what_leasehold_itself_writes(bench: Bench) -> None:
    signed = sign_manifest(bench.key, bench.manifest)
    assert describe(signed).kind is Kind.MANIFEST
    unsigned = signed.rpartition(b"# leasehold-signature")[0]
    assert "NOT SIGNED" in describe(unsigned).description.sections[0].fields[0].meaning
    token = sign_ear(make_ear(bench.verify(), now=NOW, build="x", nonce=bytes(8)), bench.key)
    result = describe(token.encode())
    assert result.kind is Kind.RESULT
    shown = {one.name: one.value for one in result.description.sections[0].fields}
    assert shown["ear_status"] == "contraindicated"
    assert shown["eat_nonce"] == "AAAAAAAAAAA"
    bundle = sign_bundle(
        bench.key,
        Holdings((DatedSet(parse_collateral(bench.machine.collateral), Instant(NOW + 1000)),)),
        now=NOW,
    )
    assert describe(to_json(bundle)).kind is Kind.BUNDLE


def test_evidence_as_the_wire_has_it(bench: Bench) -> None:
    device = DeviceEvidence("nvidia-gpu", b"report", b"chain")
    whole = Evidence("sgx", bench.evidence.quote, (b"table",), (device,))
    found = describe(to_json(whole))
    assert (found.kind, found.description.platform) == (Kind.EVIDENCE, "sgx")
    record, *inside = found.description.sections
    assert [one.name for one in record.fields] == ["platform", "endorsement 1", "device 1"]
    assert "MRENCLAVE" in {one.name for section in inside for one in section.fields}


WRAPPINGS: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "hex": (lambda data: data.hex().encode(), ("hex",)),
    "0x": (lambda data: b"0x" + data.hex().upper().encode(), ("hex",)),
    "lines of hex": (lambda data: b"\n ".join((data.hex().encode(), b"")), ("hex",)),
    "base64": (base64.b64encode, ("base64",)),
    "base64 in lines": (base64.encodebytes, ("base64",)),
    "base64url": (lambda data: base64.urlsafe_b64encode(data).rstrip(b"="), ("base64",)),
    "PEM": (
        lambda data: (
            b"-----BEGIN SGX QUOTE-----\n" + base64.encodebytes(data) + b"-----END SGX QUOTE-----\n"
        ),
        ("PEM",),
    ),
    "twice": (lambda data: base64.b64encode(data.hex().encode()), ("base64", "hex")),
    "padded": (lambda data: data.ljust(8000, b"\0"), ()),
    "padded in hex": (lambda data: data.ljust(8000, b"\0").hex().encode(), ("hex",)),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_every_wrapping_comes_off(samples: dict[str, Sample], name: str) -> None:
    wrap, layers = WRAPPINGS[name]
    plain = samples["tdx"].files["quote.bin"]
    found = describe(wrap(plain))
    assert found.description == describe(plain).description
    assert found.wrapping == layers
    assert found.data.rstrip(b"\0") == plain.rstrip(b"\0")


def test_the_answer_of_nvidia_s_service(samples: dict[str, Sample]) -> None:
    files = samples["nvidia"].files
    rim = next(data for name, data in files.items() if name.endswith(".xml"))
    answer = json.dumps({"id": "x", "rim": base64.b64encode(rim).decode()}).encode()
    found = describe(answer)
    assert (found.kind, found.data) == (Kind.REFERENCE_MANIFEST, rim)


def test_space_around_text_and_zeros_after_a_tpm_s_quote(samples: dict[str, Sample]) -> None:
    collateral = samples["sgx"].files["collateral.json"]
    assert describe(b"\r\n\t " + collateral + b"\n").kind is Kind.INTEL_COLLATERAL
    attest = samples["tpm"].files["quote.bin"]
    assert describe(attest).description.platform == "tpm"


def test_the_layers_are_bounded(samples: dict[str, Sample]) -> None:
    data = samples["tpm"].files["quote.bin"]
    for _ in range(LAYERS_MAX):
        data = base64.b64encode(data)
    assert len(describe(data).wrapping) == LAYERS_MAX
    with pytest.raises(UnsupportedEvidence):
        describe(base64.b64encode(data))


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0" * 4096, b"hello", b"{}", b"[" * 100_000, b"-----BEGIN X-----\n" * 100_000],
)
def test_what_is_nothing_is_told_what_was_tried(data: bytes) -> None:
    with pytest.raises(UnsupportedEvidence) as caught:
        describe(data)
    for row in ROWS:
        assert row.name in str(caught.value.expected)


def test_what_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(UnsupportedEvidence) as caught:
        describe(bytes(FILE_BYTES_MAX + 1))
    assert str(FILE_BYTES_MAX) in str(caught.value)


@pytest.mark.parametrize("wrap", [bytes, base64.b64encode, lambda data: data.hex().encode()])
def test_a_known_thing_that_is_broken_is_told_so(
    samples: dict[str, Sample], wrap: Callable[[bytes], bytes]
) -> None:
    cut = samples["sgx"].files["quote.bin"][:600]
    with pytest.raises(BadEvidence) as caught:
        describe(wrap(cut))
    assert type(caught.value) is BadEvidence
    assert "quote" in str(caught.value)


@given(st.binary(max_size=300))
def test_bytes_are_recognised_or_refused(data: bytes) -> None:
    with suppress(LeaseholdError):
        assert describe(data).description.what


@given(st.data())
def test_changed_files_are_recognised_or_refused(data: st.DataObject) -> None:
    """Whatever happens to a file, describing it never fails otherwise."""
    files = [
        content
        for sample in make_once().values()
        for name, content in sample.files.items()
        if name != "values.toml"
    ]
    original = bytearray(data.draw(st.sampled_from(files)))
    at = data.draw(st.integers(0, len(original) - 1))
    original[at] ^= 1 << data.draw(st.integers(0, 7))
    del original[data.draw(st.integers(at, len(original))) :]
    with suppress(LeaseholdError):
        describe(bytes(original))

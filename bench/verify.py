"""Verifying each platform's evidence, beside the signature checks alone that it cannot do without.

The checks alone are the same signatures over the same bytes, with keys and messages ready: what is
above them is reading, comparing and deciding.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from tests.attest.bench import make_bench
from tests.attest.nvidia_bench import protected_pcie
from tests.attest.snp_bench import make_snp_bench
from tests.attest.tdx_bench import make_tdx_bench
from tests.attest.test_tpm import evidence_of, judged, with_tpm
from tests.attest.test_tpm_azure import make_azure

from bench.harness import Row, interleaved, pairwise_ratio
from leasehold.attest import signatures
from leasehold.attest.certificate import read_certificate
from leasehold.attest.intel.pcs import Facts
from leasehold.attest.intel.quote import parse_quote, parse_td_quote, tee_type_of
from leasehold.attest.nvidia import ocsp as nvidia_ocsp
from leasehold.attest.nvidia.chain import check_path
from leasehold.attest.nvidia.rim import read_rim
from leasehold.attest.signatures import Scheme, ecdsa_der
from leasehold.custodian.verifying import Verifying

WAIT_MS_MAX: Final = 10.0
BAR: Final = 1.3
RUNS: Final = 300
AT_ONCE: Final = 100
HASHES: Final = {
    "SHA-256": hashes.SHA256(),
    "SHA-384": hashes.SHA384(),
    "SHA-512": hashes.SHA512(),
}

Check = Callable[[], object]


# The signatures ----------------------------------------------------------------------------------


def prepare(spki: bytes, scheme: Scheme, data: bytes, signature: bytes) -> Check:
    """One signature check with its key loaded; raises InvalidSignature when called, if it is bad."""
    key = serialization.load_der_public_key(spki)
    kind, name = scheme.value
    digest = HASHES[name]
    if isinstance(key, ec.EllipticCurvePublicKey):
        return partial(key.verify, signature, data, ec.ECDSA(digest))
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError(type(key))
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return partial(
        key.verify, signature, data, pss if kind == "PSS" else padding.PKCS1v15(), digest
    )


def own_checks(run: Callable[[], object]) -> list[Check]:
    """The checks that the verifier's own code makes while `run` runs."""
    made: list[Check] = []
    real = signatures.is_signed

    def noting(spki: bytes, scheme: Scheme, data: bytes, signature: bytes) -> bool:
        made.append(prepare(spki, scheme, data, signature))
        return real(spki, scheme, data, signature)

    with replaced(real, noting):
        run()
    return made


@contextmanager
def replaced(real: Callable[..., bool], instead: Callable[..., bool]) -> Iterator[None]:
    """`is_signed` replaced in every module of the verifier that uses it."""
    users = [
        module
        for path, module in list(sys.modules.items())
        if path.startswith("leasehold.attest") and getattr(module, real.__name__, None) is real
    ]
    for module in users:
        setattr(module, real.__name__, instead)
    try:
        yield
    finally:
        for module in users:
            setattr(module, real.__name__, real)


def dcap_checks(quote: bytes, facts: Facts) -> list[Check]:
    """The checks that dcap-qvl makes: quote, QE report, TCB info, QE identity, three chains, two CRLs."""
    parsed = parse_td_quote(quote) if tee_type_of(quote) else parse_quote(quote)
    held = facts.collateral
    leaf, authority, root = x509.load_pem_x509_certificates(parsed.chain_pem)
    checks = [issued(leaf, authority), issued(authority, root)]
    for chain, text, signature in (
        (held.tcb_info_issuer_chain, held.tcb_info, held.tcb_info_signature),
        (held.qe_identity_issuer_chain, held.qe_identity, held.qe_identity_signature),
    ):
        signer, above = x509.load_pem_x509_certificates(chain.encode())
        checks += [
            issued(signer, above),
            raw(spki(signer), text.encode(), bytes.fromhex(signature)),
        ]
    for crl, issuer in ((held.root_ca_crl, root), (held.pck_crl, authority)):
        listed = x509.load_der_x509_crl(bytes.fromhex(crl))
        made = listed.tbs_certlist_bytes, listed.signature
        checks.append(prepare(spki(issuer), Scheme.ECDSA_SHA256, *made))
    return checks + quote_checks(parsed.data, spki(leaf))


def quote_checks(quote: bytes, pck: bytes) -> list[Check]:
    """The quote's two signatures: over header and report, and over the QE's report."""
    body = 432 if quote[0] == 3 else 632  # v3: SGX, v4: TDX
    at = body + 4
    key = ec.EllipticCurvePublicNumbers(
        int.from_bytes(quote[at + 64 : at + 96], "big"),
        int.from_bytes(quote[at + 96 : at + 128], "big"),
        ec.SECP256R1(),
    ).public_key()
    attestation_key = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    report = at + 128 if quote[0] == 3 else at + 128 + 6
    return [
        raw(attestation_key, quote[:body], quote[at : at + 64]),
        raw(pck, quote[report : report + 384], quote[report + 384 : report + 448]),
    ]


def spki(certificate: x509.Certificate) -> bytes:
    """Its key, as DER SubjectPublicKeyInfo."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def issued(certificate: x509.Certificate, by: x509.Certificate) -> Check:
    """The check of one certificate's signature."""
    made = certificate.tbs_certificate_bytes, certificate.signature
    return prepare(spki(by), Scheme.ECDSA_SHA256, *made)


def raw(key: bytes, data: bytes, signature: bytes) -> Check:
    """The check of an ECDSA signature that is two numbers of 32 bytes."""
    numbers = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    return prepare(key, Scheme.ECDSA_SHA256, data, ecdsa_der(*numbers))


# The measurements --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subject:
    """One platform's evidence: what verifies it, and the signature checks in it."""

    platform: str
    verify: Check
    checks: list[Check]
    bar: float | None = BAR


def ratio(subject: Subject) -> Row:
    """One platform's verification over its signature checks, pair by pair."""

    def alone() -> None:
        for check in subject.checks:
            check()

    ours, floor = interleaved(RUNS, subject.verify, alone)
    middle, spread = pairwise_ratio(ours, floor)
    count = len(subject.checks)
    beside = f"its {count} signature checks alone, {floor.median * 1e3:.2f} ms"
    what = f"{subject.platform}: over its signatures"
    return Row("verify", what, middle, "times", subject.bar, "<=", spread, beside)


def sgx() -> Subject:
    """An SGX quote."""
    bench = make_bench()
    evidence = bench.evidence
    facts = bench.collateral.find(fmspc=b"SIMULA".hex(), ca="processor", tee="sgx")
    return Subject("sgx", partial(bench.verify, evidence), dcap_checks(evidence.quote, facts))


def tdx() -> Subject:
    """A TDX quote, version 4."""
    bench = make_tdx_bench()
    evidence = bench.evidence
    facts = bench.collateral.find(fmspc=b"SIMULA".hex(), ca="processor", tee="tdx")
    return Subject("tdx", partial(bench.verify, evidence), dcap_checks(evidence.quote, facts))


def snp() -> Subject:
    """An SNP report with its certificate table."""
    bench = make_snp_bench()
    verify = partial(bench.verify, bench.evidence)
    return Subject("snp", verify, own_checks(verify))


def azure() -> Subject:
    """An SNP report behind Azure's paravisor and a vTPM."""
    machine = make_azure(make_bench())
    verify = partial(machine.verify, machine.evidence())
    return Subject("azure-snp", verify, own_checks(verify))


def tpm() -> Subject:
    """A TPM's quote: one RSA check of 18 microseconds, so the reading shows; told without a bar."""
    bench = with_tpm(make_bench())
    verify = partial(judged, bench, evidence_of(bench))
    return Subject("tpm", verify, own_checks(verify), bar=None)


def nvidia() -> Subject:
    """Two GPUs and two switches; the signatures are all that there are, and what depends on bytes alone
    (manifests, chains, OCSP answers) is checked once and remembered, as a running verifier does.
    """
    bench = protected_pcie()
    forget()
    return Subject("nvidia x4", bench.appraise, own_checks(bench.appraise))


def nvidia_at_first() -> Subject:
    """The same with nothing remembered: every manifest is parsed, canonicalised and checked anew."""
    bench = protected_pcie()

    def verify() -> None:
        forget()
        bench.appraise()

    return Subject("nvidia x4, at first", verify, own_checks(verify), bar=None)


def forget() -> None:
    """Empty what the verifier remembers."""
    for function in (check_path, read_rim, nvidia_ocsp._authentic, read_certificate):
        function.cache_clear()


def crowd() -> list[Row]:
    """A hundred verifications at once beside an event loop that wants to run every millisecond."""
    bench = make_bench()
    verify = partial(bench.verify, bench.evidence)

    async def longest(work: int) -> float:
        found, done = [0.0], asyncio.Event()

        async def heartbeat() -> None:
            while not done.is_set():
                started = time.perf_counter()
                await asyncio.sleep(0.001)
                found.append(time.perf_counter() - started - 0.001)

        beating = asyncio.create_task(heartbeat())
        await asyncio.sleep(0.05)
        verifying = Verifying()
        await asyncio.gather(*(verifying(verify) for _ in range(work)))
        verifying.close()
        await asyncio.sleep(0.05)
        done.set()
        await beating
        return max(found)

    idle = [asyncio.run(longest(0)) for _ in range(5)]
    busy = [asyncio.run(longest(AT_ONCE)) for _ in range(5)]
    beside = f"an idle loop, {statistics.median(idle) * 1e3:.2f} ms"
    value = statistics.median(busy) * 1e3
    spread = (min(busy) * 1e3, max(busy) * 1e3)
    what = f"{AT_ONCE} at once: longest wait of others"
    return [Row("verify", what, value, "ms", WAIT_MS_MAX, "<=", spread, beside)]


def measure() -> list[Row]:
    """All platforms, and a crowd."""
    subjects = (sgx(), tdx(), snp(), azure(), tpm(), nvidia(), nvidia_at_first())
    return [*map(ratio, subjects), *crowd()]

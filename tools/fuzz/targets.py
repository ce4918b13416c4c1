"""The parsers that meet other people's bytes, each with inputs to begin with."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
from tests.attest import nvidia_bench
from tests.attest.bench import NOW, make_bench
from tests.attest.snp_bench import make_snp_bench
from tests.attest.tdx_bench import make_tdx_bench

from leasehold.attest import cbor, certificate, der, ear, manifest, recognise, x509
from leasehold.attest.amd import endorsement
from leasehold.attest.amd import report as amd_report
from leasehold.attest.intel import pck, pcs, quote
from leasehold.attest.nvidia import chain as nvidia_chain
from leasehold.attest.nvidia import explain as nvidia_explain
from leasehold.attest.nvidia import ocsp, rim
from leasehold.attest.ratls import cmw
from leasehold.attest.ratls import explain as ratls_explain
from leasehold.attest.tpm import explain as tpm_explain
from leasehold.attest.tpm import hcl
from leasehold.core.encoding import from_json
from leasehold.core.evidence import Evidence
from leasehold.errors import BadEvidence, CollateralRejected
from leasehold_simtee import hcl as simulated_hcl
from leasehold_simtee import ratls as simulated_ratls
from leasehold_simtee import tpm as simulated_tpm
from tools.fuzz import sealed


class Target(NamedTuple):
    """A parser, and bytes that it reads."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


def _quote() -> bytes:
    return make_bench().evidence.quote


def _chain() -> list[certificate.DerCertificate]:
    pem = quote.parse_quote(_quote()).chain_pem
    return list(certificate.read_certificates(pem, count_max=3))


def _collateral() -> bytes:
    return make_bench().machine.collateral


def _read_set(data: bytes) -> object:
    return pcs.read_facts(pcs.parse_collateral(data))


def _td_quotes() -> list[bytes]:
    bench = make_tdx_bench()
    return [bench.evidence.quote, bench.says(version=5, body="1.5ex").evidence.quote]


def _read_endorsement(data: bytes) -> object:
    return endorsement.parse_endorsement(certificate.read_certificate(data))


def _read_chain_x509(data: bytes) -> object:
    """As every quote's chain is read: DER inside PEM, so that flips reach the certificate."""
    text = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(data)
    pem = text + b"-----END CERTIFICATE-----\n"
    return x509.read_chain(pem, count=1, about="chain", error=BadEvidence)


def _read_crl(data: bytes) -> object:
    return x509.read_crl(data, about="list", error=CollateralRejected)


def _crls() -> list[bytes]:
    held = make_bench().collateral.find(fmspc=b"SIMULA".hex(), ca="processor", tee="sgx").collateral
    return [bytes.fromhex(held.pck_crl), make_snp_bench().amd.crl(NOW)]


def _read_ear(data: bytes) -> object:
    return ear.unchecked_ear(data.decode("latin-1"))


def _ear() -> bytes:
    bench = make_bench()
    return ear.sign_ear(ear.make_ear(bench.verify(), now=NOW, build="0"), bench.key).encode()


def _rims() -> list[bytes]:
    return list(nvidia_bench.vendor().rims(nvidia_bench.HOPPER).values())


def _ocsp() -> bytes:
    documents = nvidia_bench.one_gpu().documents
    return next(one.data for one in documents if one.kind == "nvidia-ocsp")


def _read_chain(data: bytes) -> object:
    held = nvidia_bench.one_gpu()
    trusted = held.bench.manifest.simulated
    return nvidia_chain.read_device_chain(
        data, "nvidia-gpu", simulated=trusted, now=nvidia_bench.LATER
    )


def _read_ocsp(data: bytes) -> object:
    pair = [certificate.read_certificate(one.der) for one in nvidia_bench.vendor().rim_chain[:2]]
    ocsp.check_ocsp(data, pair[0], pair[1], now=nvidia_bench.LATER)
    return ocsp.ocsp_facts(data)


def _read_hcl(data: bytes) -> object:
    return hcl.attestation_key(hcl.parse_hcl(data).runtime)


def _hcl() -> bytes:
    runtime = simulated_hcl.runtime_data(simulated_tpm.rsa_key())
    return simulated_hcl.report(bytes(hcl.HARDWARE_BYTES), runtime, kind=hcl.SNP)


def _tpm() -> list[bytes]:
    tpm = simulated_tpm.SimulatedTpm(simulated_tpm.rsa_key())
    attest = tpm.attest(bytes(32))
    return [attest, tpm.sign(attest), _hcl()]


_CMW_RECORD: Final = simulated_ratls.cbor({"a": ["application/eat+cwt", b"value", 4]})


def _ratls() -> list[bytes]:
    key = simulated_tpm.rsa_key()
    extensions = {
        simulated_ratls.DICE: simulated_ratls.dice(lambda _: _quote(), simulated_ratls.claims(key)),
        simulated_ratls.GRAMINE: _quote(),
        simulated_ratls.CMW: bytes((0x04, len(_CMW_RECORD))) + _CMW_RECORD,
    }
    return [simulated_ratls.certificate(key, extensions)]


TARGETS: Final[Mapping[str, Target]] = {
    "der": Target(der.parse_der, lambda: [_chain()[0].der]),
    "certificate": Target(
        lambda data: certificate.read_certificates(data, count_max=4),
        lambda: [one.der for one in _chain()] + [quote.parse_quote(_quote()).chain_pem],
    ),
    "intel-quote": Target(quote.parse_quote, lambda: [_quote()]),
    "intel-pck": Target(
        pck.parse_pck,
        lambda: [
            one.extensions[bytes.fromhex("2a864886f84d010d01")]
            for one in _chain()
            if bytes.fromhex("2a864886f84d010d01") in one.extensions
        ],
    ),
    "intel-td-quote": Target(quote.parse_td_quote, _td_quotes),
    "amd-report": Target(amd_report.parse_report, lambda: [make_snp_bench().evidence.quote]),
    "amd-table": Target(endorsement.parse_table, lambda: [make_snp_bench().chip.table()]),
    "amd-endorsement": Target(_read_endorsement, lambda: [make_snp_bench().chip.certificate]),
    "x509-chain": Target(_read_chain_x509, lambda: [one.der for one in _chain()]),
    "crl": Target(_read_crl, _crls),
    "ear": Target(_read_ear, lambda: [_ear()]),
    "recognise": Target(
        recognise.describe,
        lambda: [_quote(), _collateral(), make_snp_bench().evidence.quote, *_rims()],
    ),
    "intel-collateral": Target(_read_set, lambda: [_collateral()]),
    "manifest": Target(manifest.read_policy, lambda: [manifest.render(make_bench().manifest)]),
    "hcl": Target(_read_hcl, lambda: [_hcl()]),
    "tpm": Target(tpm_explain.recognise, _tpm),
    "cbor": Target(cbor.parse_cbor, lambda: [_CMW_RECORD]),
    "cmw": Target(
        lambda data: cmw.read_cmw(der.parse_der(data)),
        lambda: [
            bytes((0x04, len(_CMW_RECORD))) + _CMW_RECORD,
            b'\x0c\x12{"a":["t","dg",4]}',
        ],
    ),
    "ratls": Target(ratls_explain.recognise, _ratls),
    "nvidia-report": Target(
        nvidia_explain.recognise,
        lambda: [nvidia_bench.one_gpu().evidence[0].report, *_rims()],
    ),
    "nvidia-chain": Target(_read_chain, lambda: [nvidia_bench.one_gpu().evidence[0].chain]),
    "nvidia-rim": Target(rim.read_rim, _rims),
    "nvidia-ocsp": Target(_read_ocsp, lambda: [_ocsp()]),
    "evidence": Target(
        lambda data: from_json(data, Evidence),
        lambda: [msgspec.json.encode(make_bench().evidence)],
    ),
    "sealed-header": Target(sealed.read_header, lambda: [sealed.header()]),
    "wrapped-key": Target(sealed.read_wrapped, sealed.wrapped_keys),
    "model-signature": Target(sealed.read_bundle, lambda: [sealed.bundle()]),
    "model-statement": Target(sealed.read_statement, sealed.statements),
}

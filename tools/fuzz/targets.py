"""The parsers that meet other people's bytes, each with inputs to begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
from tests.attest import nvidia_bench
from tests.attest.bench import make_bench

from leasehold.attest import cbor, certificate, der, manifest
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
from leasehold_simtee import hcl as simulated_hcl
from leasehold_simtee import ratls as simulated_ratls
from leasehold_simtee import tpm as simulated_tpm


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
}

"""The SIMULATED vendors' web services: PCS or PCCS, KDS, RIM and OCSP, as functions from request to reply.

Paths and headers are those of Intel PCS API v4, AMD 57230, NVIDIA's RIM service and RFC 6960. What they say
of machines can be changed while they run.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from cryptography.x509 import ocsp

from leasehold.core.units import Instant
from leasehold_simtee.amd_certificates import to_pem
from leasehold_simtee.certificates import der
from leasehold_simtee.hierarchy import GOOD, Situation
from leasehold_simtee.machine import Machine
from leasehold_simtee.nvidia import NvidiaVendor, SimulatedDevice
from leasehold_simtee.nvidia_certificates import Party
from leasehold_simtee.nvidia_ocsp import ocsp_response, responder
from leasehold_simtee.snp import Amd, Chip

_CA: Final = "/certification/v4"
_HOLD: Final = 6  # RFC 5280, 5.3.1: certificateHold


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


NOT_FOUND: Final = Reply(b"not found", 404)


@dataclass(slots=True)
class Vendors:
    """All simulated vendors of these machines, and what they say now.

    `asked` are the requests so far. `held` are the serial numbers that OCSP answers `revoked` for,
    `amd_revoked` those that AMD's list names.
    """

    clock: Callable[[], Instant]
    machine: Machine
    chips: tuple[Chip, ...] = ()
    nvidia: NvidiaVendor | None = None
    devices: tuple[SimulatedDevice, ...] = ()
    situation: Situation = GOOD
    held: frozenset[int] = frozenset()
    amd_revoked: tuple[int, ...] = ()
    amd_crl_number: int = 1
    asked: list[str] = field(default_factory=list)
    issued: Instant = field(init=False)

    def __post_init__(self) -> None:
        self.issued = self.clock()

    def say(self, **news: object) -> None:
        """Say something else of Intel's machines from now on, under numbers that have not been yet."""
        self.issued = self.clock()
        number = max(self.issued // 1000, self.situation.evaluation + 1)
        told = {"evaluation": number, "crl_number": number} | news
        self.situation = replace(self.situation, **told)  # type: ignore[arg-type]

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        """The reply to a request; `target` is its path with the query."""
        self.asked.append(f"{method} {target}")
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = parts.path
        if method == "POST":
            return self._situation(body) if path == "/situation" else self._ocsp(body)
        if _CA in path:
            tee, _, what = path.removeprefix("/").partition(f"{_CA}/")
            return self._intel(tee.rpartition("/")[2], what, query)
        if "/v1/rim/" in path:
            return self._rim(path.rpartition("/")[2])
        return self._amd(path, query)

    def _situation(self, body: bytes) -> Reply:
        """For demonstrations: `{"status": "OutOfDate", "advisories": ["INTEL-SA-1"]}`."""
        try:
            told = json.loads(body)
            self.say(
                status=str(told.get("status", self.situation.status)),
                advisories=tuple(map(str, told.get("advisories", ()))),
                revoked=tuple(map(int, told.get("revoked", ()))),
            )
        except (ValueError, TypeError, AttributeError) as problem:
            return Reply(str(problem).encode(), 400)
        return Reply(b"SIMULATED vendors say so from now on\n")

    def _intel(self, tee: str, what: str, query: Mapping[str, str]) -> Reply:
        told = replace(self.situation, tee=tee.upper())
        said = json.loads(self.machine.vendor.collateral(self.issued, told))
        if what == "tcb":
            if query.get("fmspc", "").lower() != told.fmspc.hex():
                return NOT_FOUND
            return _signed("tcbInfo", said, "tcb_info", "TCB-Info-Issuer-Chain")
        if what == "qe/identity":
            chain = "SGX-Enclave-Identity-Issuer-Chain"
            return _signed("enclaveIdentity", said, "qe_identity", chain)
        if what == "pckcrl":
            if query.get("ca") != self.machine.vendor.ca:
                return NOT_FOUND
            headers = {"SGX-PCK-CRL-Issuer-Chain": quote(said["pck_crl_issuer_chain"])}
            return Reply(bytes.fromhex(said["pck_crl"]), headers=headers)
        if what == "rootcacrl":
            return Reply(said["root_ca_crl"].encode())  # in hex, as a PCCS answers
        return NOT_FOUND

    def _amd(self, path: str, query: Mapping[str, str]) -> Reply:
        kind, _, rest = path.removeprefix("/").partition("/v1/")
        product, _, what = rest.partition("/")
        for chip in self.chips:
            amd = chip.amd
            if amd.product != product or kind not in ("vcek", "vlek"):
                continue
            if what == "cert_chain":
                middle = amd.ask if kind == "vcek" else amd.asvk
                return Reply(to_pem(der(middle)) + to_pem(der(amd.ark)))
            if what == "crl":
                number = self.amd_crl_number
                return Reply(amd.crl(self.clock(), revoked=self.amd_revoked, number=number))
            if kind == "vcek" and what == chip.machine_id and _fits(chip, amd, query):
                return Reply(chip.certificate)
        return NOT_FOUND

    def _rim(self, name: str) -> Reply:
        for device in self.devices:
            if self.nvidia is not None and name in device.model.rim_names:
                rim = base64.b64encode(self.nvidia.rims(device.model)[name]).decode()
                return Reply(json.dumps({"id": name, "rim": rim, "rim_format": "SWID"}).encode())
        return NOT_FOUND

    def _ocsp(self, body: bytes) -> Reply:
        if self.nvidia is None:
            return NOT_FOUND
        try:
            serial = ocsp.load_der_ocsp_request(body).serial_number
        except ValueError:
            return Reply(b"no OCSP request", 400)
        chains: list[tuple[Party, ...]] = [self.nvidia.rim_chain]
        chains += [device.chain for device in self.devices]
        for chain in chains:
            for one, issuer in pairwise(chain):
                if one.certificate.serial_number == serial:
                    now, vendor = self.clock(), self.nvidia
                    signer = responder(issuer, entropy=vendor.entropy, now=vendor.now)
                    status = "revoked" if serial in self.held else "good"
                    reason = _HOLD if serial in self.held else None
                    return Reply(
                        ocsp_response(one, issuer, signer, now=now, status=status, reason=reason)
                    )
        return NOT_FOUND


def _fits(chip: Chip, amd: Amd, query: Mapping[str, str]) -> bool:
    """Whether the level that is asked for is the chip's."""
    tcb = chip.tcb
    level = {
        "blSPL": tcb.bootloader,
        "teeSPL": tcb.tee,
        "snpSPL": tcb.snp,
        "ucodeSPL": tcb.microcode,
    }
    if amd.product == "Turin":
        level["fmcSPL"] = tcb.fmc
    return dict(query) == {name: str(value) for name, value in level.items()}


def _signed(name: str, said: Mapping[str, str], field_name: str, header: str) -> Reply:
    """Intel's form: the exact text that is signed, inside."""
    text, signature = said[field_name], said[f"{field_name}_signature"]
    chain = quote(said[f"{field_name}_issuer_chain"])
    return Reply(f'{{"{name}":{text},"signature":"{signature}"}}'.encode(), headers={header: chain})

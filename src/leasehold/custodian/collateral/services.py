"""What to ask which vendor's service, and how its answer is read: PCS or PCCS, KDS, RIM, OCSP.

Sources: Intel PCS API v4 and PCCS design guide; AMD 57230, chapter 4; NVIDIA RIM service; RFC 6960, A.
Believes nothing: what comes out of here is checked before it is kept.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from leasehold.attest.amd.kds import chain_path, crl_path, vcek_path
from leasehold.attest.certificate import read_certificate
from leasehold.attest.collateral import Kind
from leasehold.attest.intel.pcs import Collateral
from leasehold.attest.nvidia.ocsp import ocsp_request
from leasehold.attest.origin import Pair
from leasehold.core.encoding import unb64
from leasehold.custodian.collateral.intake import Family
from leasehold.custodian.collateral.vendors import Vendors
from leasehold.custodian.collateral.web import Answer, Web
from leasehold.errors import BadMessage, BadSetting, CollateralMissing, CollateralRejected

_CHAIN_HEADERS: Final = {
    "tcb": ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"),
    "qe": ("sgx-enclave-identity-issuer-chain",),
    "crl": ("sgx-pck-crl-issuer-chain",),
}
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)
# The body of Intel's answers is `{"NAME":TEXT,"signature":"HEX"}`, and TEXT is signed as it stands.
_SIGNED: Final = {
    name: re.compile(
        rb'\A\s*\{\s*"%s"\s*:\s*(\{.*\})\s*,\s*"signature"\s*:\s*"([0-9a-fA-F]{128})"\s*\}\s*\Z'
        % name.encode(),
        re.DOTALL,
    )
    for name in ("tcbInfo", "enclaveIdentity")
}
_RIM_ID: Final = re.compile(r"\A[A-Za-z0-9_.-]{1,200}\Z")
_HEX: Final = re.compile(rb"\A[0-9a-fA-F]+\Z")


class _Rim(msgspec.Struct, frozen=True):
    """What NVIDIA's RIM service answers; other fields are passed over."""

    rim: str


class Services:
    """The vendors' services of one `[collateral]` table."""

    __slots__ = ("_vendors", "_web")

    def __init__(self, vendors: Vendors, web: Web) -> None:
        self._vendors, self._web = vendors, web

    # Intel ---------------------------------------------------------------------------------------

    def intel(self, family: Family) -> tuple[Collateral, str]:
        """A set for a family, and the address it came from.

        Raises VendorUnreachable, CollateralRejected, BadSetting (no such address).
        """
        base, update = self._address("pcs"), f"update={self._vendors.update}"
        api = f"{base}/{family.tee}/certification/v4"
        tcb = self._web.get(f"{api}/tcb?fmspc={family.fmspc.upper()}&{update}")
        identity = self._web.get(f"{api}/qe/identity?{update}")
        crls = f"{base}/sgx/certification/v4"
        crl = self._web.get(f"{crls}/pckcrl?ca={family.ca}&encoding=der")
        root = self._web.get(self._vendors.root_crl or f"{crls}/rootcacrl")
        tcb_info, tcb_signature = _signed(tcb, "tcbInfo")
        qe_identity, qe_signature = _signed(identity, "enclaveIdentity")
        return Collateral(
            pck_crl_issuer_chain=_chain(crl, "crl"),
            root_ca_crl=_der(root).hex(),
            pck_crl=_der(crl).hex(),
            tcb_info_issuer_chain=_chain(tcb, "tcb"),
            tcb_info=tcb_info,
            tcb_info_signature=tcb_signature,
            qe_identity_issuer_chain=_chain(identity, "qe"),
            qe_identity=qe_identity,
            qe_identity_signature=qe_signature,
        ), tcb.url

    # Others --------------------------------------------------------------------------------------

    def document(self, kind: Kind, name: str, pair: Pair | None) -> tuple[bytes, str]:
        """A document, and the address it came from.

        Raises VendorUnreachable, CollateralRejected, CollateralMissing (nobody knows whom to ask about
        a certificate), BadSetting (no such address).
        """
        match kind:
            case "amd-chain":
                answer = self._web.get(self._address("kds") + chain_path(name))
            case "amd-crl":
                answer = self._web.get(self._address("kds") + crl_path(name))
            case "amd-vcek":
                answer = self._web.get(self._address("kds") + vcek_path(name))
            case "nvidia-rim":
                return self._rim(name)
            case "nvidia-ocsp":
                if pair is None:
                    raise CollateralMissing(
                        about=f"{kind} {name}", expected="the certificate and its issuer's"
                    )
                one, issuer = (read_certificate(der) for der in pair)
                answer = self._web.post(
                    self._address("ocsp"), ocsp_request(one, issuer), "application/ocsp-request"
                )
        return answer.body, answer.url

    def _rim(self, name: str) -> tuple[bytes, str]:
        if not _RIM_ID.match(name):
            raise CollateralRejected(about="RIM id", got=name)
        answer = self._web.get(f"{self._address('rim')}/v1/rim/{quote(name, safe='')}")
        try:
            rim = msgspec.json.decode(answer.body, type=_Rim).rim
            return unb64("".join(rim.split()), about="rim"), answer.url
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadMessage) as cause:
            raise CollateralRejected(
                about=answer.url, got=str(cause), expected='{"rim": BASE64}'
            ) from cause

    def _address(self, name: str) -> str:
        address: str = getattr(self._vendors, name)
        if not address:
            raise BadSetting(
                about=f"collateral.{name}", got="no address", expected="one in custodian.toml"
            )
        return address.rstrip("/")


def _signed(answer: Answer, name: str) -> tuple[str, str]:
    """The exact text that is signed, and the signature (r ‖ s in lower-case hex)."""
    found = _SIGNED[name].match(answer.body)
    if found is None:
        raise CollateralRejected(
            about=answer.url, got=answer.body[:40], expected=f'{{"{name}":...,"signature":"HEX"}}'
        )
    try:
        return found[1].decode(), found[2].decode().lower()
    except UnicodeDecodeError as cause:
        raise CollateralRejected(about=answer.url, got="no UTF-8") from cause


def _chain(answer: Answer, which: str) -> str:
    """The issuer chain in an answer's headers: PEM, URL-encoded."""
    names = _CHAIN_HEADERS[which]
    for name in names:
        if name in answer.headers:
            found = _CERTIFICATE.findall(unquote(answer.headers[name]))
            return "".join(f"{one}\n" for one in found)
    raise CollateralRejected(about=answer.url, got="no issuer chain", expected=f"header {names[0]}")


def _der(answer: Answer) -> bytes:
    """A CRL: DER, or DER in hex as a PCCS answers."""
    body = answer.body
    if body[:1] != b"\x30" and _HEX.match(body.strip()) and len(body.strip()) % 2 == 0:
        return bytes.fromhex(body.strip().decode())
    return body

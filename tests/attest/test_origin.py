"""What may raise a high-water mark (K-4): what a vendor signed, and nothing that only looks like it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from leasehold.attest.collateral import Document, Kind
from leasehold.attest.intel.pcs import Collateral, parse_collateral, read_facts
from leasehold.attest.nvidia.rim import read_rim
from leasehold.attest.origin import NUMBER_END, Origin, document_origin, set_origin
from leasehold.attest.reference import Simulated
from leasehold.core.crypto import sha256
from leasehold.core.units import DAY, Instant
from leasehold.errors import (
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    LeaseholdError,
    UntrustedRoot,
    WrongSignerRole,
)
from leasehold_simtee.certificates import pem, sign_raw
from leasehold_simtee.hierarchy import Situation, Vendor
from leasehold_simtee.machine import Machine
from leasehold_simtee.nvidia import HOPPER, NvidiaVendor
from leasehold_simtee.nvidia_ocsp import ocsp_response, responder
from leasehold_simtee.snp import Amd, Chip

from .bench import NOW, seeded

LATER = Instant(NOW + DAY)


# Intel -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine.create(seeded("origin"), NOW)


def told(machine: Machine, **said: object) -> Collateral:
    return parse_collateral(machine.vendor.collateral(NOW, Situation(**said)))  # type: ignore[arg-type]


def origin(machine: Machine, collateral: Collateral, now: Instant = NOW) -> Origin:
    simulated = Simulated(root_sha256=machine.root_sha256)
    return set_origin(read_facts(collateral), simulated=simulated, now=now)


@pytest.mark.parametrize("tee", ["SGX", "TDX"])
@pytest.mark.parametrize("ca", ["processor", "platform"])
def test_a_set_has_an_origin(tee: str, ca: str) -> None:
    entropy = seeded(f"origin {ca}")
    vendor = Vendor.create(entropy, NOW, ca=ca)  # type: ignore[arg-type]
    machine = Machine.create(entropy, NOW, vendor=vendor)
    found = origin(machine, told(machine, tee=tee, evaluation=7, crl_number=3))
    assert found.simulated
    assert found.numbers == {
        "evaluation": 7,
        "qe_evaluation": 7,
        "tcb_issued": NOW,
        "qe_issued": NOW,
        "root_crl": 3,
        "pck_crl": 3,
    }
    assert (found.issued, found.ends) == (NOW, NOW + 30 * DAY)


def test_without_its_root_named_a_simulated_set_has_none(machine: Machine) -> None:
    for simulated in (None, Simulated(root_sha256="00" * 32)):
        with pytest.raises(UntrustedRoot):
            set_origin(read_facts(told(machine)), simulated=simulated, now=NOW)


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("tcb_info", '"tcbEvaluationDataNumber":20', '"tcbEvaluationDataNumber":99'),
        ("qe_identity", '"tcbEvaluationDataNumber":20', '"tcbEvaluationDataNumber":99'),
        ("tcb_info", "UpToDate", "OutOfDate"),
    ],
)
def test_a_higher_number_that_nobody_signed_is_refused(
    machine: Machine, field: str, old: str, new: str
) -> None:
    said = told(machine)
    text = getattr(said, field)
    changed = text.replace(old, new) if old in text else text.replace(old.replace(":", ": "), new)
    assert changed != text
    with pytest.raises(CollateralRejected, match="bad signature"):
        origin(machine, msgspec.structs.replace(said, **{field: changed}))


def test_every_part_of_another_vendor_is_refused(machine: Machine) -> None:
    """Somebody on the wire can make a hierarchy of his own, with the same names and any numbers."""
    thief = Machine.create(seeded("thief"), NOW)
    mine, his = told(machine), told(thief, evaluation=999, crl_number=999)
    for field in mine.__struct_fields__:
        changed = msgspec.structs.replace(mine, **{field: getattr(his, field)})
        with pytest.raises((CollateralRejected, UntrustedRoot)):
            origin(machine, changed)
    with pytest.raises(UntrustedRoot):
        origin(machine, his)


def test_whoever_has_a_pck_key_signs_no_patch_levels(machine: Machine) -> None:
    said = told(machine, status="OutOfDate")
    text = said.tcb_info.replace("OutOfDate", "UpToDate")
    changed = msgspec.structs.replace(
        said,
        tcb_info=text,
        tcb_info_signature=sign_raw(machine.pck_key, text.encode()).hex(),
        tcb_info_issuer_chain=pem(machine.pck, machine.vendor.root),
    )
    with pytest.raises(WrongSignerRole):
        origin(machine, changed)


def test_bad_news_of_an_authority_come_in(machine: Machine) -> None:
    for one in (machine.vendor.tcb, machine.vendor.authority):
        assert origin(machine, told(machine, revoked_authorities=(one.serial_number,)))


def test_a_set_that_ended_or_has_not_begun_is_refused(machine: Machine) -> None:
    with pytest.raises(CollateralNotCurrent):
        origin(machine, told(machine), now=Instant(NOW + 30 * DAY))
    with pytest.raises((CollateralNotCurrent, CollateralRejected)):
        origin(machine, told(machine), now=Instant(NOW - 1000))


def test_a_number_beyond_all_numbers_is_refused(machine: Machine) -> None:
    with pytest.raises(CollateralRejected):
        origin(machine, told(machine, crl_number=NUMBER_END))


# Others ------------------------------------------------------------------------------------------


@dataclass
class Others:
    """AMD and NVIDIA, simulated, and a device of each."""

    chip: Chip
    vendor: NvidiaVendor
    documents: dict[tuple[str, str], bytes]
    pairs: dict[str, tuple[bytes, bytes]]

    @property
    def simulated(self) -> Simulated:
        return Simulated(
            amd_root_sha256=self.chip.amd.root_sha256,
            nvidia_rim_root_sha256=self.vendor.rim_root_sha256,
        )

    def document(self, kind: Kind, name: str, data: bytes | None = None) -> Document:
        return Document(kind, name, data or self.documents[kind, name], LATER)

    def origin(
        self, document: Document, *, chain: Document | None = None, now: Instant = NOW
    ) -> Origin:
        if document.kind in ("amd-crl", "amd-vcek") and chain is None:
            chain = self.document("amd-chain", "vcek-Milan")
        return document_origin(
            document,
            chain=chain,
            pair=self.pairs.get(document.name),
            simulated=self.simulated,
            now=now,
        )


@pytest.fixture(scope="module")
def others() -> Others:
    entropy = seeded("others")
    chip = Chip.create(entropy, NOW)
    vendor = NvidiaVendor.create(entropy, NOW)
    device = vendor.device(HOPPER)
    kept = (*chip.amd.documents(NOW), *vendor.documents((device,), NOW))
    documents: dict[tuple[str, str], bytes] = {(one.kind, one.name): one.data for one in kept}
    documents["amd-vcek", vcek_of(chip)] = chip.certificate
    pairs = {}
    for (kind, _), data in documents.items():
        if kind == "nvidia-rim":
            for one, issuer in read_rim(data).revocable:
                pairs[one.sha256] = (one.der, issuer.der)
    return Others(chip, vendor, documents, pairs)


def vcek_of(chip: Chip) -> str:
    tcb = chip.tcb
    level = bytes((tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode, tcb.fmc)).hex()
    return f"Milan-{chip.chip_id.hex()}-{level}"


def test_every_kind_has_an_origin(others: Others) -> None:
    seen = set()
    for kind, name in others.documents:
        if kind == "nvidia-ocsp" and name not in others.pairs:
            continue  # the device's own, whose chain is not here
        document = others.document(kind, name)  # type: ignore[arg-type]
        chain = others.document("amd-chain", "vlek-Milan") if name == "vlek-Milan" else None
        found = others.origin(document, chain=chain)
        assert found.simulated
        assert found.issued <= NOW < found.ends
        seen.add(kind)
    assert seen == {"amd-chain", "amd-crl", "amd-vcek", "nvidia-rim", "nvidia-ocsp"}


def test_each_needs_what_it_hangs_on(others: Others) -> None:
    for kind, name in (("amd-crl", "vcek-Milan"), ("amd-vcek", vcek_of(others.chip))):
        document = others.document(kind, name)  # type: ignore[arg-type]
        with pytest.raises(CollateralMissing):
            document_origin(document, simulated=others.simulated, now=NOW)
    name = next(iter(others.pairs))
    with pytest.raises(CollateralMissing):
        document_origin(others.document("nvidia-ocsp", name), simulated=others.simulated, now=NOW)


def test_roots_that_nobody_named_are_refused(others: Others) -> None:
    for kind, name in others.documents:
        if kind in ("amd-chain", "nvidia-rim"):
            with pytest.raises(UntrustedRoot):
                document_origin(others.document(kind, name), simulated=None, now=NOW)  # type: ignore[arg-type]


def wrong(others: Others) -> dict[str, tuple[Document, type[LeaseholdError]]]:
    """Genuine documents where they do not belong, and what nobody genuine signed."""
    genoa = Amd.create(seeded("genoa"), NOW, "Genoa")
    chip = Chip.create(seeded("another"), NOW, amd=others.chip.amd)
    rims = [name for kind, name in others.documents if kind == "nvidia-rim"]
    name = next(iter(others.pairs))
    other = next(one for one in others.pairs if one != name)
    return {
        "the chain of VLEKs for VCEKs": (
            others.document("amd-chain", "vcek-Milan", others.documents["amd-chain", "vlek-Milan"]),
            CollateralMismatch,
        ),
        "another product's name": (
            others.document("amd-chain", "vcek-Genoa", others.documents["amd-chain", "vcek-Milan"]),
            CollateralMismatch,
        ),
        "a list of another product": (
            others.document("amd-crl", "vcek-Milan", genoa.crl(NOW, number=99)),
            CollateralRejected,
        ),
        "another chip's key": (
            others.document("amd-vcek", vcek_of(others.chip), chip.certificate),
            CollateralMismatch,
        ),
        "a manifest of another version": (
            others.document("nvidia-rim", rims[0], others.documents["nvidia-rim", rims[1]]),
            CollateralMismatch,
        ),
        "an answer about another certificate": (
            others.document("nvidia-ocsp", name, others.documents["nvidia-ocsp", other]),
            CollateralMismatch,
        ),
        "no list": (others.document("amd-crl", "vcek-Milan", b"0\x00"), CollateralRejected),
        "no chain": (others.document("amd-chain", "vcek-Milan", b"x"), CollateralRejected),
    }


def test_what_does_not_belong_is_refused(others: Others) -> None:
    for about, (document, error) in wrong(others).items():
        with pytest.raises(error) as refused:
            others.origin(document)
        assert refused.value, about


def test_bits_of_signed_documents_cannot_be_changed(others: Others) -> None:
    for (kind, name), data in others.documents.items():
        if kind in ("amd-crl", "nvidia-ocsp") and (kind == "amd-crl" or name in others.pairs):
            for at in range(0, len(data), 97):
                changed = bytearray(data)
                changed[at] ^= 1
                document = others.document(kind, name, bytes(changed))  # type: ignore[arg-type]
                with pytest.raises(LeaseholdError) as refused:
                    others.origin(document)
                assert isinstance(refused.value, CollateralRejected | CollateralMissing)


def answered(others: Others, status: str) -> Document:
    """What OCSP says of the one who signed the manifests."""
    one, issuer = others.vendor.rim_chain[:2]
    signer = responder(issuer, entropy=seeded(status), now=NOW)
    data = ocsp_response(one, issuer, signer, now=NOW, status=status)
    return others.document("nvidia-ocsp", sha256(one.der).hex(), data)


def test_bad_news_is_kept_and_no_news_is_not(others: Others) -> None:
    assert others.origin(answered(others, "revoked")).numbers["order"] == NOW
    with pytest.raises(CollateralMissing):
        others.origin(answered(others, "unknown"))


@pytest.mark.parametrize("kind", ["amd-crl", "nvidia-ocsp"])
def test_what_ended_is_refused(others: Others, kind: Kind) -> None:
    name = "vcek-Milan" if kind == "amd-crl" else next(iter(others.pairs))
    later = Instant(NOW + 31 * DAY)
    with pytest.raises(CollateralNotCurrent):
        others.origin(others.document(kind, name), now=later)

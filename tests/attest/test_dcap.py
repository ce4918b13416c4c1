"""Who may sign what, and two readings of one machine: what dcap-qvl alone would let pass."""

from __future__ import annotations

import base64
from dataclasses import replace

import dcap_qvl
import msgspec
import pytest

from leasehold.attest.collateral import HeldCollateral, parse_collateral
from leasehold.attest.intel import dcap
from leasehold.attest.intel.pck import parse_pck
from leasehold.attest.intel.pcs import read_facts
from leasehold.attest.intel.quote import parse_quote
from leasehold.attest.intel.roots import SIMULATED_ROLES, Anchor
from leasehold.attest.verdict import Trust
from leasehold.attest.x509 import read_chain
from leasehold.core.crypto import TlsKey
from leasehold.core.units import SECOND
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CollateralMismatch,
    CollateralRejected,
    EvidenceRejected,
    LeaseholdError,
    UntrustedRoot,
    WrongSignerRole,
)
from leasehold_simtee.certificates import der, issue, make_crl, pem, sign_raw
from leasehold_simtee.hierarchy import Situation
from leasehold_simtee.machine import Machine, pck_extension

from .bench import NOW, Bench, make_bench, seeded


def told(bench: Bench, **fields: str) -> Bench:
    """The bench with some fields of its collateral replaced."""
    honest = msgspec.json.decode(bench.machine.collateral)
    changed = parse_collateral(msgspec.json.encode({**honest, **fields}))
    return replace(bench, collateral=HeldCollateral([changed]))


def refused(bench: Bench, error: type[LeaseholdError], *, about: str) -> None:
    with pytest.raises(LeaseholdError) as caught:
        bench.verify()
    assert type(caught.value) is error, caught.value
    assert about in str(caught.value)


# Signer roles (V-8) ------------------------------------------------------------------------------


def forged(bench: Bench, chain: str) -> dict[str, str]:
    """TCB info that calls the machine up to date, signed with the machine's own PCK key."""
    machine = bench.machine
    info = msgspec.json.decode(machine.vendor.collateral(NOW, Situation()))["tcb_info"]
    return {
        "tcb_info": info,
        "tcb_info_signature": sign_raw(machine.pck_key, info.encode()).hex(),
        "tcb_info_issuer_chain": chain,
    }


def test_a_pck_key_cannot_sign_its_own_machine_up_to_date(bench: Bench) -> None:
    """The whole chain of the machine in place of the TCB signer's: dcap-qvl alone accepts it."""
    machine = bench.machine
    vendor = machine.vendor
    fields = forged(bench, pem(machine.pck, vendor.authority, vendor.root))
    outdated = msgspec.json.decode(vendor.collateral(NOW, Situation(status="OutOfDate")))
    seconds = NOW // SECOND
    accepted = dcap_qvl.QuoteVerifier(machine.root).verify_with_policy(
        bench.evidence.quote,
        dcap_qvl.QuoteCollateralV3.from_json(msgspec.json.encode({**outdated, **fields}).decode()),
        seconds,
        dcap_qvl.QuotePolicy.strict(seconds),
    )
    assert msgspec.json.decode(accepted.to_json())["tcb"]["status"] == "UpToDate"
    with pytest.raises(CollateralRejected, match="TCB info issuer chain"):
        told(bench, **fields)


def test_a_pck_certificate_in_a_short_chain_is_the_wrong_signer(bench: Bench) -> None:
    fields = forged(bench, pem(bench.machine.pck, bench.machine.vendor.root))
    refused(told(bench, **fields), WrongSignerRole, about="TCB info")


def test_an_authority_may_not_sign_tcb_info(bench: Bench) -> None:
    fields = forged(bench, pem(bench.machine.vendor.authority, bench.machine.vendor.root))
    refused(told(bench, **fields), WrongSignerRole, about="TCB info")


def test_the_qe_identity_has_the_same_rule(bench: Bench) -> None:
    chain = pem(bench.machine.pck, bench.machine.vendor.root)
    refused(told(bench, qe_identity_issuer_chain=chain), WrongSignerRole, about="QE identity")


def test_a_right_name_below_the_pck_authority_is_the_wrong_signer(bench: Bench) -> None:
    """Whoever gets a certificate of that name from another issuer still may not sign."""
    vendor = bench.machine.vendor
    signer = issue(
        bench.machine.pck_key,
        SIMULATED_ROLES.tcb_signing,
        issuer_key=vendor.authority_key,
        issuer=SIMULATED_ROLES.processor_ca,
        entropy=seeded("signer"),
        now=NOW,
    )
    fields = forged(bench, pem(signer, vendor.root))
    refused(told(bench, **fields), WrongSignerRole, about="TCB info")


def test_an_sgx_extension_marks_a_machine_not_a_signer(bench: Bench) -> None:
    vendor = bench.machine.vendor
    signer = issue(
        vendor.tcb_key,
        SIMULATED_ROLES.tcb_signing,
        issuer_key=vendor.root_key,
        issuer=SIMULATED_ROLES.root,
        entropy=seeded("signer"),
        now=NOW,
        sgx_extension=pck_extension(ppid=bytes(16), instance=None),
    )
    chain = pem(signer, vendor.root)
    refused(told(bench, tcb_info_issuer_chain=chain), WrongSignerRole, about="TCB info")


@pytest.mark.parametrize("field", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_a_signer_under_another_root_is_refused(bench: Bench, field: str) -> None:
    other = make_bench("another vendor").machine.vendor
    refused(told(bench, **{field: pem(other.tcb, other.root)}), UntrustedRoot, about="Expected")


def test_the_pck_crl_issuer_is_the_machines_authority(bench: Bench) -> None:
    vendor = bench.machine.vendor
    chain = pem(vendor.tcb, vendor.root)
    refused(told(bench, pck_crl_issuer_chain=chain), CollateralMismatch, about="PCK authority")


def test_swapped_crls_are_refused(bench: Bench) -> None:
    fields = msgspec.json.decode(bench.machine.collateral)
    swapped = told(bench, root_ca_crl=fields["pck_crl"])
    refused(swapped, CollateralMismatch, about="root CRL issuer")


def test_a_crl_under_another_key_is_refused(bench: Bench) -> None:
    crl = make_crl(
        TlsKey.make(seeded("crl")).private,
        SIMULATED_ROLES.processor_ca,
        number=9,
        revoked=(),
        now=NOW,
        until=bench.verify().valid_until,
    )
    refused(told(bench, pck_crl=crl.hex()), CertificateRejected, about="certificate chain")


def test_a_signature_over_other_text_is_refused(bench: Bench) -> None:
    fields = msgspec.json.decode(bench.machine.collateral)
    info = fields["tcb_info"].replace('"UpToDate"', '"OutOfDate"')
    refused(told(bench, tcb_info=info), CollateralRejected, about="tcb_info")
    identity = fields["qe_identity"].replace('"isvprodid":1', '"isvprodid":2')
    refused(told(bench, qe_identity=identity), CollateralRejected, about="qe_identity")


@pytest.mark.parametrize(
    "fields",
    [
        {"tcb_info": "{}"},
        {"tcb_info": "no json"},
        {"qe_identity": "{}"},
        {"root_ca_crl": ""},
        {"pck_crl": "zz"},
        {"pck_crl": "00"},
        {"tcb_info_signature": ""},
        {"qe_identity_signature": "00" * 63},
        {"tcb_info_issuer_chain": ""},
        {
            "qe_identity_issuer_chain": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        },
        {"pck_crl_issuer_chain": ""},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_unreadable_collateral_is_refused_before_it_is_used(
    bench: Bench, fields: dict[str, str]
) -> None:
    with pytest.raises(CollateralRejected):
        told(bench, **fields)


# The machine's chain (V-6) -----------------------------------------------------------------------


def rechained(bench: Bench, **names: str) -> Bench:
    """A machine whose certificates carry other names, everything signed as it should be."""
    machine, vendor = bench.machine, bench.machine.vendor
    leaf = issue(
        machine.pck_key,
        names.get("leaf", SIMULATED_ROLES.pck),
        issuer_key=vendor.authority_key,
        issuer=names.get("issuer", SIMULATED_ROLES.processor_ca),
        entropy=seeded("leaf"),
        now=NOW,
        path_length=0 if "authority" in names else None,
        sgx_extension=pck_extension(ppid=machine.ppid, instance=None),
    )
    quoting = type(machine.quoting).certify(
        machine.quoting.key,
        pck_key=machine.pck_key,
        auth=bytes(32),
        user_data=machine.quoting.user_data,
        chain_pem=pem(leaf, vendor.authority, vendor.root),
    )
    return replace(bench, machine=replace(machine, pck=leaf, quoting=quoting))


def test_the_helper_makes_chains_that_pass(bench: Bench) -> None:
    assert rechained(bench).verify().machine == bench.machine.platform_id


@pytest.mark.parametrize(
    ("names", "about"),
    [
        ({"leaf": "Intel SGX PCK Certificate"}, "PCK certificate"),
        ({"leaf": SIMULATED_ROLES.tcb_signing}, "PCK certificate"),
        ({"issuer": SIMULATED_ROLES.platform_ca}, "issuer"),
        ({"authority": "yes"}, "authority"),
    ],
)
def test_a_leaf_of_another_role_is_no_machine(
    bench: Bench, names: dict[str, str], about: str
) -> None:
    refused(rechained(bench, **names), CertificateRejected, about=about)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_negative_serial_number_is_refused_like_any_other_damage(bench: Bench) -> None:
    """A flipped sign bit once reached the CRL look-up, which cannot take negative numbers."""
    evidence = bench.evidence
    der_certificate = der(bench.machine.pck)
    at = der_certificate.index(b"\x02\x10") + 2
    negative = (
        der_certificate[:at] + bytes([der_certificate[at] | 0x80]) + der_certificate[at + 1 :]
    )
    body = base64.b64encode(negative)
    lines = b"\n".join(body[n : n + 64] for n in range(0, len(body), 64))
    damaged = b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----\n"
    quote = evidence.quote.replace(pem(bench.machine.pck).encode(), damaged)
    assert quote != evidence.quote
    with pytest.raises(BadEvidence, match="serial number"):
        bench.verify(msgspec.structs.replace(evidence, quote=quote))


def test_the_tcb_signer_is_no_pck_authority(bench: Bench) -> None:
    chain = read_chain(
        pem(bench.machine.pck, bench.machine.vendor.authority, bench.machine.vendor.root).encode(),
        count=3,
        about="chain",
        error=BadEvidence,
    )
    anchor = Anchor(Trust.SIMULATION, chain[2].der, chain[2].spki_sha256, SIMULATED_ROLES)
    assert dcap.check_pck_chain(chain, anchor, now=NOW) == "processor"
    renamed = replace(chain[1], name=SIMULATED_ROLES.tcb_signing)
    leaf = replace(chain[0], issuer=SIMULATED_ROLES.tcb_signing)
    with pytest.raises(CertificateRejected, match="PCK authority"):
        dcap.check_pck_chain((leaf, renamed, chain[2]), anchor, now=NOW)


# Two readings (V-10) -----------------------------------------------------------------------------


def test_two_readings_of_one_machine_must_agree(bench: Bench) -> None:
    quote = parse_quote(bench.evidence.quote)
    chain = read_chain(quote.chain_pem, count=3, about="chain", error=BadEvidence)
    pck = parse_pck(chain[0].sgx_extension)
    anchor = Anchor(Trust.SIMULATION, chain[2].der, chain[2].spki_sha256, SIMULATED_ROLES)
    facts = read_facts(parse_collateral(bench.machine.collateral))
    claims = dcap.authenticate(quote.data, facts, anchor, chain=chain, now=NOW)
    dcap.check_agreement(claims, pck)
    for field, value in (
        ("ppid", bytes(16)),
        ("fmspc", bytes(6)),
        ("pce_id", b"\x01\x00"),
        ("cpu_svn", bytes(16)),
        ("pce_svn", 1),
        ("platform_instance_id", bytes(16)),
    ):
        with pytest.raises(EvidenceRejected, match="two readings"):
            dcap.check_agreement(claims, replace(pck, **{field: value}))  # type: ignore[arg-type]


def test_another_machine_of_the_same_vendor_passes_where_it_is_listed(bench: Bench) -> None:
    twin = Machine.create(seeded("twin"), NOW, vendor=bench.machine.vendor)
    listed = (*bench.manifest.machines, type(bench.manifest.machines[0])(twin.platform_id, "twin"))
    both = replace(bench, machine=twin).policy(machines=listed)
    assert both.verify().machine == twin.platform_id

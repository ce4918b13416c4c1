"""C-1 to C-8: what passes, and why everything else does not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from consumer.world import (
    DIGEST,
    MODEL,
    OTHER_MEASUREMENT,
    Direct,
    FakeEnclave,
    World,
    lie,
    moment,
)
from leasehold.attest.reference import Simulated
from leasehold.consumer.verify import (
    TRUST_TIME,
    Expectations,
    VerifiedEnclave,
    verify_enclave,
    verify_enclave_async,
)
from leasehold.core.binding import Purpose
from leasehold.core.crypto import SigningKey, TlsKey
from leasehold.core.merkle import leaf_hash
from leasehold.core.units import DAY, MINUTE, after
from leasehold.errors import (
    BadEvidence,
    BadMessage,
    BadSignature,
    CollateralNotCurrent,
    LeaseholdError,
    ManifestExpired,
    TcbNotCurrent,
    UnknownMachine,
    Unproven,
    UntrustedRoot,
    WrongBinding,
    WrongConfiguration,
    WrongCustodian,
    WrongMeasurement,
)
from leasehold.net.certificates import enclave_certificate
from leasehold.net.shown import to_der
from leasehold_simtee.hierarchy import Situation


def verify(
    world: World, transport: Direct, expected: Expectations | None = None
) -> VerifiedEnclave:
    """What an honest consumer does."""
    return verify_enclave(
        expected or world.expectations(),
        transport,
        address="enclave.example:8443",
        clock=world.clock,
        entropy=world.entropy,
    )


def refused(
    world: World, enclave: FakeEnclave, error: type[LeaseholdError], **manifest: Any
) -> LeaseholdError:
    """The refusal that this enclave meets."""
    with pytest.raises(error) as caught:
        verify(world, Direct(enclave), world.expectations(**manifest))
    assert type(caught.value) is error
    return caught.value


def test_an_honest_enclave_passes(world: World) -> None:
    enclave = world.enclave()
    found = verify(world, Direct(enclave))
    assert found.certificate == enclave.certificate
    assert found.instance == enclave.instance
    assert found.statement_key == enclave.statement.public
    assert found.custodian == world.custodian.public
    assert (found.loan, found.model, found.model_digest) == ("loan-1", MODEL, DIGEST)
    assert found.address == "enclave.example:8443"
    assert found.is_simulated
    assert found.verdict.machine == world.machine.platform_id
    assert found.expires == after(found.verified_at, TRUST_TIME)


async def test_it_passes_when_awaited_too(world: World) -> None:
    direct = Direct(world.enclave())

    class Awaited:
        async def fetch(self, nonce: bytes) -> tuple[bytes, bytes]:
            return direct.fetch(nonce)

    found = await verify_enclave_async(
        world.expectations(),
        Awaited(),
        address="enclave.example:8443",
        clock=world.clock,
        entropy=world.entropy,
    )
    assert found.certificate == direct.enclave.certificate
    assert found.is_simulated


@pytest.mark.parametrize("neighbours", [1, 2, 6, 255])
def test_a_nonce_in_a_crowd_passes(world: World, neighbours: int) -> None:
    assert verify(world, Direct(world.enclave(neighbours=neighbours))).is_simulated


def test_every_verification_has_its_own_nonce(world: World) -> None:
    transport = Direct(world.enclave())
    verify(world, transport)
    verify(world, transport)
    first, second = transport.nonces
    assert len(first) == len(second) == 32
    assert first != second


def test_no_verdict_outlives_its_evidence(world: World) -> None:
    soon = after(world.clock.now(), 3 * MINUTE)
    expected = world.expectations(not_after=moment(soon))
    assert verify(world, Direct(world.enclave()), expected).expires == soon


# C-1: the manifest, before anything is sent ----------------------------------------------------------


def test_a_manifest_that_was_changed_is_refused_before_anything_is_sent(world: World) -> None:
    transport = Direct(world.enclave())
    changed = world.manifest().replace(b"loan-1", b"loan-2")
    with pytest.raises(BadSignature):
        verify(world, transport, Expectations(changed))
    assert transport.nonces == []


def test_an_expired_manifest_is_refused_before_anything_is_sent(world: World) -> None:
    transport = Direct(world.enclave())
    expected = world.expectations()
    world.clock.turn(31 * DAY)
    with pytest.raises(ManifestExpired):
        verify(world, transport, expected)
    assert transport.nonces == []


def test_a_manifest_of_another_custodian_is_refused_before_anything_is_sent(world: World) -> None:
    transport = Direct(world.enclave())
    known = SigningKey.make(world.entropy).public
    with pytest.raises(WrongCustodian):
        verify(world, transport, Expectations(world.manifest(), custodian=known))
    assert transport.nonces == []


def test_a_known_custodian_passes(world: World) -> None:
    expected = Expectations(world.manifest(), custodian=world.custodian.public)
    assert verify(world, Direct(world.enclave()), expected).custodian == world.custodian.public


# C-3, C-4: the answer and its nonce -----------------------------------------------------------------


def test_an_answer_of_another_form_is_refused(world: World) -> None:
    class Garbage(Direct):
        def fetch(self, nonce: bytes) -> tuple[bytes, bytes]:
            _, certificate = super().fetch(nonce)
            return b'{"evidence": 1}', certificate

    with pytest.raises(BadMessage):
        verify(world, Garbage(world.enclave()))


def test_a_digest_that_is_none_is_refused(world: World) -> None:
    refused(world, world.enclave(alter=lie(model_digest="beef")), BadMessage)


@pytest.mark.parametrize("size", [0, -1, 65_537])
def test_a_window_of_impossible_size_is_refused(world: World, size: int) -> None:
    assert refused(world, world.enclave(alter=lie(nonces=size)), BadEvidence).about == "nonces"


def test_an_answer_to_another_nonce_is_refused(world: World) -> None:
    enclave = world.enclave()
    old = enclave.evidence(b"n" * 32)
    enclave.alter = lambda _: old
    assert refused(world, enclave, Unproven).about == "inclusion proof"


def test_old_evidence_under_a_new_root_is_refused(world: World) -> None:
    """The replayer makes the tree lead to the new root, but the quote was signed over the old one."""
    enclave = world.enclave()
    old = enclave.evidence(b"n" * 32)
    enclave.alter = lambda new: msgspec.structs.replace(new, evidence=old.evidence)
    refused(world, enclave, WrongBinding)


def test_a_proof_that_is_too_long_is_refused(world: World) -> None:
    enclave = world.enclave(neighbours=3)
    enclave.alter = lambda new: msgspec.structs.replace(new, proof=(*new.proof, leaf_hash(b"")))
    assert refused(world, enclave, Unproven).about == "inclusion proof"


# C-5: collateral ------------------------------------------------------------------------------------


def test_stale_collateral_is_refused(world: World) -> None:
    old = world.collateral()
    world.clock.turn(DAY)
    refused(world, world.enclave(collateral=old), CollateralNotCurrent)


def test_collateral_that_the_borrower_signed_is_refused(world: World) -> None:
    borrower = SigningKey.make(world.entropy)
    refused(world, world.enclave(collateral=world.collateral(key=borrower)), BadSignature)


def test_another_statement_of_the_custodian_is_no_collateral(world: World) -> None:
    other = msgspec.structs.replace(world.collateral(), kind="leasehold-stop-order")
    refused(world, world.enclave(collateral=other), BadSignature)


# C-6: evidence --------------------------------------------------------------------------------------


def test_another_measurement_is_refused(world: World) -> None:
    refused(world, world.enclave(measurement=OTHER_MEASUREMENT), WrongMeasurement)


def test_a_machine_that_is_not_listed_is_refused(world: World) -> None:
    twin = type(world.machine).create(world.entropy, world.clock.now(), vendor=world.machine.vendor)
    refused(world, world.enclave(machine=twin), UnknownMachine)


def test_a_machine_with_a_bad_patch_level_is_refused() -> None:
    world = World(situation=Situation(status="OutOfDate", advisories=("INTEL-SA-1",)))
    refused(world, world.enclave(), TcbNotCurrent)


def test_simulation_is_refused_where_the_manifest_does_not_name_it(world: World) -> None:
    refused(world, world.enclave(), UntrustedRoot, simulated=None)


def test_simulation_under_another_root_is_refused(world: World) -> None:
    other = Simulated(world.new_machine().root_sha256)
    refused(world, world.enclave(), UntrustedRoot, simulated=other)


def test_relayed_evidence_is_refused(world: World) -> None:
    """A borrower ends TLS himself and passes on the evidence of a genuine enclave behind him."""
    his = enclave_certificate(TlsKey.make(world.entropy), entropy=world.entropy)
    with pytest.raises(WrongBinding):
        verify(world, Direct(world.enclave(), der=to_der(his)))


def test_evidence_made_for_the_custodian_is_refused(world: World) -> None:
    refused(world, world.enclave(purpose=Purpose.CUSTODIAN), WrongBinding)


def test_an_enclave_of_another_custodian_is_refused(world: World) -> None:
    other = SigningKey.make(world.entropy).public
    refused(world, world.enclave(bound_root=other), WrongBinding)


def test_a_statement_key_that_is_not_the_enclaves_is_refused(world: World) -> None:
    other = SigningKey.make(world.entropy).public
    refused(world, world.enclave(alter=lie(statement_key=other)), WrongBinding)


def test_a_configuration_that_is_not_listed_is_refused(world: World) -> None:
    refused(world, world.enclave(configuration=b"mine"), WrongConfiguration)


def test_a_configuration_that_was_not_measured_is_refused(world: World) -> None:
    enclave = world.enclave(configuration=b"mine", alter=lie(configuration=world.configuration))
    refused(world, enclave, WrongBinding)


# C-7, C-8 -------------------------------------------------------------------------------------------


def test_an_enclave_that_hides_its_simulation_is_refused(world: World) -> None:
    assert (
        refused(world, world.enclave(alter=lie(simulated=False)), BadEvidence).about == "simulated"
    )


def test_a_certificate_that_is_none_is_refused(world: World) -> None:
    with pytest.raises(BadMessage):
        verify(world, Direct(world.enclave(), der=b"not a certificate"))

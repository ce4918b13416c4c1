"""The SGX extension: who the machine is, or a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.attest.intel.pck import parse_pck
from leasehold.errors import BadEvidence
from leasehold_simtee import der as writer
from leasehold_simtee.machine import pck_extension

SIMPLE = pck_extension(ppid=b"p" * 16, instance=None, fmspc=b"family")
PLATFORM = pck_extension(ppid=b"p" * 16, instance=b"i" * 16, fmspc=b"family")


def test_all_fields_are_found() -> None:
    pck = parse_pck(PLATFORM)
    assert (pck.ppid, pck.fmspc, pck.pce_id) == (b"p" * 16, b"family", bytes(2))
    assert (pck.cpu_svn, pck.pce_svn, pck.sgx_type) == (bytes([2] * 16), 13, 1)
    assert pck.platform_instance_id == b"i" * 16
    assert (pck.dynamic_platform, pck.cached_keys, pck.smt_enabled) == (False, False, False)
    assert parse_pck(SIMPLE).platform_instance_id is None


def test_flags_are_read() -> None:
    values = {1: writer.boolean(True), 2: writer.boolean(True), 3: writer.boolean(True)}
    # The configuration is the last value: put another one in its place.
    honest = writer.intel_pairs({n: writer.boolean(False) for n in (1, 2, 3)}, below=(7,))
    pck = parse_pck(PLATFORM.replace(honest, writer.intel_pairs(values, below=(7,))))
    assert pck.dynamic_platform
    assert pck.cached_keys
    assert pck.smt_enabled


def test_a_certificate_without_the_extension_is_refused() -> None:
    with pytest.raises(BadEvidence):
        parse_pck(None)


@pytest.mark.parametrize("missing", [1, 2, 3, 4, 5])
def test_each_missing_value_is_refused(missing: int) -> None:
    values = {
        1: writer.octets(bytes(16)),
        2: writer.intel_pairs({17: writer.integer(1), 18: writer.octets(bytes(16))}, below=(2,)),
        3: writer.octets(bytes(2)),
        4: writer.octets(bytes(6)),
        5: writer.enumerated(0),
    }
    assert parse_pck(writer.intel_pairs(values)).pce_svn == 1
    del values[missing]
    with pytest.raises(BadEvidence):
        parse_pck(writer.intel_pairs(values))


def test_a_value_that_occurs_twice_is_refused() -> None:
    pair = writer.sequence(writer.oid(1, 2, 840, 113741, 1, 13, 1, 1), writer.octets(b"q" * 16))
    body = SIMPLE[3:] if SIMPLE[1] == 0x81 else SIMPLE[4:]
    with pytest.raises(BadEvidence, match="new OIDs"):
        parse_pck(writer.sequence(body, pair))


def test_foreign_oids_are_refused() -> None:
    pair = writer.sequence(writer.oid(1, 2, 840, 113741, 1, 13, 2), writer.octets(b""))
    with pytest.raises(BadEvidence, match="OIDs below"):
        parse_pck(writer.sequence(pair))


@given(st.integers(min_value=0, max_value=len(PLATFORM) * 8 - 1))
def test_a_flipped_bit_is_another_machine_or_a_refusal(bit: int) -> None:
    damaged = bytearray(PLATFORM)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        pck = parse_pck(bytes(damaged))
    except BadEvidence:
        return
    assert len(pck.ppid) == 16
    assert len(pck.fmspc) == 6

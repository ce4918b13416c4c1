"""The two kinds of reports inside Intel's quotes: an enclave's and a trust domain's.

Source: Intel SDM vol. 3D, REPORT; Intel TDX Module ABI, TDREPORT; Intel DCAP, sgx_quote_5.h. All
integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from leasehold.errors import BadEvidence

REPORT_BYTES: Final = 384
TD10_BYTES: Final = 584
TD15_BYTES: Final = 648
TD15EX_BYTES: Final = 885


@dataclass(frozen=True, slots=True)
class Report:
    """What the processor says of an enclave; `flags` and `xfrm` are the two halves of ATTRIBUTES."""

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    flags: int
    xfrm: int
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes


@dataclass(frozen=True, slots=True)
class Td15:
    """What TDX 1.5 adds: `tee_tcb_svn2` is the module's version at the moment of the report."""

    tee_tcb_svn2: bytes
    mr_service_td: bytes


@dataclass(frozen=True, slots=True)
class Td15Ex:
    """What the extended body of TDX 1.5 adds: who the domain is, and what it was when it was made."""

    vm_id: int
    td_id: bytes
    dev_info: bytes
    init_service_td_hash: bytes
    init_service_td_attributes: bytes
    init_cpu_svn: bytes
    init_tee_tcb_svn: bytes
    init_fmspc: bytes
    current_service_td_hash: bytes
    current_service_td_attributes: bytes


@dataclass(frozen=True, slots=True)
class TdReport:
    """What the TDX module says of a trust domain; `rtmr` are its four runtime measurements.

    `v15` and `v15ex` are what newer bodies add, None where the quote has an older one.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: int
    td_attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    v15: Td15 | None
    v15ex: Td15Ex | None


def u16(data: bytes, at: int) -> int:
    """The unsigned number in two bytes."""
    return int.from_bytes(data[at : at + 2], "little")


def u32(data: bytes, at: int) -> int:
    """The unsigned number in four bytes."""
    return int.from_bytes(data[at : at + 4], "little")


def u64(data: bytes, at: int) -> int:
    """The unsigned number in eight bytes."""
    return int.from_bytes(data[at : at + 8], "little")


def parse_report(data: bytes) -> Report:
    """The fields of a 384-byte enclave report body. Raises BadEvidence."""
    if len(data) != REPORT_BYTES:
        raise BadEvidence(about="enclave report", got=len(data), expected=f"{REPORT_BYTES} bytes")
    return Report(
        cpu_svn=data[0:16],
        misc_select=u32(data, 16),
        isv_ext_prod_id=data[32:48],
        flags=u64(data, 48),
        xfrm=u64(data, 56),
        mr_enclave=data[64:96],
        mr_signer=data[128:160],
        config_id=data[192:256],
        isv_prod_id=u16(data, 256),
        isv_svn=u16(data, 258),
        config_svn=u16(data, 260),
        isv_family_id=data[304:320],
        report_data=data[320:384],
    )


def parse_td_report(data: bytes) -> TdReport:
    """The fields of a TD report body of 584, 648 or 885 bytes. Raises BadEvidence."""
    if len(data) not in (TD10_BYTES, TD15_BYTES, TD15EX_BYTES):
        raise BadEvidence(
            about="TD report",
            got=len(data),
            expected=f"{TD10_BYTES}, {TD15_BYTES} or {TD15EX_BYTES} bytes",
        )
    return TdReport(
        tee_tcb_svn=data[0:16],
        mr_seam=data[16:64],
        mr_signer_seam=data[64:112],
        seam_attributes=u64(data, 112),
        td_attributes=u64(data, 120),
        xfam=u64(data, 128),
        mr_td=data[136:184],
        mr_config_id=data[184:232],
        mr_owner=data[232:280],
        mr_owner_config=data[280:328],
        rtmr=(data[328:376], data[376:424], data[424:472], data[472:520]),
        report_data=data[520:584],
        v15=Td15(data[584:600], data[600:648]) if len(data) >= TD15_BYTES else None,
        v15ex=_td15_ex(data) if len(data) == TD15EX_BYTES else None,
    )


def _td15_ex(data: bytes) -> Td15Ex:
    return Td15Ex(
        vm_id=data[648],
        td_id=data[649:681],
        dev_info=data[681:729],
        init_service_td_hash=data[729:777],
        init_service_td_attributes=data[777:785],
        init_cpu_svn=data[785:801],
        init_tee_tcb_svn=data[801:817],
        init_fmspc=data[817:829],
        current_service_td_hash=data[829:877],
        current_service_td_attributes=data[877:885],
    )

"""What an NVIDIA report and a manifest say, for people: every field, and nothing is believed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leasehold.attest.describe import Description
from leasehold.attest.nvidia.explain import recognise
from leasehold.errors import BadEvidence, CollateralRejected
from leasehold_simtee.nvidia import BLACKWELL, HOPPER, LS10, PPCIE
from leasehold_simtee.nvidia_rim import sign_tag

from .nvidia_bench import NONCE, one_gpu, protected_pcie, vendor


def fields(found: Description | None) -> dict[str, str]:
    assert found is not None
    return {field.name: field.value for section in found.sections for field in section.fields}


def meanings(found: Description | None) -> str:
    assert found is not None
    return "\n".join(field.meaning for section in found.sections for field in section.fields)


def test_a_gpu_s_report() -> None:
    found = recognise(one_gpu().evidence[0].report)
    assert found is not None
    assert (found.what, found.platform) == ("NVIDIA GPU attestation report", "nvidia-gpu")
    said = fields(found)
    assert said["nonce"] == NONCE.hex()
    assert said["mode"] == "SPT"
    assert said["NVDEC0"] == "off"
    assert said["DRIVER_VERSION"] == "550.90.07"
    assert said["VBIOS_VERSION"] == "96.00.9F.00.01"
    assert said["PROTECTED_PCIE_STATUS"] == "55, off"
    assert said["FWID"] == one_gpu().devices[0].fwid.hex()
    assert said["needs"] == ", ".join(HOPPER.rim_names)
    assert said["8"] == HOPPER.measurements[7].hex()
    assert all(field.meaning for section in found.sections for field in section.fields)


def test_a_switch_s_report() -> None:
    switch = protected_pcie().devices[2]
    found = recognise(switch.report(NONCE))
    assert found is not None
    assert (found.what, found.platform) == ("NVIDIA NVSwitch attestation report", "nvidia-switch")
    said = fields(found)
    assert said["own number"] == switch.pdi.hex()
    assert said["GPUs"] == ", ".join(sorted(pdi.hex() for pdi in switch.links))
    assert said["needs"] == LS10.rim_names[0]


def test_modes_and_unknown_types_are_told() -> None:
    ppcie = recognise(vendor().device(PPCIE).report(NONCE))
    assert "NVLink in the clear" in meanings(ppcie)
    blackwell = vendor().device(BLACKWELL)
    assert fields(recognise(blackwell.report(NONCE)))["CHIP_INFO"] == "GB100"
    silent = recognise(blackwell.report(NONCE, opaque={36: None, 21: None, 200: b"\x01\x02"}))
    assert fields(silent)["mode"] == "not said"
    assert fields(silent)["type 200"] == "0102"


def test_a_manifest() -> None:
    found = recognise(sign_tag(HOPPER.tags[0], vendor().rim_chain))
    assert found is not None
    assert found.what == "NVIDIA reference integrity manifest"
    said = fields(found)
    assert (said["version"], said["product"]) == ("550.90.07", "GH100")
    assert said["SIMULATED CoRIM signing Root CA"]
    assert said["7"] == ", ".join(sorted(value.hex() for value in HOPPER.tags[0].golden[7]))
    one = replace(HOPPER.tags[0], golden={3: (b"\x01" * 48,)})
    assert "the one value" in meanings(recognise(sign_tag(one, vendor().rim_chain)))


@pytest.mark.parametrize("data", [b"", b"\x11", b"\x11\x60", b"<html></html>", b"\x30\x82"])
def test_other_things_are_not_recognised(data: bytes) -> None:
    assert recognise(data) is None


def test_what_starts_like_one_and_is_broken_is_refused() -> None:
    with pytest.raises(BadEvidence):
        recognise(one_gpu().evidence[0].report[:-1])
    with pytest.raises(CollateralRejected):
        recognise(sign_tag(HOPPER.tags[0], vendor().rim_chain)[:-1])

"""The GPUs' driver, against a faithful fake of NVML: structures, buffers and error codes as in pynvml."""

from __future__ import annotations

import sys
from collections.abc import Callable
from ctypes import Structure, c_uint, c_uint8
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import pytest

from leasehold.enclave.attesters import open_devices
from leasehold.enclave.nvml import NvmlDevices
from leasehold.enclave.nvml import open_devices as open_nvml
from leasehold.errors import BadSetting, MissingExtra, PlatformFailed

NONCE = bytes(range(32))
FUNCTION_NOT_FOUND, GPU_IS_LOST, DRIVER_NOT_LOADED, TIMEOUT = 13, 15, 9, 10


class Settings(Structure):
    _fields_: ClassVar[Any] = [
        ("version", c_uint),
        ("environment", c_uint),
        ("ccFeature", c_uint),
        ("devToolsMode", c_uint),
        ("multiGpuMode", c_uint),
    ]


class State(Structure):
    _fields_: ClassVar[Any] = [
        ("environment", c_uint),
        ("ccFeature", c_uint),
        ("devToolsMode", c_uint),
    ]


class Report(Structure):
    _fields_: ClassVar[Any] = [
        ("isCecAttestationReportPresent", c_uint),
        ("attestationReportSize", c_uint),
        ("cecAttestationReportSize", c_uint),
        ("nonce", c_uint8 * 32),
        ("attestationReport", c_uint8 * 8192),
        ("cecAttestationReport", c_uint8 * 4096),
    ]


class Certificate(Structure):
    _fields_: ClassVar[Any] = [
        ("certChainSize", c_uint),
        ("attestationCertChainSize", c_uint),
        ("certChain", c_uint8 * 4096),
        ("attestationCertChain", c_uint8 * 5120),
    ]


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"text of {value} that the host wrote")
        self.value = value


@dataclass
class FakeNvml:
    """NVML of a machine with GPUs; `errors` maps a function to the code that it raises with."""

    count: int = 2
    environment: int = 2
    feature: int = 1
    tools: int = 0
    multi: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    settings_code: int = 0
    report_size: Callable[[bytes], int] = len
    chain_size: Callable[[bytes], int] = len
    nonce: Callable[[bytes], bytes] = bytes
    lost: frozenset[int] = frozenset()
    counts: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    NVMLError: ClassVar[type[Exception]] = NVMLError
    c_nvmlSystemConfComputeSettings_v1_t: ClassVar[type[Structure]] = Settings  # noqa: N815

    def _called(self, name: str) -> None:
        if name in self.errors:
            raise NVMLError(self.errors[name])

    def nvmlInit(self) -> None:  # noqa: N802
        self._called("nvmlInit")

    def nvmlSystemGetConfComputeState(self) -> State:  # noqa: N802
        self._called("nvmlSystemGetConfComputeState")
        return State(self.environment, self.feature, self.tools)

    def nvmlSystemGetConfComputeSettings(self, settings: Any) -> int:  # noqa: N802
        self._called("nvmlSystemGetConfComputeSettings")
        settings._obj.multiGpuMode = self.multi
        return self.settings_code

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._called("nvmlDeviceGetCount")
        return self.counts.pop(0) if self.counts else self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index in self.lost:
            raise NVMLError(GPU_IS_LOST)
        return index

    def nvmlDeviceGetConfComputeGpuAttestationReport(  # noqa: N802
        self, device: int, nonce: bytes
    ) -> Report:
        self._called("nvmlDeviceGetConfComputeGpuAttestationReport")
        data = b"\x11\xe0\x01\xff" + self.nonce(bytes((c_uint8 * 32)(*nonce))) + b"gpu %d" % device
        made = Report(attestationReportSize=self.report_size(data))
        made.attestationReport[: len(data)] = data
        return made

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: int) -> Certificate:  # noqa: N802
        self._called("nvmlDeviceGetConfComputeGpuCertificate")
        data = b"chain of gpu %d" % device
        made = Certificate(attestationCertChainSize=self.chain_size(data))
        made.attestationCertChain[: len(data)] = data
        return made

    def nvmlSystemSetConfComputeGpusReadyState(self, state: int) -> int:  # noqa: N802
        self._called("nvmlSystemSetConfComputeGpusReadyState")
        self.ready.append(state)
        return 0


def test_every_gpu_is_asked_over_the_nonce() -> None:
    nvml = FakeNvml()
    found = NvmlDevices(nvml).attest_devices(NONCE)
    assert [one.kind for one in found] == ["nvidia-gpu"] * 2
    assert [one.report for one in found] == [
        b"\x11\xe0\x01\xff" + NONCE + b"gpu %d" % gpu for gpu in range(2)
    ]
    assert [one.chain for one in found] == [b"chain of gpu %d" % gpu for gpu in range(2)]
    assert nvml.ready == []


def test_the_gpus_are_made_ready_only_when_told() -> None:
    nvml = FakeNvml()
    NvmlDevices(nvml).set_ready()
    assert nvml.ready == [1]


def test_protected_pcie_reads_as_off_and_passes() -> None:
    assert NvmlDevices(FakeNvml(feature=0, multi=1)).attest_devices(NONCE)


@pytest.mark.parametrize(
    ("nvml", "about"),
    [
        (FakeNvml(feature=0), "confidential computing"),
        (FakeNvml(feature=0, multi=1, settings_code=3), "confidential computing"),
        (FakeNvml(feature=0, multi=2), "confidential computing"),
        (FakeNvml(tools=1), "developer tools mode"),
        (FakeNvml(feature=0, multi=1, tools=1), "developer tools mode"),
        (FakeNvml(environment=1), "environment"),
        (FakeNvml(environment=0), "environment"),
    ],
    ids=["off", "settings failed", "NVLink only", "tools", "tools in PPCIE", "simulator", "none"],
)
def test_gpus_that_protect_nothing_are_refused(nvml: FakeNvml, about: str) -> None:
    with pytest.raises(PlatformFailed, match=about):
        NvmlDevices(nvml)


def test_the_mode_is_asked_again_before_every_report() -> None:
    nvml = FakeNvml()
    devices = NvmlDevices(nvml)
    nvml.tools = 1
    with pytest.raises(PlatformFailed, match="developer tools"):
        devices.attest_devices(NONCE)


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("nvmlInit", DRIVER_NOT_LOADED),
        ("nvmlSystemGetConfComputeState", FUNCTION_NOT_FOUND),
        ("nvmlDeviceGetCount", TIMEOUT),
        ("nvmlDeviceGetConfComputeGpuAttestationReport", GPU_IS_LOST),
        ("nvmlDeviceGetConfComputeGpuCertificate", TIMEOUT),
    ],
)
def test_nvml_s_errors_are_codes_without_the_host_s_text(function: str, code: int) -> None:
    with pytest.raises(PlatformFailed, match=f"NVML {code}") as caught:
        NvmlDevices(FakeNvml(errors={function: code})).attest_devices(NONCE)
    assert "host wrote" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_old_driver_without_the_settings_is_off() -> None:
    nvml = FakeNvml(feature=0, errors={"nvmlSystemGetConfComputeSettings": FUNCTION_NOT_FOUND})
    with pytest.raises(PlatformFailed, match=f"NVML {FUNCTION_NOT_FOUND}"):
        NvmlDevices(nvml)


def test_a_failing_ready_state_is_told() -> None:
    nvml = FakeNvml(errors={"nvmlSystemSetConfComputeGpusReadyState": TIMEOUT})
    with pytest.raises(PlatformFailed, match="ReadyState"):
        NvmlDevices(nvml).set_ready()


def test_a_gpu_that_vanishes_fails_the_whole() -> None:
    with pytest.raises(PlatformFailed, match=f"GPU 1.*NVML {GPU_IS_LOST}"):
        NvmlDevices(FakeNvml(lost=frozenset({1}))).attest_devices(NONCE)


@pytest.mark.parametrize("counts", [[2, 3], [2, 1]], ids=["added", "lost"])
def test_a_number_of_gpus_that_changes_fails(counts: list[int]) -> None:
    with pytest.raises(PlatformFailed, match="another number"):
        NvmlDevices(FakeNvml(counts=counts)).attest_devices(NONCE)


@pytest.mark.parametrize("count", [0, 33])
def test_no_gpus_or_too_many_fail(count: int) -> None:
    with pytest.raises(PlatformFailed, match="1 to 32"):
        NvmlDevices(FakeNvml(count=count)).attest_devices(NONCE)


@pytest.mark.parametrize("size", [0, 8193])
def test_a_report_larger_than_its_buffer_or_empty_fails(size: int) -> None:
    with pytest.raises(PlatformFailed, match="report"):
        NvmlDevices(FakeNvml(report_size=lambda _: size)).attest_devices(NONCE)


@pytest.mark.parametrize("size", [0, 5121])
def test_a_chain_larger_than_its_buffer_or_empty_fails(size: int) -> None:
    with pytest.raises(PlatformFailed, match="chain"):
        NvmlDevices(FakeNvml(chain_size=lambda _: size)).attest_devices(NONCE)


def test_a_report_over_another_nonce_fails() -> None:
    with pytest.raises(PlatformFailed, match="another nonce"):
        NvmlDevices(FakeNvml(nonce=lambda nonce: nonce[::-1])).attest_devices(NONCE)


@pytest.mark.parametrize("nonce", [b"", NONCE[:31], NONCE + b"\x00"])
def test_only_32_bytes_are_a_nonce(nonce: bytes) -> None:
    with pytest.raises(PlatformFailed, match="nonce"):
        NvmlDevices(FakeNvml()).attest_devices(nonce)


def test_none_means_no_devices_and_unknown_drivers_are_refused() -> None:
    assert open_devices("none") is None
    for name in ("", "None", "nscq"):
        with pytest.raises(BadSetting, match="devices"):
            open_devices(name)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtra, match="leasehold\\[nvml\\]"):
        open_nvml()


def test_the_package_s_module_is_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, module = FakeNvml(), ModuleType("pynvml")
    for name in dir(fake):
        if not name.startswith("_"):
            setattr(module, name, getattr(fake, name))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    devices = open_devices("nvml")
    assert devices is not None
    assert len(devices.attest_devices(NONCE)) == 2

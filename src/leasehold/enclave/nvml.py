"""Evidence of the GPUs beside this enclave, by NVIDIA's management library (NVML).

Source: NVML API Reference Guide, "Confidential Computing"; nvidia-ml-py, whose module is the port. NVML
knows no NVSwitch: their evidence comes from NSCQ, which this version does not ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref
from typing import Any, Final, Protocol

from leasehold.core.evidence import DeviceAttester, DeviceEvidence
from leasehold.errors import MissingExtra, PlatformFailed

KIND: Final = "nvidia-gpu"
NONCE_BYTES: Final = 32
DEVICES_MAX: Final = 32
FEATURE_ON: Final = 1  # NVML_CC_SYSTEM_FEATURE_ENABLED
PRODUCTION: Final = 2  # NVML_CC_SYSTEM_ENVIRONMENT_PROD
TOOLS_OFF: Final = 0  # NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF
PROTECTED_PCIE: Final = 1  # NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE
READY: Final = 1  # NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE
SUCCESS: Final = 0


class Nvml(Protocol):
    """What is used of the module `pynvml`. All but `...Settings` raise `NVMLError`, its code in `value`."""

    NVMLError: type[Exception]
    c_nvmlSystemConfComputeSettings_v1_t: type[Any]  # noqa: N815 - NVML's own name

    def nvmlInit(self) -> None:  # noqa: N802
        """Load the driver's library."""

    def nvmlSystemGetConfComputeState(self) -> Any:  # noqa: N802
        """`environment`, `ccFeature`, `devToolsMode`."""

    def nvmlSystemGetConfComputeSettings(self, settings: Any) -> int:  # noqa: N802
        """The same and `multiGpuMode`, written through a pointer; returns the code."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """How many GPUs this machine has."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        """The GPU at an index from 0."""

    def nvmlDeviceGetConfComputeGpuAttestationReport(  # noqa: N802
        self, device: Any, nonce: Sequence[int]
    ) -> Any:
        """`attestationReport` (8,192 bytes) and `attestationReportSize`."""

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: Any) -> Any:  # noqa: N802
        """`attestationCertChain` (5,120 bytes) and `attestationCertChainSize`."""

    def nvmlSystemSetConfComputeGpusReadyState(self, state: int) -> Any:  # noqa: N802
        """Whether the GPUs take work."""


class NvmlDevices:
    """All GPUs of this machine. One call at a time."""

    def __init__(self, nvml: Nvml) -> None:
        """Raises PlatformFailed where there is no driver, or the GPUs are not in a mode that protects."""
        self._nvml = nvml
        with self._call("nvmlInit"):
            nvml.nvmlInit()
        self._check_mode()

    def attest_devices(self, nonce: bytes) -> tuple[DeviceEvidence, ...]:
        """Evidence of every GPU over exactly these 32 bytes. Raises PlatformFailed."""
        if len(nonce) != NONCE_BYTES:
            raise PlatformFailed(about="device nonce", got=len(nonce), expected=NONCE_BYTES)
        self._check_mode()
        count = self._count()
        found = tuple(self._attest(index, nonce) for index in range(count))
        if self._count() != count:  # one was lost or added while the others answered
            raise PlatformFailed(about="GPUs", got="another number than before", expected=count)
        return found

    def set_ready(self) -> None:
        """Let the GPUs take work: only after the custodian accepted them. Raises PlatformFailed."""
        with self._call("nvmlSystemSetConfComputeGpusReadyState"):
            self._nvml.nvmlSystemSetConfComputeGpusReadyState(READY)

    def _attest(self, index: int, nonce: bytes) -> DeviceEvidence:
        with self._call(f"GPU {index}"):
            device = self._nvml.nvmlDeviceGetHandleByIndex(index)
            made = self._nvml.nvmlDeviceGetConfComputeGpuAttestationReport(device, nonce)
            chain = self._nvml.nvmlDeviceGetConfComputeGpuCertificate(device)
        report = _cut(made.attestationReport, made.attestationReportSize, f"GPU {index}, report")
        if report[4:36] != nonce:  # another process asked in between
            raise PlatformFailed(about=f"GPU {index}, report", got="another nonce than was asked")
        return DeviceEvidence(
            KIND,
            report,
            _cut(chain.attestationCertChain, chain.attestationCertChainSize, f"GPU {index}, chain"),
        )

    def _count(self) -> int:
        with self._call("nvmlDeviceGetCount"):
            count = self._nvml.nvmlDeviceGetCount()
        if not 1 <= count <= DEVICES_MAX:
            raise PlatformFailed(about="GPUs", got=count, expected=f"1 to {DEVICES_MAX}")
        return count

    def _check_mode(self) -> None:
        """Confidential computing or protected PCIe, in production, and nobody debugs."""
        with self._call("nvmlSystemGetConfComputeState"):
            state = self._nvml.nvmlSystemGetConfComputeState()
        protected = state.ccFeature == FEATURE_ON or self._is_protected_pcie()
        for about, got, expected in (
            ("confidential computing", protected, True),
            ("developer tools mode", state.devToolsMode, TOOLS_OFF),
            ("environment", state.environment, PRODUCTION),
        ):
            if got != expected:
                raise PlatformFailed(about=f"GPUs, {about}", got=got, expected=expected)

    def _is_protected_pcie(self) -> bool:
        """With protected PCIe the feature itself reads as off."""
        settings = self._nvml.c_nvmlSystemConfComputeSettings_v1_t()
        with self._call("nvmlSystemGetConfComputeSettings"):
            code = self._nvml.nvmlSystemGetConfComputeSettings(byref(settings))
        return code == SUCCESS and settings.multiGpuMode == PROTECTED_PCIE

    @contextmanager
    def _call(self, about: str) -> Iterator[None]:
        """NVML's errors as ours: the code alone, since the text is the host's."""
        try:
            yield
        except self._nvml.NVMLError as cause:
            raise PlatformFailed(about=about, got=f"NVML {getattr(cause, 'value', '?')}") from None


def _cut(buffer: Sequence[int], size: int, about: str) -> bytes:
    """The part of a C buffer that was filled."""
    if not 0 < size <= len(buffer):
        raise PlatformFailed(
            about=about, got=f"{size} bytes", expected=f"1 to {len(buffer)}, its buffer"
        )
    return bytes(buffer[:size])


def open_devices() -> DeviceAttester:
    """The entry point `nvml`. Raises MissingExtra, PlatformFailed."""
    try:
        import pynvml
    except ImportError as missing:
        raise MissingExtra(about="pip install 'leasehold[nvml]'") from missing
    return NvmlDevices(pynvml)

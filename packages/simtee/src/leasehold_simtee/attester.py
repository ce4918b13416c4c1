"""The simulated attester, as the enclave sees it through the entry point `leasehold.attesters`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from leasehold.core.binding import REPORT_DATA_BYTES
from leasehold.core.evidence import Attester, Evidence
from leasehold.errors import Unavailable
from leasehold_simtee.measure import measure
from leasehold_simtee.quote import Enclave, QuotingEnclave

PLATFORM: Final = "sgx"  # it has SGX's shape, and the verifier that runs is SGX's


class SimulatedAttester:
    """Quotes under a home-made root. It proves logic, not secrecy."""

    __slots__ = ("_enclave", "_quoting")

    def __init__(self, quoting: QuotingEnclave, enclave: Enclave) -> None:
        self._quoting = quoting
        self._enclave = enclave

    @property
    def simulated(self) -> bool:
        """Always true."""
        return True

    @property
    def enclave(self) -> Enclave:
        """What the reports say of the enclave."""
        return self._enclave

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence over exactly these 64 bytes. Raises Unavailable for any other number of bytes."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise Unavailable(about="report data", got=len(report_data), expected=REPORT_DATA_BYTES)
        return Evidence(PLATFORM, self._quoting.quote(self._enclave.report(report_data)))


def open_machine(hint: str) -> Attester:
    """The entry point `simulated`: an attester on the machine kept in the folder `hint`.

    The measurement is taken of the `leasehold` package that this process imported. Raises FileTrouble,
    BadSetting.
    """
    from leasehold_simtee.machine import Machine

    return Machine.load(Path(hint)).attester(measure())

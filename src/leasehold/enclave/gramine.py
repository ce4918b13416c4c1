"""Evidence from Intel SGX under Gramine, by its pseudo-files below /dev/attestation.

Source: Gramine documentation, "Attestation and Secret Provisioning", and its LibOS source
(libos/src/fs/dev/attestation.c), read 2026-11.
"""

from __future__ import annotations

import threading
from typing import Final

from leasehold.core.crypto import is_equal
from leasehold.core.evidence import Attester, Evidence
from leasehold.enclave.files import Files, KernelFiles
from leasehold.errors import PlatformFailed

FOLDER: Final = "/dev/attestation"
TYPE: Final = b"dcap"
QUOTE_BYTES_MAX: Final = 8192
# Quote v3: 48 bytes of header, then the enclave report with its report data at 320.
_REPORT_DATA: Final = slice(48 + 320, 48 + 384)


class GramineAttester:
    """Quotes of this Gramine process. The pseudo-files are process-wide, so one call at a time."""

    simulated = False

    def __init__(self, files: Files, folder: str = FOLDER) -> None:
        """Raises PlatformFailed where Gramine offers no DCAP attestation."""
        self._files, self._folder = files, folder
        self._one_at_a_time = threading.Lock()
        offered = self._read("attestation_type").strip()
        if offered != TYPE:
            raise PlatformFailed(
                about=f"{folder}/attestation_type",
                got=offered.decode("ascii", "replace"),
                expected=TYPE.decode(),
            )

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence over exactly these 64 bytes. Raises PlatformFailed."""
        with self._one_at_a_time:
            try:
                self._files.write(f"{self._folder}/user_report_data", report_data)
            except OSError as cause:
                raise PlatformFailed(about="user_report_data", got=cause) from cause
            quote = self._read("quote")
        if not 0 < len(quote) <= QUOTE_BYTES_MAX:
            raise PlatformFailed(
                about="quote", got=f"{len(quote)} bytes", expected=f"1 to {QUOTE_BYTES_MAX}"
            )
        if not is_equal(quote[_REPORT_DATA], report_data):
            # Another thread of this process wrote in between, or the host answered for another enclave.
            raise PlatformFailed(about="quote", got="other report data than was written")
        return Evidence("sgx", quote)

    def _read(self, name: str) -> bytes:
        try:
            return self._files.read(f"{self._folder}/{name}")
        except OSError as cause:
            raise PlatformFailed(about=f"{self._folder}/{name}", got=cause) from cause


def open_platform(hint: str) -> Attester:  # noqa: ARG001 - the path is Gramine's, not the borrower's
    """The entry point `gramine`. Raises PlatformFailed."""
    return GramineAttester(KernelFiles())

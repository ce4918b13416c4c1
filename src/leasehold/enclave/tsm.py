"""Evidence from a confidential VM (Intel TDX, AMD SEV-SNP) by the kernel's configfs-tsm.

Source: Linux Documentation/ABI/testing/configfs-tsm-report (>= 6.7), read 2026-11. Each report has a
folder of its own; every write to it raises `generation`, so a racing writer is seen and the report
made again.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from leasehold.core.crypto import Entropy, is_equal
from leasehold.core.evidence import Attester, Evidence
from leasehold.enclave.files import Files, KernelFiles
from leasehold.errors import PlatformFailed

FOLDER: Final = "/sys/kernel/config/tsm/report"
TRIES_MAX: Final = 10
PAUSE_SECONDS: Final = 0.05
INBLOB_BYTES: Final = 64  # both drivers want exactly as many
_AGAIN: Final = (errno.EBUSY, errno.EAGAIN, errno.EINTR)


class _Provider(NamedTuple):
    """What a kernel driver's output is called, and where its report data stands."""

    platform: str
    report_data: Callable[[bytes], bytes]


def _tdx_report_data(quote: bytes) -> bytes:
    body = 54 if quote[:2] == b"\x05\x00" else 48  # v5 puts type and size before the body
    return quote[body + 520 : body + 584]


_PROVIDERS: Final = {
    "sev_guest": _Provider("snp", lambda report: report[0x50:0x90]),
    "tdx_guest": _Provider("tdx", _tdx_report_data),
}


class _Raced(Exception):
    """Somebody else wrote to the report's folder."""


class TsmAttester:
    """Reports of this virtual machine. Needs root, which the governor of a confidential VM is."""

    simulated = False

    def __init__(
        self,
        files: Files,
        entropy: Entropy,
        *,
        folder: str = FOLDER,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is asked of the kernel yet."""
        self._files, self._entropy, self._folder, self._pause = files, entropy, folder, pause
        self._one_at_a_time = threading.Lock()

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence over exactly these 64 bytes. Raises PlatformFailed."""
        if len(report_data) != INBLOB_BYTES:
            raise PlatformFailed(about="report data", got=len(report_data), expected=INBLOB_BYTES)
        failure: Exception = _Raced()
        with self._one_at_a_time:
            for _ in range(TRIES_MAX):
                try:
                    return self._report(report_data)
                except _Raced as race:
                    failure = race
                except OSError as cause:
                    if cause.errno not in _AGAIN:
                        raise PlatformFailed(about=self._folder, got=cause) from cause
                    failure = cause
                self._pause(PAUSE_SECONDS)
        got = "another writer each time" if isinstance(failure, _Raced) else failure
        raise PlatformFailed(about=self._folder, got=got) from failure

    def _report(self, report_data: bytes) -> Evidence:
        place = f"{self._folder}/leasehold-{self._entropy(8).hex()}"
        self._files.make_folder(place)
        try:
            return self._read_report(place, report_data)
        finally:
            with suppress(OSError):  # the kernel removes it with the machine at the latest
                self._files.remove_folder(place)

    def _read_report(self, place: str, report_data: bytes) -> Evidence:
        before = self._number(f"{place}/generation")
        self._files.write(f"{place}/inblob", report_data)
        report = self._files.read(f"{place}/outblob")
        endorsements = self._optional(f"{place}/auxblob")
        name = self._files.read(f"{place}/provider").decode("ascii", "replace").strip()
        if self._number(f"{place}/generation") != before + 1:
            raise _Raced
        provider = _PROVIDERS.get(name)
        if provider is None:
            raise PlatformFailed(about="provider", got=name, expected=sorted(_PROVIDERS))
        if not is_equal(provider.report_data(report), report_data):
            raise PlatformFailed(about="outblob", got="other report data than was written")
        return Evidence(provider.platform, report, endorsements)

    def _optional(self, path: str) -> tuple[bytes, ...]:
        """The certificate table, which a host may leave empty and a kernel may not have."""
        try:
            data = self._files.read(path)
        except FileNotFoundError:
            return ()
        return (data,) if data else ()

    def _number(self, path: str) -> int:
        text = self._files.read(path).strip()
        if not text.isdigit():
            raise PlatformFailed(
                about=path, got=text.decode("ascii", "replace"), expected="a number"
            )
        return int(text)


def open_platform(hint: str) -> Attester:  # noqa: ARG001 - the path is the kernel's, not the borrower's
    """The entry point `tsm`. Raises PlatformFailed at the first report where the kernel has none."""
    return TsmAttester(KernelFiles(), os.urandom)

"""The drivers that produce evidence, against faithful fakes of Gramine's and the kernel's behaviour."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from leasehold.core.crypto import sha256
from leasehold.enclave.attesters import open_attester
from leasehold.enclave.gramine import GramineAttester
from leasehold.enclave.tsm import TsmAttester
from leasehold.errors import BadSetting, PlatformFailed
from leasehold.testing.time import SeededEntropy

DATA = bytes(range(64))


@dataclass
class FakeGramine:
    """/dev/attestation: short input is zero padded, a quote is made at each read."""

    kind: bytes = b"dcap"
    written: bytes = b""
    size: int = 4600
    forge: Callable[[bytes], bytes] = bytes

    def read(self, path: str) -> bytes:
        name = path.rpartition("/")[2]
        if name == "attestation_type":
            return self.kind
        if name == "quote" and self.kind == b"dcap":
            report = bytes(320) + self.forge(self.written)
            return (bytes(48) + report).ljust(self.size, b"\x01")[: self.size]
        raise FileNotFoundError(errno.ENOENT, path)

    def write(self, path: str, data: bytes) -> None:
        if len(data) > 64:
            raise OSError(errno.EINVAL, path)
        self.written = data.ljust(64, b"\x00")

    def make_folder(self, path: str) -> None:
        raise PermissionError(errno.EPERM, path)

    def remove_folder(self, path: str) -> None:
        raise PermissionError(errno.EPERM, path)


def test_gramine_quotes_what_was_written() -> None:
    evidence = GramineAttester(FakeGramine()).attest(DATA)
    assert evidence.platform == "sgx"
    assert evidence.quote[48 + 320 : 48 + 384] == DATA


def test_gramine_without_dcap_is_no_platform() -> None:
    with pytest.raises(PlatformFailed, match="dcap"):
        GramineAttester(FakeGramine(kind=b"none"))


@pytest.mark.parametrize("size", [0, 9000])
def test_a_quote_of_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(PlatformFailed, match="bytes"):
        GramineAttester(FakeGramine(size=size)).attest(DATA)


def test_a_quote_over_other_data_is_refused() -> None:
    fake = FakeGramine(forge=lambda _: sha256(b"racing writer") * 2)
    with pytest.raises(PlatformFailed, match="other report data"):
        GramineAttester(fake).attest(DATA)


def test_a_short_quote_is_refused() -> None:
    with pytest.raises(PlatformFailed, match="other report data"):
        GramineAttester(FakeGramine(size=100)).attest(DATA)


@dataclass
class Report:
    generation: int = 0
    inblob: bytes = b""


@dataclass
class FakeKernel:
    """configfs-tsm: a folder for each report; writes raise its generation; reads make the report."""

    provider: str = "sev_guest"
    aux: bytes | None = b"certificates"
    busy: int = 0  # so many reads of outblob end with EBUSY first
    races: int = 0  # so many reports are disturbed by another writer
    broken: int = 0  # errno of every outblob read
    forge: Callable[[bytes], bytes] = bytes
    folders: dict[str, Report] = field(default_factory=dict)
    removed: int = 0

    def make_folder(self, path: str) -> None:
        if path in self.folders:
            raise FileExistsError(errno.EEXIST, path)
        self.folders[path] = Report()

    def remove_folder(self, path: str) -> None:
        del self.folders[path]
        self.removed += 1

    def write(self, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        if name != "inblob" or len(data) != 64:
            raise OSError(errno.EINVAL, path)
        report = self.folders[folder]
        report.inblob = data
        report.generation += 1

    def read(self, path: str) -> bytes:
        folder, _, name = path.rpartition("/")
        report = self.folders[folder]
        match name:
            case "generation":
                return f"{report.generation}\n".encode()
            case "provider":
                return f"{self.provider}\n".encode()
            case "auxblob" if self.aux is not None:
                return self.aux
            case "outblob":
                return self._outblob(path, report)
        raise FileNotFoundError(errno.ENOENT, path)

    def _outblob(self, path: str, report: Report) -> bytes:
        if self.broken:
            raise OSError(self.broken, path)
        if self.busy:
            self.busy -= 1
            raise OSError(errno.EBUSY, path)
        data = self.forge(report.inblob)
        if self.races:
            self.races -= 1
            report.generation += 1
        if self.provider == "sev_guest":
            return (bytes(0x50) + data).ljust(1184, b"\x00")
        return (b"\x04\x00" + bytes(46) + bytes(520) + data).ljust(5000, b"\x00")


def attester(kernel: FakeKernel, pauses: list[float] | None = None) -> TsmAttester:
    pause = (lambda _: None) if pauses is None else pauses.append
    return TsmAttester(kernel, SeededEntropy("tsm"), pause=pause)


@pytest.mark.parametrize(("provider", "platform"), [("sev_guest", "snp"), ("tdx_guest", "tdx")])
def test_the_kernel_reports_under_its_own_name(provider: str, platform: str) -> None:
    kernel = FakeKernel(provider=provider)
    evidence = attester(kernel).attest(DATA)
    assert (evidence.platform, evidence.endorsements) == (platform, (b"certificates",))
    assert kernel.folders == {}


@pytest.mark.parametrize("aux", [None, b""])
def test_a_missing_certificate_table_is_no_failure(aux: bytes | None) -> None:
    assert attester(FakeKernel(aux=aux)).attest(DATA).endorsements == ()


def test_a_busy_kernel_is_asked_again() -> None:
    pauses: list[float] = []
    kernel = FakeKernel(busy=3)
    assert attester(kernel, pauses).attest(DATA).platform == "snp"
    assert len(pauses) == 3
    assert kernel.removed == 4


def test_a_racing_writer_is_noticed_and_the_report_made_again() -> None:
    kernel = FakeKernel(races=2)
    assert attester(kernel).attest(DATA).platform == "snp"
    assert kernel.removed == 3


def test_a_writer_who_never_stops_racing_is_named() -> None:
    with pytest.raises(PlatformFailed, match="another writer"):
        attester(FakeKernel(races=100)).attest(DATA)


def test_a_kernel_that_stays_busy_is_named() -> None:
    with pytest.raises(PlatformFailed, match="Errno 16"):
        attester(FakeKernel(busy=100)).attest(DATA)


def test_another_error_is_not_repeated_and_leaves_no_folder() -> None:
    pauses: list[float] = []
    kernel = FakeKernel(broken=errno.EIO)
    with pytest.raises(PlatformFailed, match="Errno 5"):
        attester(kernel, pauses).attest(DATA)
    assert pauses == []
    assert kernel.folders == {}


def test_an_unknown_driver_is_refused() -> None:
    with pytest.raises(PlatformFailed, match="arm_cca_guest"):
        attester(FakeKernel(provider="arm_cca_guest")).attest(DATA)


def test_a_report_over_other_data_is_refused() -> None:
    kernel = FakeKernel(forge=lambda _: bytes(64))
    with pytest.raises(PlatformFailed, match="other report data"):
        attester(kernel).attest(DATA)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(PlatformFailed, match="report data"):
        attester(FakeKernel()).attest(bytes(size))


def test_a_driver_that_is_not_installed_is_named_with_those_that_are() -> None:
    with pytest.raises(BadSetting, match=r"gramine.*simulated.*tsm"):
        open_attester("nitro", "")


@pytest.mark.parametrize("name", ["gramine", "tsm"])
def test_without_the_hardware_the_driver_says_so(name: str) -> None:
    with pytest.raises(PlatformFailed):
        open_attester(name, "").attest(DATA)

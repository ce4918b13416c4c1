"""A SIMULATED NVIDIA: GPUs and switches, their manifests, and the answers of its OCSP responders.

It proves logic, not secrecy. Structures: SPDM 1.1 (DMTF DSP0274) with NVIDIA's opaque data.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Final

from leasehold.attest.collateral import Document
from leasehold.core.crypto import Entropy, sha256
from leasehold.core.evidence import DeviceEvidence
from leasehold.core.units import DAY, Instant, after
from leasehold.errors import Unavailable
from leasehold_simtee.certificates import moment, pem
from leasehold_simtee.nvidia_certificates import (
    NOBODY_ASKS_LATER,
    Party,
    blackwell_dice,
    hopper_dice,
    issue,
    sha384,
    sign_raw,
)
from leasehold_simtee.nvidia_ocsp import ocsp_response, responder
from leasehold_simtee.nvidia_rim import Tag, sign_tag

GPU: Final = "nvidia-gpu"
SWITCH: Final = "nvidia-switch"
NONCE_BYTES: Final = 32
DRIVER_INDEXES: Final = (7, *range(21, 41))
VBIOS_INDEXES: Final = (*range(7), *range(8, 13))
SWITCH_INDEXES: Final = tuple(range(31))
_EARLIER: Final = timedelta(days=1)
_YEAR: Final = timedelta(days=365)


def measured(label: str, index: int) -> bytes:
    """What honest firmware of this name measures at a RIM index."""
    return sha384(f"SIMULATED {label} {index}".encode())


def _field(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", kind, len(value)) + value


@dataclass(frozen=True)
class Model:
    """A kind of device and the firmware on it; `firmware` is the VBIOS's version."""

    kind: str = GPU
    chip: str = "GH100"
    driver: str = "550.90.07"
    firmware: str = "96.00.9F.00.01"
    project: str = "1010"
    project_sku: str = "0200"
    chip_sku: str = "882"
    protected_pcie: bool = False
    feature: int | None = 0
    chip_info: str | None = None
    nvdec0: bool = False

    @property
    def rim_names(self) -> tuple[str, ...]:
        """The names of its manifests: driver and VBIOS, or a switch's BIOS."""
        plain = self.firmware.replace(".", "")
        if self.kind == SWITCH:
            return (f"NV_SWITCH_BIOS_5612_0002_890_{plain}",)
        family = (
            f"NV_GPU_CC_DRIVER_{self.chip_info}" if self.chip_info else f"NV_GPU_DRIVER_{self.chip}"
        )
        board = f"{self.project}_{self.project_sku}_{self.chip_sku}"
        return (f"{family}_{self.driver}", f"NV_GPU_VBIOS_{board}_{plain}")

    @property
    def tags(self) -> tuple[Tag, ...]:
        """What those manifests say."""
        if self.kind == SWITCH:
            return (self._tag("bios", self.firmware, SWITCH_INDEXES),)
        return (
            self._tag("driver", self.driver, DRIVER_INDEXES),
            self._tag("vbios", self.firmware, VBIOS_INDEXES),
        )

    def _tag(self, label: str, version: str, indexes: Iterable[int]) -> Tag:
        edition = "SWITCH" if self.kind == SWITCH else "GPU"
        golden = {index: (bytes(48), measured(label, index)) for index in indexes}
        return Tag(version, golden, self.chip.replace("_", ""), edition)

    @property
    def measurements(self) -> tuple[bytes, ...]:
        """What a device of this model measures, in SPDM's order."""
        if self.kind == SWITCH:
            return tuple(measured("bios", index) for index in SWITCH_INDEXES)
        values = [bytes(48)] * 64
        for label, indexes in (("driver", DRIVER_INDEXES), ("vbios", VBIOS_INDEXES)):
            for index in indexes:
                values[index] = measured(label, index)
        return tuple(values)


HOPPER: Final = Model()
BLACKWELL: Final = Model(
    chip="GB100",
    driver="595.91.07",
    firmware="97.00.E4.00.1E",
    project="G525",
    project_sku="0220",
    chip_sku="886",
    chip_info="GB100",
)
PPCIE: Final = Model(protected_pcie=True, feature=2, project="G520", chip_sku="885")
LS10: Final = Model(kind=SWITCH, chip="LS_10", driver="", firmware="96.10.6D.00.01")


@dataclass(frozen=True)
class SimulatedDevice:
    """One device: its keys, certificates and firmware; `pdi` is its number, `links` those of its peers."""

    model: Model
    leaf: Party
    chain: tuple[Party, ...]
    fwid: bytes
    pdi: bytes
    links: tuple[bytes, ...] = ()

    @property
    def serial(self) -> str:
        """What `[[machines]]` lists: the serial number of the device key's certificate."""
        return f"{self.leaf.certificate.serial_number:040x}"

    @property
    def hardware(self) -> str:
        """Or of the hardware's own certificate."""
        return f"{self.chain[1].certificate.serial_number:018x}"

    @property
    def pem(self) -> bytes:
        """The five certificates, device key first."""
        return pem(*(one.certificate for one in self.chain)).encode()

    def opaque(self, changed: Mapping[int, bytes | None] | None = None) -> bytes:
        """The opaque data; `changed` replaces values by type, None leaves one out."""
        model = self.model
        on = {True: b"\xaa", False: b"\x55"}
        octets = bytes.fromhex(model.firmware.replace(".", ""))
        if model.kind == SWITCH:
            fields: dict[int, bytes | None] = {
                6: model.firmware.encode(),
                22: self.pdi,
                26: b"".join(self.links).ljust(128, b"\0"),
            }
        else:
            fields = {
                6: bytes((*reversed(octets[:4]), octets[4], 0, 0, 0)),
                15: model.chip_sku.encode().ljust(9, b"\0"),
                17: model.project.encode() + b"\0",
                18: model.project_sku.encode() + b"\0",
                3: model.driver.encode() + b"\0",
                11: on[model.nvdec0],
                20: self.fwid,
                21: on[model.protected_pcie],
            }
            if self.links:
                fields[22] = b"".join(self.links) * 2
            if model.feature is not None:
                fields[36] = model.feature.to_bytes(2, "little")
            if model.chip_info is not None:
                fields[35] = model.chip_info.encode() + b"\0"
        fields |= changed or {}
        return b"".join(_field(kind, value) for kind, value in fields.items() if value is not None)

    def report(
        self,
        nonce: bytes,
        *,
        opaque: Mapping[int, bytes | None] | None = None,
        measurements: Mapping[int, bytes] | None = None,
    ) -> bytes:
        """A signed report; `measurements` replaces values by RIM index (from 0)."""
        values = list(self.model.measurements)
        for index, value in (measurements or {}).items():
            values[index] = value
        record = b"".join(
            struct.pack("<BBHBH48s", index, 1, 51, 1, 48, value)
            for index, value in enumerate(values, 1)
        )
        data = self.opaque(opaque)
        told = b"".join(
            (
                bytes((0x11, 0xE0, 0x01, 0xFF)) + nonce + b"\0",
                bytes((0x11, 0x60, 0, 0, len(values))) + len(record).to_bytes(3, "little"),
                record,
                sha256(b"SIMULATED responder nonce" + nonce),
                len(data).to_bytes(2, "little"),
                data,
            )
        )
        return self.signed(told)

    def signed(self, told: bytes) -> bytes:
        """These bytes with this device's signature."""
        return told + sign_raw(self.leaf.key, told)

    def evidence(self, nonce: bytes) -> DeviceEvidence:
        """An honest report and the chain. Raises Unavailable for nonces of another size."""
        if len(nonce) != NONCE_BYTES:
            raise Unavailable(about="device nonce", got=len(nonce), expected=NONCE_BYTES)
        return DeviceEvidence(self.model.kind, self.report(nonce), self.pem)


@dataclass(frozen=True)
class SimulatedDevices:
    """The devices of one machine: what an enclave asks for their evidence."""

    devices: tuple[SimulatedDevice, ...]
    accepted: list[int] = field(default_factory=list)

    def set_ready(self) -> None:
        """Note that the devices may take work."""
        self.accepted.append(len(self.devices))

    def attest_devices(self, nonce: bytes) -> tuple[DeviceEvidence, ...]:
        """Every device's evidence. Raises Unavailable."""
        return tuple(device.evidence(nonce) for device in self.devices)


@dataclass(frozen=True)
class NvidiaVendor:
    """NVIDIA's keys, simulated: one hierarchy for devices, one for manifests, never the same root.

    `families` and `provisioners` hold what each chip's devices are issued by, `responders` who signs
    OCSP for an issuer, by the issuer's SHA-256.
    """

    entropy: Entropy = field(repr=False)
    now: Instant
    root: Party
    rim_chain: tuple[Party, ...]

    @classmethod
    def create(cls, entropy: Entropy, now: Instant) -> NvidiaVendor:
        """A new vendor with two new roots, valid from a day before `now`."""
        starts = moment(now) - _EARLIER
        root = issue(
            "SIMULATED Device Identity CA",
            None,
            entropy=entropy,
            starts=starts,
            ends=NOBODY_ASKS_LATER,
        )
        rim_root = issue(
            "SIMULATED CoRIM signing Root CA",
            None,
            entropy=entropy,
            starts=starts,
            ends=starts + 30 * _YEAR,
        )
        family = issue(
            "SIMULATED Reference Value GH100 CA",
            rim_root,
            entropy=entropy,
            starts=starts,
            ends=starts + 10 * _YEAR,
        )
        authority = issue(
            "SIMULATED Reference Value L3 GH100 001",
            family,
            entropy=entropy,
            starts=starts,
            ends=starts + 3 * _YEAR,
        )
        signer = issue(
            "SIMULATED Reference Value L4 GH100",
            authority,
            entropy=entropy,
            starts=starts,
            ends=starts + 2 * _YEAR,
            is_authority=False,
        )
        return cls(entropy, now, root, (signer, authority, family, rim_root))

    @property
    def root_sha256(self) -> str:
        """What `nvidia_root_sha256` of a manifest's `[simulated]` names."""
        return hashlib.sha256(self.root.der).hexdigest()

    @property
    def rim_root_sha256(self) -> str:
        """What `nvidia_rim_root_sha256` names."""
        return hashlib.sha256(self.rim_chain[-1].der).hexdigest()

    def device(
        self, model: Model = HOPPER, *, pdi: bytes | None = None, links: tuple[bytes, ...] = ()
    ) -> SimulatedDevice:
        """A new device of this model, with a provisioner and a family authority of its own."""
        entropy, starts = self.entropy, moment(self.now) - _EARLIER
        chip = model.chip
        number = entropy(8) if pdi is None else pdi
        processor = "FSP" if model.kind == SWITCH else "GSP"
        chain: list[Party] = [self.root]
        for common in (f"SIMULATED {chip} Identity", f"SIMULATED {chip} Provisioner ICA 1"):
            chain.insert(
                0,
                issue(common, chain[0], entropy=entropy, starts=starts, ends=NOBODY_ASKS_LATER),
            )
        brom = issue(
            f"SIMULATED {chip} A01 {processor} BROM",
            chain[0],
            entropy=entropy,
            starts=starts,
            ends=NOBODY_ASKS_LATER,
            number=int.from_bytes(b"\x41" + number, "big"),
        )
        fwid = sha384(f"SIMULATED firmware {model.firmware}".encode())
        extension = (
            blackwell_dice(fwid) if chip.startswith("GB") else hopper_dice(b"\x30\x00", fwid)
        )
        leaf = issue(
            f"SIMULATED {chip} A01 {processor} FMC LF",
            brom,
            entropy=entropy,
            starts=starts,
            ends=NOBODY_ASKS_LATER,
            is_authority=False,
            number=int.from_bytes(b"\x53" + entropy(19), "big"),
            extension=extension,
        )
        return SimulatedDevice(model, leaf, (leaf, brom, *chain), fwid, number, links)

    def machine(self, gpus: int, switches: int) -> tuple[SimulatedDevice, ...]:
        """GPUs in protected PCIe mode and the switches between them, each linked with every other."""
        pdis = [self.entropy(8) for _ in range(gpus + switches)]
        return (
            *(self.device(PPCIE, pdi=pdi, links=tuple(pdis[gpus:])) for pdi in pdis[:gpus]),
            *(self.device(LS10, pdi=pdi, links=tuple(pdis[:gpus])) for pdi in pdis[gpus:]),
        )

    def rims(self, model: Model) -> dict[str, bytes]:
        """The signed manifests for a model, by name."""
        return {
            name: sign_tag(tag, self.rim_chain)
            for name, tag in zip(model.rim_names, model.tags, strict=True)
        }

    def ocsp(self, chain: tuple[Party, ...], now: Instant) -> dict[str, bytes]:
        """A good answer for each of these but the last, by the SHA-256 of its certificate."""
        answers = {}
        for one, issuer in pairwise(chain):
            signer = responder(issuer, entropy=self.entropy, now=self.now)
            answers[hashlib.sha256(one.der).hexdigest()] = ocsp_response(
                one, issuer, signer, now=now
            )
        return answers

    def documents(self, devices: Iterable[SimulatedDevice], now: Instant) -> tuple[Document, ...]:
        """Everything that a verifier needs to judge these devices for a day from `now`."""
        rims: dict[str, bytes] = {}
        answers = self.ocsp(self.rim_chain, now)
        for device in devices:
            rims |= self.rims(device.model)
            answers |= self.ocsp(device.chain[1:], now)
        until = after(now, DAY)
        return (
            *(Document("nvidia-rim", name, data, until) for name, data in rims.items()),
            *(Document("nvidia-ocsp", name, data, until) for name, data in answers.items()),
        )

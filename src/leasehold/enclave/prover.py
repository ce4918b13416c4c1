"""Evidence about this instance, for the custodian and for consumers.

Quotes are slow, so all consumer nonces of one short window share one quote over their Merkle root
(docs/spec/binding.md, B-4): a crowd costs a constant number of quotes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import msgspec

from leasehold.core.binding import NONCE_BYTES, Binding, Purpose
from leasehold.core.crypto import SigningKey, TlsKey
from leasehold.core.evidence import Attester, DeviceAttester, Evidence, devices_digest
from leasehold.core.merkle import inclusion_proofs, leaf_hash
from leasehold.enclave.settings import Settings
from leasehold.errors import BadRequest, Internal, LeaseholdError, TooBusy

T = TypeVar("T")
RunBlocking = Callable[[Callable[[], T]], Awaitable[T]]
"""Runs a slow function beside the event loop: in a thread, or in place where time is simulated."""

WINDOW_SECONDS: Final = 0.02
WAITING_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class InstanceKeys:
    """Made at boot, never stored: the TLS key with its certificate, and the statement key."""

    tls: TlsKey
    certificate: str
    statement: SigningKey


@dataclass(frozen=True, slots=True)
class WindowProof:
    """Evidence over a window's Merkle root, and where one nonce stands in that tree."""

    evidence: Evidence
    root: bytes
    nonces: int
    index: int
    proof: tuple[bytes, ...]


@dataclass(slots=True)
class Prover:
    """Asks the platform for evidence over what `core.binding` says."""

    attester: Attester
    settings: Settings
    keys: InstanceKeys
    run_blocking: RunBlocking[Evidence]
    devices: DeviceAttester | None = None
    _waiting: list[tuple[bytes, asyncio.Future[WindowProof]]] = field(default_factory=list)
    _flushing: asyncio.Task[None] | None = None
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def for_custodian(self, nonce: bytes, kem_key: bytes) -> Evidence:
        """Evidence over the custodian's nonce and a fresh KEM key (B-2)."""
        return await self._quote(Purpose.CUSTODIAN, nonce, kem_key)

    async def for_consumer(self, nonce: bytes) -> WindowProof:
        """Evidence over a window that contains this nonce (B-4). Raises BadRequest, TooBusy."""
        if len(nonce) != NONCE_BYTES:
            raise BadRequest(about="nonce", got=len(nonce), expected=f"{NONCE_BYTES} bytes")
        if len(self._waiting) >= WAITING_MAX:
            raise TooBusy(about="evidence", got=len(self._waiting), expected=f"< {WAITING_MAX}")
        answer: asyncio.Future[WindowProof] = asyncio.get_running_loop().create_future()
        self._waiting.append((nonce, answer))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await answer

    async def _flush(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(WINDOW_SECONDS)
                window, self._waiting = self._waiting, []
                await self._answer(window)
        finally:
            self._flushing = None

    async def _answer(self, window: list[tuple[bytes, asyncio.Future[WindowProof]]]) -> None:
        head, proofs = inclusion_proofs([leaf_hash(nonce) for nonce, _ in window])
        try:
            evidence = await self._quote(Purpose.CONSUMER, head, b"")
            for index, (_, answer) in enumerate(window):
                if not answer.done():
                    found = WindowProof(evidence, head, len(window), index, proofs[index])
                    answer.set_result(found)
        except LeaseholdError as failure:
            for _, answer in window:
                if not answer.done():
                    answer.set_exception(failure.again())

    async def _quote(self, purpose: Purpose, nonce: bytes, kem_key: bytes) -> Evidence:
        binding = Binding(
            purpose,
            nonce,
            self.keys.tls.spki,
            self.keys.statement.public,
            kem_key,
            self.settings.custodian_root,
            self.settings.file,
        )
        async with self._one_at_a_time:
            try:
                return await self.run_blocking(lambda: self._attest(binding))
            except LeaseholdError:
                raise
            except Exception as mistake:  # noqa: BLE001 - a driver's text is the host's
                raise Internal(about="platform driver", got=type(mistake).__name__) from None

    def _attest(self, binding: Binding) -> Evidence:
        """Devices first: their evidence goes into the processor's report data (B-8)."""
        if self.devices is None:
            return self.attester.attest(binding.report_data())
        devices = self.devices.attest_devices(binding.device_nonce())
        whole = replace(binding, gpu_evidence=devices_digest(devices))
        evidence = self.attester.attest(whole.report_data())
        return msgspec.structs.replace(evidence, devices=devices)

"""One instance as a process: real wire, real clock, real worker, and the server for consumers.

What the borrower may choose is in `Hints`; all else comes from the measured configuration.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from leasehold.core.crypto import SigningKey, TlsKey
from leasehold.core.evidence import Attester
from leasehold.enclave import memory
from leasehold.enclave.attesters import open_attester, open_devices
from leasehold.enclave.boot import Enclave, Machine
from leasehold.enclave.child import Start
from leasehold.enclave.host import COMMAND, WorkerHost
from leasehold.enclave.loader import SealedLoader
from leasehold.enclave.log import JsonLog
from leasehold.enclave.prover import InstanceKeys
from leasehold.enclave.serve import Application
from leasehold.enclave.settings import Settings, parse_settings
from leasehold.enclave.wire import HttpsWire
from leasehold.errors import FileTrouble, NoModelYet, WorkerFailed
from leasehold.net.certificates import enclave_certificate
from leasehold.net.clock import SystemClock
from leasehold.net.servers import serving
from leasehold.net.tls import enclave_server_context

T = TypeVar("T")
FAREWELL_SECONDS: Final = 3.0
CONFIGURATION_BYTES_MAX: Final = 64 * 1024
_SWAPS: Final = Path("/proc/swaps")


@dataclass(frozen=True, slots=True)
class Hints:
    """The borrower's choices: where things are. None of them is trusted.

    `platform` tells the attester where its hardware is; `mirrors` are URLs or paths of the sealed
    model, tried before the custodian itself.
    """

    configuration: Path
    custodian_host: str
    custodian_port: int
    listen_host: str
    listen_port: int
    platform: str
    mirrors: tuple[str, ...] = ()


async def run_instance(hints: Hints, start_here: Start) -> None:
    """Run until SIGTERM, or until a stop is proved where the engine is in this process (W-29).

    `start_here` starts an engine in this process, where the configuration wants that. Raises FileTrouble,
    BadSetting, PortInUse, SwapOn, EngineNeedsProcess, and the custodian's refusal.
    """
    _no_core_dumps()
    settings = parse_settings(_read(hints.configuration))
    enclave: Enclave

    def worker_died(failure: WorkerFailed) -> None:
        enclave.machine.log.event("worker_died", code=failure.code)
        enclave.engine_lost()

    attester = open_attester(settings.attester, hints.platform)
    start = start_here if settings.unsafe_engine_in_process else None
    # W-30: what is simulated keeps no secret, and says so; it runs on anybody's machine.
    locks = has_swap() and not (settings.unsafe_swapped_weights or attester.simulated)
    if locks:
        memory.lock_process()
    command = (*COMMAND, "--lock") if locks else COMMAND
    host = WorkerHost(on_exit=worker_died, command=command, start=start)
    try:
        await host.prepare(settings.engine)  # beside all that comes before the model
        enclave = _enclave(hints, settings, host, attester, locks=locks)
        context = enclave_server_context(enclave.keys.certificate, enclave.keys.tls)
        where = (hints.listen_host, hints.listen_port)
        async with serving(Application(enclave), context, *where) as address:
            name = f"{address.host}:{address.port}"
            enclave.machine.log.event("listening", address=name, instance=enclave.instance)
            await _until_told(enclave)
    finally:
        await host.kill()


def _enclave(
    hints: Hints, settings: Settings, host: WorkerHost, attester: Attester, *, locks: bool
) -> Enclave:
    devices = open_devices(settings.devices)
    clock, entropy = SystemClock(), os.urandom
    log = JsonLog(clock, simulated=attester.simulated)
    tls = TlsKey.make(entropy)
    if settings.unsafe_engine_in_process:
        log.event("unsafe_engine_in_process")
    if has_swap():
        log.event("swap_on", state="locked" if locks else "unsafe")
    keys = InstanceKeys(tls, enclave_certificate(tls, entropy=entropy), SigningKey.make(entropy))
    wire = HttpsWire(hints.custodian_host, hints.custodian_port, settings, tls)
    machine = Machine(attester, wire, host, clock, entropy, log, _in_thread, devices)
    origin = f"https://{hints.custodian_host}:{hints.custodian_port}"
    unlocked = memory.allocate if settings.unsafe_engine_in_process else memory.create
    make = memory.create_locked if locks and unlocked is memory.create else unlocked
    loader = SealedLoader(host, settings, log, entropy, origin, hints.mirrors, make)
    return Enclave(settings, machine, keys, loader)


async def _until_told(enclave: Enclave) -> None:
    """Live, and go on answering refusals after a stop, until the host says to end."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    life = asyncio.create_task(enclave.run())
    waiting = asyncio.create_task(told.wait())
    try:
        await asyncio.wait([life, waiting], return_when=asyncio.FIRST_COMPLETED)
        if life.done():
            life.result()
            if (
                not enclave.settings.unsafe_engine_in_process
            ):  # W-29: else it ends, and its memory too
                await waiting
        elif enclave.ended is None:
            enclave.stop(NoModelYet(about="enclave", got="shutting down"), 0)
            with suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await asyncio.shield(life)
    finally:
        life.cancel()
        await enclave.loader.wipe()


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(CONFIGURATION_BYTES_MAX)
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause


def has_swap() -> bool:
    """W-30, T48: whether the kernel may write pages to a disk. No image of an enclave has swap."""
    # Gramine shows no such file, and pages of its enclaves are not swapped in clear.
    with suppress(OSError):
        return len(_SWAPS.read_text().splitlines()) > 1
    return False


def _no_core_dumps() -> None:
    """T48: what this process knows must not be written down by the kernel."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

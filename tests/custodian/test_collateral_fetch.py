"""Fetching over real HTTP: from honest vendors, and from everything that a wire may bring instead."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from leasehold.attest.assess import assess, assess_devices
from leasehold.attest.nvidia.chain import read_device_chain
from leasehold.attest.reference import Simulated
from leasehold.core.evidence import Evidence
from leasehold.core.units import DAY, MINUTE
from leasehold.custodian.collateral.fetch import open_web
from leasehold.custodian.collateral.intake import Family
from leasehold.custodian.collateral.services import Services
from leasehold.custodian.collateral.vendors import PUBLIC, Vendors
from leasehold.custodian.collateral.web import (
    PAUSE_SECONDS,
    PAUSE_SECONDS_MAX,
    Patience,
)
from leasehold.errors import (
    BadSetting,
    CollateralMismatch,
    CollateralMissing,
    CollateralRejected,
    CollateralRolledBack,
    FileTrouble,
    LeaseholdError,
    UntrustedRoot,
    VendorUnreachable,
)
from leasehold_simtee.hierarchy import FMSPC
from leasehold_simtee.machine import Machine
from leasehold_simtee.snp import Guest
from leasehold_simtee.vendors import NOT_FOUND, Reply

from .vendor_bench import Town, open_town

FAMILY = Family(FMSPC.hex(), "processor", "sgx")
NAME = f"sgx-{FMSPC.hex()}-processor"


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with open_town(tmp_path / "collateral") as town:
        yield town


# What is asked, and what comes of it -------------------------------------------------------------


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_a_set_is_fetched_from_a_pccs(town: Town, tee: Any) -> None:
    with town.fetcher() as fetcher:
        kept = fetcher.set(Family(FMSPC.hex(), "processor", tee))
    assert (
        kept.source
        == f"{town.address}/{tee}/certification/v4/tcb?fmspc=53494D554C41&update=standard"
    )
    assert kept.good_until == town.clock.now() + DAY
    said = town.folder.find(fmspc=FMSPC.hex(), ca="processor", tee=tee)
    assert said.collateral == kept.kept.collateral
    assert town.vendors.asked == [
        f"GET /{tee}/certification/v4/tcb?fmspc=53494D554C41&update=standard",
        f"GET /{tee}/certification/v4/qe/identity?update=standard",
        "GET /sgx/certification/v4/pckcrl?ca=processor&encoding=der",
        "GET /sgx/certification/v4/rootcacrl",
    ]


def test_the_early_update_and_the_lists_own_address_are_settings(town: Town) -> None:
    at = f"{town.address}/sgx/certification/v4/rootcacrl"
    early = msgspec.structs.replace(town.settings, update="early", root_crl=at)
    with town.fetcher(early) as fetcher:
        fetcher.set(FAMILY)
    assert any("update=early" in one for one in town.vendors.asked)


def test_the_older_header_and_plain_der_are_read_too(town: Town) -> None:
    def older(target: str, reply: Reply) -> Reply:
        chain = reply.headers.get("TCB-Info-Issuer-Chain")
        if chain is not None:
            return replace(reply, headers={"SGX-TCB-Info-Issuer-Chain": chain})
        if "rootcacrl" in target:
            return replace(reply, body=bytes.fromhex(reply.body.decode()))
        return reply

    town.spoil = older
    with town.fetcher() as fetcher:
        assert fetcher.set(FAMILY).origin.simulated


def test_judging_a_quote_fetches_what_that_takes(town: Town) -> None:
    machine = town.vendors.machine
    evidence = machine.attester(bytes(32)).attest(bytes(64))
    with town.fetcher() as fetcher:
        found = assess(
            evidence, fetcher, manifest=None, simulated=town.simulated, now=town.clock.now()
        )
    assert found.ends == town.clock.now() + DAY
    assert list(fetcher.fetched) == [NAME]


def test_judging_a_report_fetches_chain_list_and_key(town: Town) -> None:
    (chip,) = town.vendors.chips
    evidence = Evidence("snp", chip.attester(Guest()).attest(bytes(64)).quote)
    with town.fetcher() as fetcher:
        assess(evidence, fetcher, manifest=None, simulated=town.simulated, now=town.clock.now())
    kinds = [name[: name.index("-", len("amd-"))] for name in sorted(fetcher.fetched)]
    assert kinds == ["amd-chain", "amd-crl", "amd-vcek"]
    asked = [one for one in town.vendors.asked if "blSPL" in one]
    assert len(asked) == 1
    assert len([one for one in town.vendors.asked if "cert_chain" in one]) == 1


def test_judging_a_gpu_fetches_manifests_and_answers(town: Town) -> None:
    (device,) = town.vendors.devices
    evidence = device.evidence(bytes(32))
    now = town.clock.now()
    with town.fetcher() as fetcher:
        chain = read_device_chain(evidence.chain, evidence.kind, simulated=town.simulated, now=now)
        fetcher.knows(chain.revocable)
        found = assess_devices(
            (evidence,), fetcher, manifest=None, simulated=town.simulated, now=now
        )
    assert [one.code for one in found.findings] == ["simulated"]
    names = sorted(fetcher.fetched)
    assert len([one for one in names if one.startswith("nvidia-rim-")]) == 2
    assert len([one for one in names if one.startswith("nvidia-ocsp-")]) == 6


def test_nobody_is_asked_about_a_certificate_that_nobody_showed(town: Town) -> None:
    with town.fetcher() as fetcher, pytest.raises(CollateralMissing):
        fetcher.document("nvidia-ocsp", "00" * 32)
    assert town.vendors.asked == []


# Again -------------------------------------------------------------------------------------------


def fill(town: Town) -> int:
    """Keep one item of every kind; tells how many items there are."""
    (chip,), (device,), now = town.vendors.chips, town.vendors.devices, town.clock.now()
    with town.fetcher() as fetcher:
        fetcher.set(FAMILY)
        report = Evidence("snp", chip.attester(Guest()).attest(bytes(64)).quote)
        assess(report, fetcher, manifest=None, simulated=town.simulated, now=now)
        for name in device.model.rim_names:
            fetcher.document("nvidia-rim", name)
        for name in tuple(fetcher.pairs):
            fetcher.document("nvidia-ocsp", name)
    return len(fetcher.fetched)


def test_a_refresh_fetches_all_that_is_kept(town: Town) -> None:
    count = fill(town)
    town.pass_time(12 * 60 * MINUTE)
    with town.fetcher() as fetcher:
        found = fetcher.refresh()
    assert (len(found.done), found.failed) == (count, ())
    until = town.clock.now() + DAY
    for one in town.folder.items().values():
        assert one is not None
        assert until - 1000 <= one.good_until <= until  # OCSP counts in seconds
    assert NAME not in found.news


def test_a_refresh_tells_what_is_new(town: Town) -> None:
    fill(town)
    town.pass_time(MINUTE)
    town.vendors.say(status="OutOfDate", advisories=("INTEL-SA-1",))
    town.vendors.amd_crl_number = 2
    with town.fetcher() as fetcher:
        news = fetcher.refresh().news
    assert {NAME, "amd-crl-vcek-Milan"} <= set(news)
    assert "amd-chain-vcek-Milan" not in news


def test_one_failure_stops_no_other_and_takes_nothing_away(town: Town) -> None:
    count = fill(town)
    before = town.folder.items()
    town.pass_time(MINUTE)
    town.spoil = lambda target, reply: NOT_FOUND if "/tcb?" in target else reply
    with town.fetcher() as fetcher:
        found = fetcher.refresh()
    assert [one.name for one in found.failed] == [NAME]
    assert isinstance(found.failed[0].why, VendorUnreachable)
    assert len(found.done) == count - 1
    assert town.folder.items()[NAME] == before[NAME]


def test_without_named_roots_nothing_simulated_is_asked_for(town: Town) -> None:
    fill(town)
    asked = len(town.vendors.asked)
    with town.fetcher(msgspec.structs.replace(town.settings, simulated=None)) as fetcher:
        assert fetcher.refresh().done == ()
    assert len(town.vendors.asked) == asked


# A hostile wire ----------------------------------------------------------------------------------


def test_older_numbers_are_refused_and_change_nothing(town: Town) -> None:
    town.vendors.say(evaluation=30, crl_number=30)
    with town.fetcher() as fetcher:
        fetcher.set(FAMILY)
    for old in ({"evaluation": 29}, {"crl_number": 29}):
        town.vendors.say(**({"evaluation": 30, "crl_number": 30} | old))
        with town.fetcher() as fetcher, pytest.raises(CollateralRolledBack):
            fetcher.set(FAMILY)
    assert town.folder.find(fmspc=FMSPC.hex(), ca="processor", tee="sgx").evaluation == 30


def test_a_thief_with_the_highest_numbers_raises_no_mark(town: Town) -> None:
    with town.fetcher() as fetcher:
        fetcher.set(FAMILY)
    honest = town.vendors.machine
    town.vendors.machine = Machine.create(lambda size: bytes([7]) * size, town.clock.now())
    settings = msgspec.structs.replace(
        town.settings, simulated=Simulated(root_sha256=honest.root_sha256)
    )
    town.vendors.say(evaluation=10**12, crl_number=10**12)
    with town.fetcher(settings) as fetcher, pytest.raises(UntrustedRoot):
        fetcher.set(FAMILY)
    assert town.folder.version() == 1


def test_an_answer_about_another_family_is_refused(town: Town) -> None:
    town.spoil = lambda target, reply: (
        town.vendors._intel("sgx", "tcb", {"fmspc": FMSPC.hex()}) if "/tcb?" in target else reply
    )
    with town.fetcher() as fetcher, pytest.raises(CollateralMismatch):
        fetcher.set(Family("00" * 6, "processor", "sgx"))
    assert town.folder.items() == {}


def without(header: str) -> Callable[[str, Reply], Reply]:
    return lambda _, reply: replace(
        reply, headers={name: value for name, value in reply.headers.items() if name != header}
    )


def body(part: str, change: Callable[[bytes], bytes]) -> Callable[[str, Reply], Reply]:
    return lambda target, reply: (
        replace(reply, body=change(reply.body)) if part in target else reply
    )


DEEP = b'{"tcbInfo":{"a":' + b"[" * 99_999 + b'},"signature":"' + b"0" * 128 + b'"}'
BROKEN: dict[str, Callable[[str, Reply], Reply]] = {
    "no chain": without("TCB-Info-Issuer-Chain"),
    "no list's chain": without("SGX-PCK-CRL-Issuer-Chain"),
    "no identity's chain": without("SGX-Enclave-Identity-Issuer-Chain"),
    "garbage": body("/tcb?", lambda _: b"\x00\xff" * 50),
    "empty": body("/tcb?", lambda _: b""),
    "truncated": body("/tcb?", lambda data: data[: len(data) // 2]),
    "reformatted": body("/tcb?", lambda data: json.dumps(json.loads(data), indent=1).encode()),
    "deep": body("/tcb?", lambda _: DEEP),
    "identity for tcb": body(
        "/qe/identity", lambda data: data.replace(b"enclaveIdentity", b"tcbInfo")
    ),
    "list of garbage": body("/pckcrl", lambda _: b"garbage"),
    "list in odd hex": body("/rootcacrl", lambda data: data[:-1]),
    "a forged status": body("/tcb?", lambda data: data.replace(b"UpToDate", b"UpToDatf")),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_answer_is_refused_and_leaves_nothing(town: Town, how: str) -> None:
    town.spoil = BROKEN[how]
    with town.fetcher() as fetcher, pytest.raises(CollateralRejected):
        fetcher.set(FAMILY)
    assert town.folder.items() == {}


def test_manifests_that_are_none_are_refused(town: Town) -> None:
    name = town.vendors.devices[0].model.rim_names[0]
    for data in (b"", b"{}", b'{"rim":3}', b'{"rim":"!"}', b'{"rim":"AAAA"}', b"[" * 99_999):
        town.spoil = body("/rim/", lambda _, data=data: data)  # type: ignore[misc]
        with town.fetcher() as fetcher, pytest.raises(CollateralRejected):
            fetcher.document("nvidia-rim", name)
    with town.fetcher() as fetcher, pytest.raises(CollateralRejected):
        fetcher.document("nvidia-rim", "../etc")


def test_a_redirect_is_not_followed(town: Town) -> None:
    elsewhere = {"Location": "https://elsewhere.example/"}
    town.spoil = lambda _, __: Reply(b"", 302, elsewhere)
    with town.fetcher() as fetcher, pytest.raises(VendorUnreachable, match="302"):
        fetcher.set(FAMILY)
    assert len(town.vendors.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_plain_no_is_not_asked_again(town: Town, status: int) -> None:
    town.spoil = lambda _, __: Reply(b"no", status)
    with town.fetcher() as fetcher, pytest.raises(VendorUnreachable, match=str(status)) as refused:
        fetcher.set(FAMILY)
    assert "/tcb?" in refused.value.message
    assert (len(town.vendors.asked), town.pauses) == (1, [])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_asked_again_with_growing_pauses(town: Town, status: int) -> None:
    town.spoil = lambda _, __: Reply(b"", status)
    with town.fetcher() as fetcher, pytest.raises(VendorUnreachable, match=str(status)):
        fetcher.set(FAMILY)
    assert len(town.vendors.asked) == 4
    assert [1 <= pause / PAUSE_SECONDS / 2**at < 2 for at, pause in enumerate(town.pauses)] == [
        True
    ] * 3


def test_a_service_may_ask_for_patience_but_not_for_ever(town: Town) -> None:
    for told, least in (("7", 7.0), ("99999", PAUSE_SECONDS_MAX), ("soon", 0.0), ("-5", 0.0)):
        town.pauses.clear()
        town.spoil = lambda _, __, told=told: Reply(b"", 503, {"Retry-After": told})  # type: ignore[misc]
        with town.fetcher() as fetcher, pytest.raises(VendorUnreachable):
            fetcher.set(FAMILY)
        assert all(least <= pause <= PAUSE_SECONDS_MAX for pause in town.pauses)


def test_it_comes_back_and_all_is_well(town: Town) -> None:
    bad = [Reply(b"", 503), Reply(b"", 429)]
    town.spoil = lambda _, reply: bad.pop() if bad else reply
    with town.fetcher() as fetcher:
        assert fetcher.set(FAMILY).name == NAME
    assert len(town.pauses) == 2


def test_a_huge_answer_is_cut_off(town: Town) -> None:
    town.patience = Patience(answer_bytes=100)
    with town.fetcher() as fetcher, pytest.raises(VendorUnreachable, match="100 bytes"):
        fetcher.set(FAMILY)


def test_compressed_answers_were_not_asked_for(town: Town) -> None:
    town.spoil = lambda _, reply: replace(
        reply, headers={**reply.headers, "Content-Encoding": "gzip"}
    )
    with town.fetcher() as fetcher, pytest.raises(VendorUnreachable, match="gzip"):
        fetcher.set(FAMILY)


def test_headers_without_end_are_refused(town: Town) -> None:
    town.spoil = lambda _, reply: replace(reply, headers={**reply.headers, "X": "x" * 200_000})
    with town.fetcher() as fetcher, pytest.raises(VendorUnreachable):
        fetcher.set(FAMILY)


@pytest.fixture
def mute() -> Iterator[Callable[[bytes], str]]:
    """A server that says what it is given to everybody, and then nothing."""
    socks: list[socket.socket] = []

    def start(said: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        socks.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                socks.append(connection)
                connection.recv(65536)
                connection.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for one in socks:
        one.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"no HTTP at all\r\n\r\n",
    ],
)
def test_silence_and_nonsense_end(town: Town, mute: Callable[[bytes], str], said: bytes) -> None:
    town.patience = Patience(attempts=2, timeout=0.1)
    settings = msgspec.structs.replace(town.settings, pcs=mute(said))
    with town.fetcher(settings) as fetcher, pytest.raises(VendorUnreachable):
        fetcher.set(FAMILY)
    assert len(town.pauses) == 1


def test_an_answer_that_drips_ends_as_well(town: Town) -> None:
    town.patience = Patience(attempts=2, total=0.0)
    with town.fetcher() as fetcher, pytest.raises(VendorUnreachable, match="no end"):
        fetcher.set(FAMILY)


def test_headers_that_drip_end_as_well(town: Town) -> None:
    """No timeout of silence ever ends them: each octet comes in time."""

    def drip() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # the client cuts it
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while True:
                    connection.sendall(b"x")
                    threading.Event().wait(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        town.patience = Patience(attempts=2, timeout=5.0, total=0.2)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = msgspec.structs.replace(town.settings, pcs=address)
        with town.fetcher(settings) as fetcher, pytest.raises(VendorUnreachable, match="no end"):
            fetcher.set(FAMILY)
        dripping.join()
    assert len(town.pauses) == 1


def test_nobody_there(town: Town) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings = msgspec.structs.replace(town.settings, pcs=f"http://127.0.0.1:{port}")
    with town.fetcher(settings) as fetcher, pytest.raises(VendorUnreachable, match="Connect"):
        fetcher.set(FAMILY)


def test_a_server_whose_certificate_nobody_vouches_for(town: Town) -> None:
    secure = town.address.replace("http://", "https://")
    town.patience = Patience(attempts=1)
    settings = msgspec.structs.replace(town.settings, pcs=secure)
    with town.fetcher(settings) as fetcher, pytest.raises(VendorUnreachable):
        fetcher.set(FAMILY)


# Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "http://pcs.example",
        "ftp://pcs.example",
        "pcs.example",
        "https://",
        "https://user@pcs.example",
        "https://pcs.example/?a=b",
        "https://pcs.example:99999",
        "https://pcs.example/#x",
        "https://[::1",
    ],
)
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(BadSetting):
        Vendors(pcs=address)


def test_the_public_addresses_are_addresses_and_refreshing_is_on() -> None:
    assert PUBLIC.refresh_minutes == 240
    assert all(
        getattr(PUBLIC, name).startswith("https://") for name in ("pcs", "kds", "rim", "ocsp")
    )


def test_what_has_no_address_is_not_asked(town: Town) -> None:
    with town.fetcher(Vendors(simulated=town.simulated)) as fetcher:
        asks: list[Callable[[], object]] = [
            lambda: fetcher.set(FAMILY),
            lambda: fetcher.document("amd-chain", "vcek-Milan"),
            lambda: fetcher.document("nvidia-rim", "NV_X"),
        ]
        for ask in asks:
            with pytest.raises(BadSetting, match="no address"):
                ask()


def test_authorities_of_its_own(town: Town, tmp_path: Path) -> None:
    with pytest.raises(FileTrouble):
        open_web(Vendors(ca_file=str(tmp_path / "none.pem")))
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(LeaseholdError):
        open_web(Vendors(ca_file=str(tmp_path / "bad.pem")))
    with open_web(Vendors(proxy=town.address)) as web:
        assert Services(Vendors(), web)

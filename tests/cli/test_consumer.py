"""The consumers' commands against enclaves over real TLS: what they print, where, and their exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from consumer.server import TlsServer
from consumer.world import API_KEY, DIGEST, MODEL, OTHER_MEASUREMENT, WORDS, FakeEnclave, World
from leasehold.cli import main, output
from leasehold.consumer.clock import SystemClock
from leasehold.custodian.reconciliation import parse_receipts
from leasehold.errors import BudgetExhausted

TEXT = "".join(WORDS)


class Shell:
    """Runs `leasehold` the way a user with a manifest and a key does."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.world = World(clock=SystemClock())
        self._stack = stack
        self.manifest = folder / "manifest.toml"
        self.manifest.write_bytes(self.world.manifest())
        self.server: TlsServer | None = None
        self.environment = {"LEASEHOLD_API_KEY": API_KEY, "LEASEHOLD_MANIFEST": str(self.manifest)}

    def serve(self, enclave: FakeEnclave) -> TlsServer:
        """Serve an enclave, and point the shell at it."""
        self.server = self._stack.enter_context(TlsServer(enclave))
        self.environment["LEASEHOLD_ENCLAVE"] = self.server.address
        return self.server

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        """One command."""
        if self.server is None:
            self.serve(self.world.enclave())
        result = CliRunner(env=self.environment).invoke(main, arguments, input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in a world of its own."""
    with ExitStack() as stack:
        yield Shell(tmp_path, stack)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is a terminal."""
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")


def test_ask_prints_the_answer_and_nothing_else(shell: Shell) -> None:
    result = shell.run("ask", "How many eggs?")
    assert (result.exit_code, result.stdout) == (0, TEXT + "\n")
    assert result.stderr.startswith("SIMULATED: ")


def test_ask_reads_the_question_from_a_pipe(shell: Shell) -> None:
    enclave = shell.world.enclave()
    shell.serve(enclave)
    how = ("--system", "Be brief.", "--max-tokens", "7", "--temperature", "0")
    shell.run("ask", "-", *how, stdin="From a pipe?")
    (body,) = (json.loads(body) for body in enclave.asked)
    assert [turn["content"] for turn in body["messages"]] == ["Be brief.", "From a pipe?"]
    assert (body["max_tokens"], body["temperature"]) == (7, 0)
    assert "stream" not in body


def test_ask_streams_to_a_terminal(shell: Shell, terminal: None) -> None:
    enclave = shell.world.enclave()
    shell.serve(enclave)
    result = shell.run("ask", "How many eggs?")
    assert result.stdout == TEXT + "\n"
    assert "5 tokens in, 4 out; receipt receipt-1" in result.stderr
    assert json.loads(enclave.asked[0])["stream"] is True


def test_ask_does_not_stream_where_told(shell: Shell, terminal: None) -> None:
    enclave = shell.world.enclave()
    shell.serve(enclave)
    assert shell.run("ask", "--no-stream", "How many eggs?").stdout == TEXT + "\n"
    assert "stream" not in json.loads(enclave.asked[0])


def test_ask_as_json(shell: Shell) -> None:
    assert json.loads(shell.run("ask", "--json", "--stream", "Eggs?").stdout) == {
        "text": TEXT,
        "finish_reason": "stop",
        "code": None,
        "input_tokens": 5,
        "output_tokens": 4,
        "receipt": "receipt-1",
        "simulated": True,
    }


def test_ask_says_why_an_answer_was_cut(shell: Shell) -> None:
    shell.serve(shell.world.enclave(code="insufficient_quota"))
    result = shell.run("ask", "Eggs?")
    assert result.exit_code == 0
    assert "[insufficient_quota]" in result.stderr
    assert "request-more" in result.stderr


def test_receipts_are_collected_for_reconciliation(shell: Shell, tmp_path: Path) -> None:
    """R-5: every answer appends one signed line."""
    path = tmp_path / "receipts"
    assert shell.run("ask", "Eggs?", "--receipts", str(path)).exit_code == 0
    assert shell.run("ask", "Eggs?", "--receipts", str(path)).exit_code == 0
    kept = parse_receipts(path.read_bytes())
    assert len(kept) == 2
    assert {one.kind for one in kept} == {"leasehold-receipt"}
    assert shell.run("ask", "Eggs?", "--receipts", str(tmp_path)).exit_code == 2


def test_ask_keeps_a_checked_receipt(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    assert shell.run("ask", "Eggs?", "--receipt", str(path)).exit_code == 0
    kept = json.loads(path.read_bytes())
    assert kept["content_checked"] is True
    assert kept["receipt"]["units"] == 9
    assert kept["signed"]["kind"] == "leasehold-receipt"
    assert shell.run("ask", "Eggs?", "--receipt", str(tmp_path)).exit_code == 5


def test_a_refusal_is_one_line_with_its_code(shell: Shell) -> None:
    shell.serve(shell.world.enclave(refuses=BudgetExhausted(got=0)))
    result = shell.run("ask", "Eggs?")
    assert (result.exit_code, result.stdout) == (4, "")
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error [insufficient_quota]: The budget does not cover this request.")


def test_a_bad_enclave_gets_no_key_and_no_question(shell: Shell) -> None:
    server = shell.serve(shell.world.enclave(measurement=OTHER_MEASUREMENT))
    result = shell.run("ask", "What ails my employer?")
    assert result.exit_code == 3
    assert result.stderr.startswith("error [wrong_measurement]: ")
    (request,) = server.received
    assert b"employer" not in request
    assert API_KEY.encode() not in request


def test_embed_prints_a_line_for_each_text(shell: Shell) -> None:
    assert shell.run("embed", "a", "b").stdout == "0 0.5\n1 0.5\n"
    assert json.loads(shell.run("embed", "--json", "a").stdout)["vectors"] == [[0.0, 0.5]]


def test_budget_in_a_pipe_and_as_json(shell: Shell) -> None:
    assert shell.run("budget").stdout.splitlines() == [
        "consumer: alice",
        "loan: loan-1",
        "granted: 1,000",
        "available: 1,000",
        "outstanding: 0",
        "settled: 0",
        "written off: 0",
        "one unit: 1 unit per input or output token",
    ]
    assert json.loads(shell.run("budget", "--json").stdout)["available"] == 1000


def test_budget_at_a_terminal_is_a_table(shell: Shell, terminal: None) -> None:
    result = shell.run("budget")
    assert "Budget" in result.stdout
    assert "│ available" in result.stdout


@pytest.mark.parametrize(
    ("verdict", "after", "status", "sentence"),
    [
        ("approved", 0, 0, "Request 7 for 100 units is approved: 50 units more. Reason: as agreed"),
        ("denied", 0, 4, "Request 7 for 100 units is denied. Reason: as agreed"),
        ("denied", 1, 4, "Request 7 for 100 units is denied. Reason: as agreed"),
        (
            "approved",
            9,
            0,
            "Request 7 for 100 units is with the custodian; nobody has decided yet.",
        ),
    ],
)
def test_request_more(shell: Shell, verdict: str, after: int, status: int, sentence: str) -> None:
    shell.serve(shell.world.enclave(verdict=verdict, decides_after=after))
    result = shell.run("request-more", "100", "--reason", "a report", "--wait", "5")
    assert (result.exit_code, result.stdout) == (status, sentence + "\n")


def test_request_more_as_json_and_without_a_reason(shell: Shell) -> None:
    answer = json.loads(shell.run("request-more", "100", "--reason", "r", "--json").stdout)
    assert (answer["request"], answer["status"]) == (7, "approved")
    assert shell.run("request-more", "100").exit_code == 2
    assert shell.run("request-more", "0", "--reason", "r").exit_code == 2


def test_verify_explains_the_verdict_and_needs_no_key(shell: Shell) -> None:
    del shell.environment["LEASEHOLD_API_KEY"]
    result = shell.run("verify")
    assert result.exit_code == 0
    assert result.stderr.startswith("SIMULATED: ")
    text = result.stdout
    for expected in (
        "is verified.",
        "SIMULATED SGX; patch level UpToDate",
        "11" * 32,
        shell.world.machine.platform_id,
        f"Model: {MODEL} (SHA-256 {DIGEST}) of loan loan-1.",
        shell.world.custodian.public.hex(),
        "until 20",
    ):
        assert expected in text
    assert shell.server is not None
    assert len(shell.server.received) == 1


def test_verify_as_json(shell: Shell) -> None:
    verdict = json.loads(shell.run("verify", "--json").stdout)
    assert verdict["simulated"] is True
    assert verdict["trust"] == "simulation"
    assert verdict["measurements"]["MRENCLAVE"] == "11" * 32
    assert verdict["custodian"] == shell.world.custodian.public.hex()
    assert verdict["expires"] > verdict["verified_at"]


def test_the_custodian_can_be_named(shell: Shell) -> None:
    known = shell.world.custodian.public.hex()
    assert shell.run("verify", "--custodian", known).exit_code == 0
    result = shell.run("verify", "--custodian", "00" * 32)
    assert (result.exit_code, result.stderr.split(":")[0]) == (3, "error [wrong_custodian]")
    assert shell.run("verify", "--custodian", "no hex").exit_code == 2


def test_a_key_comes_from_a_file_or_the_environment(shell: Shell, tmp_path: Path) -> None:
    del shell.environment["LEASEHOLD_API_KEY"]
    result = shell.run("budget")
    assert (result.exit_code, result.stderr.split(":")[0]) == (4, "error [invalid_api_key]")
    assert "LEASEHOLD_API_KEY" in result.stderr
    path = tmp_path / "key"
    assert shell.run("budget", "--key-file", str(path)).exit_code == 5
    path.write_text(API_KEY + "\n")
    assert shell.run("budget", "--key-file", str(path)).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (("--manifest", "/nowhere/manifest.toml"), "file_trouble", 5),
        (("--enclave", "http://127.0.0.1:1"), "bad_address", 2),
        (("--enclave", "127.0.0.1:1"), "enclave_unreachable", 5),
    ],
)
def test_what_cannot_be_reached(
    shell: Shell, arguments: tuple[str, ...], code: str, status: int
) -> None:
    result = shell.run("verify", *arguments)
    assert result.exit_code == status
    assert result.stderr.startswith(f"error [{code}]: ")

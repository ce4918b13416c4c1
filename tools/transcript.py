"""Keep the README's transcript of the demo true.

python tools/transcript.py            run the demo and write what it prints into README.md
python tools/transcript.py --check    run the demo and compare, numbers and names of the run masked
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MARKS = ("<!-- transcript -->", "<!-- /transcript -->")
MASKS = (
    (re.compile(r"\b[0-9a-f]{16,}\b"), "HEX"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"\.\.\.'.*'"), "WORDS"),
    (re.compile(r"\d[\d,.]*"), "N"),
    (re.compile(r" +"), " "),
)


class OtherStory(Exception):
    """The demo failed; with what it printed."""


def play() -> str:
    """Run the demo; what it printed. Raises OtherStory where one of its claims is false."""
    done = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OtherStory(f"{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def mask(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, name in MASKS:
        text = pattern.sub(name, text)
    return text


def written() -> str:
    """The transcript in the README."""
    _, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    inside, _, _ = rest.partition(MARKS[1])
    return inside.strip().removeprefix("```text").removesuffix("```").strip()


def write(transcript: str) -> None:
    """Put a transcript into the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    block = f"{MARKS[0]}\n```text\n{transcript}\n```\n{MARKS[1]}"
    README.write_text(before + block + after, encoding="utf-8")


if __name__ == "__main__":
    told = play()
    if "--check" in sys.argv:
        raise SystemExit(0 if mask(told) == mask(written()) else "README.md tells another story")
    write(told)

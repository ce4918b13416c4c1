"""A command at a terminal: what a person sees, and what they type when they are asked."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping


def at_terminal(*words: object, answers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run `leasehold WORDS`; type an answer for each question that appears. Exit status and screen."""
    waiting = dict(answers or {})
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from leasehold.cli import main; main()"),
            *(str(word) for word in words),
        ],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said = ""
    try:
        while data := os.read(mine, 4096):
            said += data.decode("utf-8", "replace")
            for question in [one for one in waiting if one in said]:
                os.write(mine, waiting.pop(question).encode() + b"\n")
    except OSError:  # how a terminal says that the other end is gone
        os.close(mine)
    assert not waiting, said
    return process.wait(30), said

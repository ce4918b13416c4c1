"""The README tells what the demo prints; the demo itself fails where one of its claims is false."""

from __future__ import annotations

from tools.transcript import mask, play, written


def test_the_readme_tells_the_story_that_the_demo_tells() -> None:
    assert mask(play()) == mask(written())

"""Writes docs/openapi/: `python -m tools.openapi`."""

from tools.openapi.pages import render

for path, text in render().items():
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")

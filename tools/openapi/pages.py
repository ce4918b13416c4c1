"""The two documents as the files of docs/openapi/; a test asserts that they are what this gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tools.openapi import custodian, enclave

FOLDER: Final = Path(__file__).parents[2] / "docs" / "openapi"


def render() -> dict[Path, str]:
    """The text of each file."""
    documents = {"enclave": enclave.describe(), "custodian": custodian.describe()}
    return {
        FOLDER / f"{name}.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        for name, content in documents.items()
    }

"""The texts of C2SP that enclaves sign and check; the rest of that format is `custodian/ledger/notes.py`.

Sources: C2SP tlog-checkpoint and tlog-cosignature. Their first lines keep them apart from every frame of
`encoding.frame`, so an instance's statement key may sign a cosignature (docs/spec/witness.md, J-2).
"""

from __future__ import annotations

from leasehold.core.encoding import b64


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """Three lines: origin, size, root in base64: what a log signs."""
    return f"{origin}\n{size}\n{b64(root)}\n"


def cosigned_text(text: str, seconds: int) -> bytes:
    """What a witness signs who has seen the checkpoint of this text: `cosignature/v1`."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()

"""A PKCS#11 token to test with: SoftHSM, which is software and behaves as hardware modules do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

MODULES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
LABEL: Final = "leasehold"
PIN: Final = "canary-of-the-pin"


def module() -> str:
    """SoftHSM's library. It is no Python package: the distribution installs it."""
    found = next((path for path in MODULES if Path(path).exists()), None)
    assert found is not None, "install softhsm2 first: apt-get install softhsm2"
    return found


def make_token(folder: Path) -> None:
    """A token with one AES key that never leaves it. Once for each process: SoftHSM reads its settings once."""
    tool = shutil.which("softhsm2-util")
    assert tool is not None, "install softhsm2 first: apt-get install softhsm2"
    (folder / "tokens").mkdir(parents=True)
    settings = folder / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(settings)
    words = ("--init-token", "--free", "--label", LABEL, "--so-pin", "0" * 8, "--pin", PIN)
    subprocess.run([tool, *words], check=True, capture_output=True)
    make_key("kek")


def make_key(label: str) -> None:
    """An AES-256 key on the token."""
    import pkcs11

    token = pkcs11.lib(module()).get_token(token_label=LABEL)
    with token.open(rw=True, user_pin=PIN) as session:
        template = {pkcs11.Attribute.EXTRACTABLE: False, pkcs11.Attribute.SENSITIVE: True}
        session.generate_key(pkcs11.KeyType.AES, 256, label=label, store=True, template=template)

"""The table `[keys]` of custodian.toml, and the ring that it describes.

Spec: docs/spec/keys.md, Y-4 and Y-9. Refuses to hold a secret: it says where secrets are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from leasehold.custodian.private_files import read_private, read_text
from leasehold.custodian.wrapping.passphrase import PassphraseKeeper
from leasehold.custodian.wrapping.ring import Keeper, KeyRing
from leasehold.custodian.wrapping.token import TokenKeeper
from leasehold.custodian.wrapping.transit import TransitKeeper
from leasehold.errors import BadSetting
from leasehold.net.tls import public_context

Ask = Callable[[str], str]
"""Asks a person for a secret, by the name of what is wanted."""

PASSPHRASE: Final = "passphrase of the custodian's keys"  # noqa: S105  what to ask for
PIN: Final = "PIN of the token"
TOKEN: Final = "token of the key service"  # noqa: S105  what to ask for


class TokenTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`keys.pkcs11`: the library, the token's label, the label of an AES key on it, a file with the PIN."""

    module: str
    token: str
    key: str
    pin_file: str = ""


class TransitTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`keys.vault`: a transit key, a file with the access token, and perhaps a CA of one's own."""

    address: str
    key: str
    mount: str = "transit"
    namespace: str = ""
    token_file: str = ""
    ca_file: str = ""


class KeysTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`keys`: who wraps new keys, and how to reach everybody who wrapped one."""

    wrap: Literal["none", "passphrase", "pkcs11", "vault"] = "none"
    passphrase_file: str = ""
    pkcs11: TokenTable | None = None
    vault: TransitTable | None = None


def open_ring(
    folder: Path, table: KeysTable, *, ask: Ask | None = None, is_lenient: bool = False
) -> KeyRing:
    """The ring of a custodian's folder; nobody is asked for anything yet.

    Files are taken from the folder where their paths are relative. Raises BadSetting.
    """
    keepers: dict[str, Keeper] = {
        "passphrase": PassphraseKeeper(secret(folder, table.passphrase_file, PASSPHRASE, ask))
    }
    if (token := table.pkcs11) is not None:
        pin = secret(folder, token.pin_file, PIN, ask)
        keepers["pkcs11"] = TokenKeeper(token.module, token.token, token.key, pin)
    if (vault := table.vault) is not None:
        ca = read_text(folder / vault.ca_file) if vault.ca_file else None
        keepers["vault"] = TransitKeeper(
            vault.address,
            vault.mount,
            vault.key,
            secret(folder, vault.token_file, TOKEN, ask),
            public_context(ca),
            vault.namespace,
        )
    if table.wrap != "none" and table.wrap not in keepers:
        raise BadSetting(about="keys.wrap", got=table.wrap, expected=f"a table [keys.{table.wrap}]")
    return KeyRing(folder, table.wrap, keepers, is_lenient)


def secret(folder: Path, file: str, name: str, ask: Ask | None) -> Callable[[], str]:
    """Y-9: from a file for one account alone, else from a person, else a refusal."""

    def find() -> str:
        if file:
            found = read_private(folder / file).decode("utf-8", "replace").rstrip("\r\n")
            if not found:
                raise BadSetting(about=folder / file, got="an empty file", expected=name)
            return found
        if ask is None:
            raise BadSetting(about="[keys] of custodian.toml", expected=f"a file with the {name}")
        return ask(name)

    return find

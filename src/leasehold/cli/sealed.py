"""`leasehold sealed`: look at a sealed file, and verify it, wherever it lies.

Looking needs no key. Verifying needs the custodian's root key, which is public; with the model key too,
every byte is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from leasehold.cli import output
from leasehold.cli.access import as_json, read_bytes, unlock, write_bytes
from leasehold.core.encoding import unhex
from leasehold.core.sealed import SealedHeader
from leasehold.core.streaming import KEY_BYTES
from leasehold.custodian.model_signing import SignerKey, check_model_signature, signer_hint
from leasehold.custodian.private_files import read_seed
from leasehold.custodian.release import FolderKeys
from leasehold.custodian.sealed_file import Claim, Progress, read_claim, verify_sealed
from leasehold.custodian.settings import read_keys
from leasehold.errors import BadSetting, BadSignature, UnknownThing

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_STEPS: Final = 1000
_root_option = click.option(
    "--root", metavar="HEX", help="The custodian's root key, as you know it from elsewhere."
)


@click.group()
def command() -> None:
    """Look at sealed models, and verify them."""


@command.command()
@click.argument("file", type=_FILE)
@_root_option
@as_json
def inspect(*, file: Path, root: str | None, as_json: bool) -> None:
    """Say what the sealed FILE is. Needs no key; without --root nobody vouches for what it says."""
    claim = read_claim(file)
    if root is not None:
        claim.check(_root(root))
    shown = _describe(claim, root)
    if as_json:
        output.write_json(shown | {"files": _files(claim.header)})
        return
    output.write_fields("Sealed model", shown)
    write_digests(claim.header)
    if root is None:
        output.write_note("The signature was not checked: give --root.")
    if not claim.is_whole:
        output.write_note(
            f"The file is not whole: {claim.length:,} of {claim.sealed_bytes:,} bytes."
        )


@command.command()
@click.argument("file", type=_FILE)
@_root_option
@click.option("--model-key", "key_file", type=_FILE, help="A file with the model key in hex.")
@click.option(
    "--custodian",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take root key and model key from this custodian's folder.",
)
@click.option(
    "--model-signer", "signer", type=_FILE, help="Also want a model signature under this key (PEM)."
)
def verify(
    *,
    file: Path,
    root: str | None,
    key_file: Path | None,
    folder: Path | None,
    signer: Path | None,
) -> None:
    """Verify the sealed FILE: the signature and its length; with the model key also every byte.

    Prints the model digest and nothing else where all is good.
    """
    if (root is None) == (folder is None):
        raise BadSetting(about="sealed verify", expected="either --root HEX or --custodian DIR")
    if folder is not None:
        ring = unlock(folder)
        public, name = read_keys(folder, ring=ring).root.public, read_claim(file).header.name
        key = None if key_file else FolderKeys(folder / "models", ring).find(name)
    else:
        public, key = _root(root), None
    if key_file is not None:
        key = read_seed(key_file, KEY_BYTES)
    maker = None if signer is None else SignerKey.load(read_bytes(signer))
    with progress("Verifying") as tell:
        model = verify_sealed(file, root_public=public, model_key=key, on_progress=tell)
    if maker is not None:
        _check_maker(model.header, maker)
    click.echo(model.digest.hex())
    if key is None:
        output.write_note(
            "Signature and length are good; the contents were not checked, for want of the model key."
        )


@command.command()
@click.argument("file", type=_FILE)
@click.option("--out", type=_FILE, help="Default: standard output.")
def signature(*, file: Path, out: Path | None) -> None:
    """Write out the model signature in FILE, for the OpenSSF's own tool; nothing is checked."""
    found = read_claim(file).header.model_signature
    if not found:
        raise UnknownThing(about=f"model signature in {file}")
    write_bytes(out, found)


def _check_maker(header: SealedHeader, maker: SignerKey) -> None:
    if not header.model_signature:
        raise BadSignature(about="model signature", got="none", expected=f"key {maker.hint}")
    check_model_signature(header.model_signature, header.files, signer=maker)


def show_signature(header: SealedHeader) -> str:
    """Whose model signature a header carries; not a word on whether it is good."""
    return f"key {signer_hint(header.model_signature)}" if header.model_signature else "none"


def write_digests(header: SealedHeader) -> None:
    """The list of files that the custodian signs."""
    rows = [(file.name, file.size, file.sha256) for file in header.files]
    output.write_rows("Files", ("name", "bytes", "sha256"), rows)


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A bar on a terminal, and nothing elsewhere."""
    with click.progressbar(length=_STEPS, label=label, hidden=not output.is_terminal()) as bar:
        yield lambda done, total: bar.update(_STEPS * done // max(1, total) - bar.pos)


def _root(text: str | None) -> bytes:
    return unhex(text or "", about="--root", size=32)


def _describe(claim: Claim, root: str | None) -> dict[str, Any]:
    """Texts that nobody checked may hold what a terminal would obey."""
    header = claim.header
    texts = {name: getattr(header, name) for name in ("name", "version", "engine", "licence")}
    return {
        **{name: _printable(text) for name, text in texts.items()},
        "digest": claim.digest.hex(),
        "signed by": f"root {root}" if root else "not checked",
        "model signature": _printable(show_signature(header)),
        "sealed bytes": claim.sealed_bytes,
        "bytes": sum(file.size for file in header.files),
        "whole": claim.is_whole,
    }


def _files(header: SealedHeader) -> list[dict[str, object]]:
    return [
        {"name": file.name, "bytes": file.size, "sha256": file.sha256.hex()}
        for file in header.files
    ]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)

"""`leasehold seal`: turn a model's folder into one sealed file in the custodian's models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from leasehold.cli import output
from leasehold.cli.access import ask_secret, folder_option, read_bytes, unlock
from leasehold.cli.sealed import progress, show_signature, write_digests
from leasehold.core.sealed import SealedFile, check_name
from leasehold.custodian.model_signing import (
    ModelKey,
    SignerKey,
    check_model_signature,
    sign_model,
)
from leasehold.custodian.private_files import read_private
from leasehold.custodian.release import SEALED_SUFFIX, FolderKeys
from leasehold.custodian.seal import Endorse, seal_folder
from leasehold.custodian.settings import read_keys
from leasehold.errors import AlreadyExists, BadSetting

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_ENCRYPTED: Final = b"ENCRYPTED"


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@folder_option
@click.option("--name", required=True, help="What the model is called from now on.")
@click.option("--engine", required=True, help="Which engine loads it: llama, onnx, transformers...")
@click.option(
    "--licence", default="unspecified", show_default=True, help="Its licence, SPDX or a URL."
)
@click.option("--version", default="1", show_default=True, help="Its makers' version.")
@click.option(
    "--model-signature", "signature", type=_FILE, help="The makers' OpenSSF model signature."
)
@click.option("--model-signer", "signer", type=_FILE, help="The makers' public key in PEM.")
@click.option("--sign-model", "sign_with", type=_FILE, help="A key in PEM to sign the model with.")
def command(
    *,
    model: Path,
    folder: Path,
    name: str,
    engine: str,
    licence: str,
    version: str,
    signature: Path | None,
    signer: Path | None,
    sign_with: Path | None,
) -> None:
    """Seal the folder MODEL; the key stays with the custodian, the sealed file may go anywhere."""
    check_name(name)
    endorse = _endorsement(name, signature, signer, sign_with)
    ring, models = unlock(folder), folder / "models"
    keys, own = read_keys(folder, ring=ring), FolderKeys(models, ring)
    target = models / f"{name}{SEALED_SUFFIX}"
    if own.file(name).exists():
        raise AlreadyExists(about=f"model {name}")
    with progress("Sealing") as tell:
        sealed = seal_folder(
            model,
            target,
            name=name,
            version=version,
            engine=engine,
            licence=licence,
            root_key=keys.root,
            entropy=os.urandom,
            endorse=endorse,
            on_progress=tell,
        )
    own.keep(name, sealed.model_key)
    output.write_fields(
        "Sealed model",
        {
            "name": name,
            "file": str(target),
            "digest": sealed.digest.hex(),
            "bytes": sealed.model.sealed_bytes,
            "files": len(sealed.model.header.files),
            "model signature": show_signature(sealed.model.header),
        },
    )
    write_digests(sealed.model.header)


def _endorsement(
    name: str, signature: Path | None, signer: Path | None, sign_with: Path | None
) -> Endorse:
    """S-17, S-18: a signature that is checked, or one that is made, or none."""
    if (signature is None) != (signer is None) or (signature and sign_with):
        expected = "--model-signature with --model-signer, or --sign-model, or none of them"
        raise BadSetting(about="model signature", expected=expected)
    if sign_with is not None:
        pem = read_private(sign_with)
        password = ask_secret(f"password of {sign_with}") if _ENCRYPTED in pem else None
        key = ModelKey.load(pem, password)
        return lambda files: sign_model(files, name=name, key=key)
    if signature is None or signer is None:
        return lambda _files: b""
    bundle, public = read_bytes(signature), SignerKey.load(read_bytes(signer))

    def check(files: Sequence[SealedFile]) -> bytes:
        check_model_signature(bundle, files, signer=public)
        return bundle

    return check

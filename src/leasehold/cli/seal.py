"""`leasehold seal`: turn a model's folder into one sealed file in the custodian's models."""

from __future__ import annotations

import os
from pathlib import Path

import click

from leasehold.cli import output
from leasehold.cli.access import folder_option, unlock
from leasehold.cli.sealed import progress, write_digests
from leasehold.core.sealed import check_name
from leasehold.custodian.release import SEALED_SUFFIX, FolderKeys
from leasehold.custodian.seal import seal_folder
from leasehold.custodian.settings import read_keys
from leasehold.errors import AlreadyExists


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@folder_option
@click.option("--name", required=True, help="What the model is called from now on.")
@click.option("--engine", required=True, help="Which engine loads it: llama or onnx.")
@click.option(
    "--licence", default="unspecified", show_default=True, help="Its licence, SPDX or a URL."
)
@click.option("--version", default="1", show_default=True, help="Its makers' version.")
def command(
    *, model: Path, folder: Path, name: str, engine: str, licence: str, version: str
) -> None:
    """Seal the folder MODEL; the key stays with the custodian, the sealed file may go anywhere."""
    check_name(name)
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
        },
    )
    write_digests(sealed.model.header)

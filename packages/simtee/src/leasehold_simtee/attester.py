"""The entry point `simulated` of `leasehold.attesters`: how an enclave finds its simulated machine."""

from __future__ import annotations

from pathlib import Path

from leasehold.core.evidence import Attester
from leasehold_simtee.machine import Machine
from leasehold_simtee.measure import measure


def open_machine(hint: str) -> Attester:
    """The entry point `simulated`: an attester on the machine kept in the folder `hint`.

    The measurement is taken of the `leasehold` package that this process imported. Raises FileTrouble,
    BadSetting.
    """
    return Machine.load(Path(hint)).attester(measure())

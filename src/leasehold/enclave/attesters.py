"""Finds the platform driver that the measured configuration names. There is no default."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from leasehold.core.evidence import Attester
from leasehold.errors import BadSetting

GROUP: Final = "leasehold.attesters"


def open_attester(name: str, hint: str) -> Attester:
    """The installed attester of that name. `hint` is the borrower's word on where the platform is.

    Raises BadSetting where none of that name is installed: a production image does not contain the
    simulated one, so no configuration can turn it on there.
    """
    found = entry_points(group=GROUP)
    if name not in found.names:
        raise BadSetting(about="attester", got=name, expected=sorted(found.names))
    make: Callable[[str], Attester] = found[name].load()
    return make(hint)

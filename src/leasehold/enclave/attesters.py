"""Finds the platform and device drivers that the measured configuration names. There is no default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from leasehold.core.evidence import Attester, DeviceAttester
from leasehold.enclave.settings import NO_DEVICES
from leasehold.errors import BadSetting
from leasehold.net.declared import declared, load

GROUP: Final = "leasehold.attesters"
DEVICE_GROUP: Final = "leasehold.devices"


def open_attester(name: str, hint: str) -> Attester:
    """The installed attester of that name. `hint` is the borrower's word on where the platform is.

    Raises BadSetting where none of that name is installed: a production image does not contain the
    simulated one, so no configuration can turn it on there.
    """
    make: Callable[[str], Attester] = _load(GROUP, name, about="attester")
    return make(hint)


def open_devices(name: str) -> DeviceAttester | None:
    """Whoever asks the devices for evidence; None for `none`. Raises as `open_attester`."""
    if name == NO_DEVICES:
        return None
    make: Callable[[], DeviceAttester] = _load(DEVICE_GROUP, name, about="devices")
    return make()


def _load(group: str, name: str, *, about: str) -> Any:
    found = declared(group)
    if len(found.get(name, ())) != 1:
        raise BadSetting(about=about, got=name, expected=sorted(found))
    return load(*found[name])

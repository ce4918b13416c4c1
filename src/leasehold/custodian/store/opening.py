"""Which store a custodian's settings name."""

from __future__ import annotations

from pathlib import Path

from leasehold.custodian.store.port import Store
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import BadSetting


def open_store(path: Path, url: str = "") -> Store:
    """The PostgreSQL database at `url`, or where that is empty the SQLite file at `path`.

    Raises StoreFailed, and BadSetting where the URL or its driver is missing something.
    """
    if not url:
        return SqliteStore.open(path)
    try:
        from leasehold.custodian.store.postgres import PostgresStore
    except ImportError as cause:
        raise BadSetting(
            about="store",
            got=f"{cause.name} is not installed",
            expected="pip install 'leasehold[postgres]'",
        ) from cause
    return PostgresStore.open(url)

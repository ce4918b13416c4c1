"""Collateral on the custodian's side: kept on disk, fetched from the vendors, carried offline."""

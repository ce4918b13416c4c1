"""Crashes at every write of the ledger's files, and what comes back after each (docs/spec/crashes.md)."""

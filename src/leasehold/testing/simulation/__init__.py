"""Whole days of the real custodian, real enclaves and bad luck, decided by a seed (docs/spec/simulation.md)."""

"""Whole days of the real custodian, real enclaves and bad luck, decided by a seed; see docs/spec/simulation.md."""

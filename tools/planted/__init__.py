"""Mistakes planted into the real code: simulation and tests must find them (docs/spec/simulation.md)."""

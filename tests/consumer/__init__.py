"""Consumers against good and bad enclaves, in one process."""

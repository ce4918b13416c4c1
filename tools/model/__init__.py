"""A model of the lease protocol, small enough to read and to explore whole (docs/spec/lease-model.md)."""

"""RA-TLS certificates of other projects, read for interoperability; never a way to get a model released."""

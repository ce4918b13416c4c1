"""Wrapping keys: a key file that is useless without a passphrase, a token or a key service."""

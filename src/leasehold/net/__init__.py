"""Thin shells around the network: TLS, certificates, servers, downloads. No policy lives here."""

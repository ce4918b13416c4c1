"""The verifier: what evidence shows, judged by a signed manifest. Never part of an enclave."""

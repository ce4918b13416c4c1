"""The governor: the trusted base inside the enclave. It pins a key and verifies no quote."""

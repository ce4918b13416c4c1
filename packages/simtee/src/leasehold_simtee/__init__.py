"""SIMULATED enclave hardware: genuine structures under a home-made root. It proves logic, not secrecy."""

"""Intel SGX and TDX: quotes, PCK certificates, DCAP collateral."""

"""NVIDIA confidential GPUs and switches: SPDM reports, device chains, reference integrity manifests."""

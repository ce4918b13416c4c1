"""The verifier against simulated machines: honest, broken and hostile."""

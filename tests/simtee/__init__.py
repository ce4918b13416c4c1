"""The simulated platform itself."""

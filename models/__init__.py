"""The two real models that demo and tests use, and how each is made."""

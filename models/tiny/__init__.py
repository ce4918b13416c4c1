"""A tiny language model of the project's own."""

"""The engine's process: weights and engine, no network, no files, no keys."""

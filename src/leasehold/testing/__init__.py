"""A world to test in: every role in one process, on a clock that the test turns."""

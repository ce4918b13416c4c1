"""Lives many simulated days and tells which of them broke an invariant."""

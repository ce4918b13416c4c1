"""Coverage-guided fuzzing of every parser of the verifier: `make fuzz`, and shortly in the tests.

A parser either reads its input or refuses it with one of our errors; anything else is a finding.
"""

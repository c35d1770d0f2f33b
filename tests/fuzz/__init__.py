"""Fuzzers: files and texts of a kind, spoilt at random from a seed, until one does what none may do.

    python -m tests.fuzz engine --seconds 60 --seed 1

`targets.TARGETS` has the names. What was found is kept, so that it can be looked at and made into a test.
"""

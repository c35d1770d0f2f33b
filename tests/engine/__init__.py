"""Tests of the training engine: parity, derivatives, grouping, determinism, bad input."""

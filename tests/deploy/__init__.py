"""Tests of cpuft/deploy."""

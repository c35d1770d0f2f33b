"""Tests of cpuft/machine."""

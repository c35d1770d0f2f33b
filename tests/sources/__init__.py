"""Tests of cpuft/sources."""

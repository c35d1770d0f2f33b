"""Tests of cpuft/config."""

"""Tests of cpuft/adapters."""

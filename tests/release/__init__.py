"""Tests of cpuft/release."""

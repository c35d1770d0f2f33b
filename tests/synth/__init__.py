"""Tests of cpuft/synth."""

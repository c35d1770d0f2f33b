"""Tests of cpuft/workflow."""

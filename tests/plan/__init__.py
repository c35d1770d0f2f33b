"""Tests of cpuft/plan."""

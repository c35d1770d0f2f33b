"""Tests of cpuft/chat."""

"""Tests of cpuft/gguf."""

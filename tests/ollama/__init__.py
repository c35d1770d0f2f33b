"""Tests of cpuft/ollama."""

"""The tests of cpuft: one folder for each part of it."""

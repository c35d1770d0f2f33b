"""Tests of the toolchain, the command line and the structure of the code."""

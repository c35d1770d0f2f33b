"""Tests of the benchmarks: a figure is worth what its workload is."""

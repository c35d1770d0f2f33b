"""The commands of `cpuft eval`, a file each."""

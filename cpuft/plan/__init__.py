"""What a training run will take in memory, time and disk, before it starts."""

"""What holds on real models: rounding is bearable, text means the same everywhere, tuning helps and arrives."""

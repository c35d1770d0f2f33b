"""From an adapter to the file that is given away: merging, quantizing, and what survives of the tuning."""

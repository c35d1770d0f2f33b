"""Model files: GGUF, adapters, merging."""

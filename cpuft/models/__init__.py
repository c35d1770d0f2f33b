"""Model files: GGUF inspection, LoRA adapters, merging and quantizing."""

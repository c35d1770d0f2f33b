"""GGUF files: reading, writing, describing, and the mixtures of types that they come in."""

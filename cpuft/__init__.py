"""Fine-tune language models on a CPU, directly on quantized GGUF files."""

__version__ = "0.1.0"

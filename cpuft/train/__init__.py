"""Trains a LoRA adapter on a quantized GGUF model: the loop, its checkpoints and its records."""

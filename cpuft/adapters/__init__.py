"""LoRA adapters in files, as GGUF and in PEFT's format: reading, writing, scaling, combining."""

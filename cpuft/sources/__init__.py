"""Where a base model comes from: a path, Ollama's store, the Hugging Face Hub, a checkpoint folder."""

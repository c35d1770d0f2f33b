"""Bringing a tuned model into use: its Modelfile, and the import into Ollama."""

"""Ollama: names, the store on the disk, its server, Modelfiles and Go templates."""

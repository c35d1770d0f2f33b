"""Makes the demo: words, concepts, base corpus, examples, tokenizer, network, GGUF."""

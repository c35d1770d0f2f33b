"""The configuration, the files and the training loop."""

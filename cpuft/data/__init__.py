"""From JSON lines to batches of tokens that say which of them are trained on."""

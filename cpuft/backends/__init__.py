"""Ways to let a model answer: one protocol, and the local servers that speak it."""

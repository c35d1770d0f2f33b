"""What strings the other rooms together: the demo, and the preparation of a base model."""

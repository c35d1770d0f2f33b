"""How good a model's answers are, by the metric of a role."""

"""What a role of the team has to produce: one folder a role, with its prompt, its schema and its metric."""

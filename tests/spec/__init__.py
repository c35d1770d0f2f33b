"""The specification's own commands, as it writes them."""

"""The keys of a training run, their defaults and limits, and the YAML file that sets them."""

"""From experiment files and flags to experiments."""

"""tests/kdcore."""

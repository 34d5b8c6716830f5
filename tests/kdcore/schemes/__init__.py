"""tests/kdcore/schemes."""

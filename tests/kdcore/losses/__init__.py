"""tests/kdcore/losses."""

"""Run folders, and from the records in them to tables."""

"""Running experiments: one after another, on Ray, and again."""

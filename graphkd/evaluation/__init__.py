"""How good a student is, how fast, and what it predicts."""

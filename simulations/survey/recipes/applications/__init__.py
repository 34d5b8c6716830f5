"""What it is applied to."""

"""Speed, always as the ratio of two things measured side by side in one run."""

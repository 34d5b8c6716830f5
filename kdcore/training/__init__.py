"""Training as a pure function: batches, optimisers, the loop, and the same for a stack."""

"""Graph networks, their stacked and layer-wise forms, ensembles and readouts."""

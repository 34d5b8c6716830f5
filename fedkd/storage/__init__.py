"""What a federation keeps on disk: checkpoints, parameters past a budget, whole files."""

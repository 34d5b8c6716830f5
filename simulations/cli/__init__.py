"""The `kdsim` command."""

"""Federations too large for one process: clients in shards, which send sums up, and no uploads."""

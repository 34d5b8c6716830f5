"""Experiments: everything with a seed, a disk or a screen.

`config` says what a run is, `fed` and `graph` run one and yield records, `scheduler` runs many,
`store` keeps what they yield, `cli` is the `kdsim` command.
"""

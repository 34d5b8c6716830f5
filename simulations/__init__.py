"""Experiments: everything with a seed, a disk or a screen.

`config` says what a run is, `runners` run one and yield records, `execution` runs many, `results`
keeps what they yield, `reporting` makes a page of it, `survey` holds the recipes of the surveys,
`cli` is the `kdsim` command.

Nothing in here is public: use the command, its files, or `import kdsim`; see docs/stable.md.
"""

__all__: list[str] = []

"""`python -m benchmarks`: every benchmark, one after the other, each with its default settings."""

from benchmarks import engines, flower_grid

engines.main()
flower_grid.main()

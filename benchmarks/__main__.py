"""`python -m benchmarks`: every benchmark, one after the other, each with its default settings."""

from benchmarks import devices, engines, flower_grid, graphs, scale

engines.main()
scale.main()
devices.main()
graphs.main()
flower_grid.main()

"""`python -m benchmarks`: every benchmark, one after the other, each with its default settings."""

from benchmarks import (
    devices,
    engines,
    flower_grid,
    graph_clients,
    graphs,
    precision,
    private_training,
    scale,
    workers,
)

engines.main()
scale.main()
precision.main()
workers.main()
private_training.main()
devices.main()
graphs.main()
flower_grid.main()
graph_clients.main()

"""`python -m benchmarks`: one benchmark after the other, with default settings.

Not among them, as they take long or much memory: `benchmarks.devices`, `benchmarks.flower_grid` and
`benchmarks.graphs served edges large`.
"""

from benchmarks import (
    engines,
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
graphs.main()
graph_clients.main()

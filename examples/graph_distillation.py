"""A graph network teaches a network that never sees the graph (GLNN), on digits as a graph."""

from collections.abc import Mapping

import graphkd
from graphkd.methods.glnn import GLNN


def metrics(method: graphkd.Method, seed: int = 0) -> Mapping[str, float]:
    """Of the test nodes: accuracies of student, student without teacher, and teacher, and more."""
    *_, result = graphkd.run(method, "digits-knn", "transductive", seed)
    assert isinstance(result, graphkd.Result)
    return result.metrics


if __name__ == "__main__":
    for name, value in metrics(GLNN(teacher="gcn", temperature=2.0)).items():
        print(name, value)

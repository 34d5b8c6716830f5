"""A Ray cluster of several nodes on this machine's loopback, for tests."""

import gc
import importlib
import warnings
from contextlib import contextmanager

STORE = 2**27  # bytes of a node's object store


@contextmanager
def cluster():
    """A head without cores; tests add nodes."""
    from fedkd.engines.ray.cluster import ray

    utils = importlib.import_module("ray.cluster_utils")  # behind the switches of that import
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    found = utils.Cluster(
        initialize_head=True, head_node_args=head | {"node_ip_address": "127.0.0.1"}
    )
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()
        with warnings.catch_warnings():  # Ray leaves files to the collector
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def add(found, count, **resources):
    """Add nodes of one core each, or as said."""
    nodes = [
        found.add_node(object_store_memory=STORE, **({"num_cpus": 1} | resources))
        for _ in range(count)
    ]
    found.wait_for_nodes(timeout=300)
    return nodes

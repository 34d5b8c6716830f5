"""A Ray to run actors on: an existing cluster, or one of our own on this machine's loopback."""

import os
import socket
from collections.abc import Collection
from typing import NamedTuple

import torch

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads its switches on import
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray  # noqa: E402

CONNECT = 5.0  # seconds to wait for the address of a cluster


class Share(NamedTuple):
    """What an actor takes of a machine; `gpus` may be a fraction."""

    cpus: float = 1.0
    gpus: float = 0.0


def check(workers: int, shares: Collection[Share], address: str | None) -> None:
    """Raise ValueError for what could not start: no such cluster, or too small a machine.

    The size of a cluster is only known once connected, and checked then.
    """
    if ray.is_initialized():
        return
    if address is not None:
        _answers(address)
    else:
        cores, gpus = os.cpu_count() or 1, torch.cuda.device_count()
        _enough(sum(workers * share.cpus for share in shares), cores, "CPU cores", workers)
        _enough(sum(workers * share.gpus for share in shares), gpus, "GPUs", workers)


def connect(address: str | None, workers: int, shares: set[Share]) -> bool:
    """Join a cluster or start one; True for one of our own. Raise ValueError if it is too small."""
    check(workers, shares, address)
    own = not ray.is_initialized()
    cores = sum(workers * share.cpus for share in shares)
    if own and address is not None:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    elif own:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback only
        ray.init(
            address="local",
            num_cpus=max(1, round(cores)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
    there = ray.cluster_resources()
    try:
        _enough(cores, there.get("CPU", 0), "CPU cores", workers)
        _enough(sum(workers * s.gpus for s in shares), there.get("GPU", 0), "GPUs", workers)
    except ValueError:
        if own:
            ray.shutdown()
        raise
    return own


def _enough(wanted: float, there: float, what: str, workers: int) -> None:
    if wanted > there:
        raise ValueError(
            f"{workers} workers with their shares need {wanted:g} {what}, and there are "
            f"{there:g}; take fewer workers, or smaller shares"
        )


def _answers(address: str) -> None:
    """Raise ValueError for a cluster that does not answer; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except (OSError, ValueError) as reason:
        raise ValueError(
            f"no Ray cluster answers at {address!r} ({reason}); expected HOST:PORT of one that "
            "`ray start --head` has started"
        ) from None

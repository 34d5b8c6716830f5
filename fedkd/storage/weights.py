"""The weights that a run has ended with, as safetensors in its folder: what would be used now.

Of a federated run the model of each client, named by the client's number, after `Algorithm.deploy`;
of graph distillation the "student". Clients who would use the same model, as an average, share one
copy in the file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedkd.storage import atomic_files

Weights = Mapping[str, Tensor]


class Place(NamedTuple):
    """Where the weights of a run go, and up to how many megabytes of them; 0 for none."""

    path: Path
    megabytes: float


def save(place: Place, networks: Mapping[str, Weights], about: Mapping[str, Any]) -> list[str]:
    """Write the weights of networks by name, with what is to be known about them (JSON).

    Returns:
        Why they are not kept, as a note: they are more than they may be. Else nothing.

    Raises:
        OSError: the file cannot be written.
    """
    if not place.megabytes:
        return []
    copies = {name: _sum(network) for name, network in networks.items()}
    kept = {copy: networks[name] for name, copy in copies.items()}
    size = sum(value.nbytes for network in kept.values() for value in network.values()) / 1e6
    if size > place.megabytes:
        return [
            f"the final weights take {size:.3g} MB and are not kept; to keep so much, give "
            f"--weights {size + 0.5:.0f} or resources.weights"
        ]
    order = {copy: str(number) for number, copy in enumerate(kept)}
    arrays = {
        f"{order[copy]}/{name}": _array(value)
        for copy, network in kept.items()
        for name, value in network.items()
    }
    names = {name: order[copy] for name, copy in copies.items()}
    inside = {order[copy]: list(network) for copy, network in kept.items()}
    said = {"names": names, "order": inside, "about": about}  # a file has its arrays by name
    atomic_files.save(place.path, arrays, **{key: json.dumps(v) for key, v in said.items()})
    return []


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The weights of each network, and what is to be known about them.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    arrays, texts = atomic_files.load(path)
    said = {key: json.loads(text) for key, text in texts.items()}
    copies = {
        copy: {name: torch.from_numpy(arrays[f"{copy}/{name}"]) for name in inside}
        for copy, inside in said["order"].items()
    }
    return {name: copies[copy] for name, copy in said["names"].items()}, said["about"]


def _array(value: Tensor) -> Any:
    """As NumPy has it, which knows no bfloat16: float32 holds the same numbers."""
    value = value.detach().cpu().contiguous()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _sum(network: Weights) -> str:
    found = hashlib.sha256()
    for name, value in network.items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(_array(value).tobytes())
    return found.hexdigest()

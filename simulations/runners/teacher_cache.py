"""Teachers that several runs share: trained once, then read from a file.

What a teacher is depends on its settings, the seed and the graph that it may see, and not on the
method that it teaches by. A file is named after a hash of all that. Of two runs that need the same
teacher at once one trains it, and the other waits. A file has a checksum; a damaged one is trained
again, which gives the same to the last bit.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.storage import atomic_files
from graphkd.core import Epoch, Split, TeacherSpec, View
from graphkd.models import networks
from graphkd.training.distillation import fit_one_teacher
from graphkd.training.loop import Fit, Fitted, build
from simulations.results import run_folder
from simulations.results.locks import held

WHATEVER_IT_TAKES = -1.0  # seconds; who has a lock and dies has it no more
FORMAT = 2  # of the file; those of the first had no checksum


def fit(
    folder: Path,
    teacher: TeacherSpec,
    split: Split,
    *,
    phase: str = "teacher",
    seed: int,
    network: Callable[..., nn.Module] | nn.Module | None = None,
    fetch: Callable[[Path], None] | None = None,
    device_dropout: bool = False,
) -> Fit:
    """`fit_one_teacher`, but a teacher that has been trained before is read.

    The epochs and the network are the same, bit for bit. A file that cannot be read, or whose
    checksum is not that of what it holds, is written anew.

    The folder is made where it is not there, and `fetch` may bring the file before it is looked
    for; `device_dropout` says whether dropout is drawn on the device, which makes another teacher;
    all else is as for that function. A network that has no name is not kept, be it of the
    user's own, whose code may change from one run to the next, or of a method's.
    """
    if network is not None or teacher.network not in networks.NETWORKS:
        return (yield from fit_one_teacher(teacher, split, phase=phase, seed=seed, network=network))
    view = split.view("train")
    path = folder / f"{identity(teacher, view, phase, seed, device_dropout)}.safetensors"
    if fetch is not None:
        fetch(path)
    known = _read(path)
    if known is None:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as waited:
            with suppress(RuntimeError):  # this very thread is at it, and cannot wait for itself
                waited.enter_context(held(folder / f".{path.stem}.lock", WHATEVER_IT_TAKES))
            known = _read(path)  # another run may have had it
            if known is None:
                return (yield from _trained(path, teacher, split, phase, seed))
    arrays, said = known
    yield from (Epoch(phase, *epoch) for epoch in said["epochs"])
    network = build(teacher, view.graph, seed, phase)
    network.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return Fitted(network.eval().requires_grad_(False), said["chosen"])


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """What a file holds; None where it is not there, or damaged."""
    try:
        arrays, texts = atomic_files.load(path)
        return arrays, json.loads(texts["training"])
    except (OSError, ValueError, KeyError):
        return None


def identity(
    teacher: TeacherSpec, view: View, phase: str, seed: int, device_dropout: bool = False
) -> str:
    """The SHA-256 of all that determines a trained teacher, to the last bit."""
    graph, found = view.graph, hashlib.sha256()
    where = graph.x.device.type + " draws" * device_dropout
    machine = FORMAT, run_folder.versions(), where, torch.get_num_threads()
    found.update(repr((teacher, phase, seed, machine)).encode())
    known = {field.name: getattr(graph, field.name) for field in fields(graph) if field.compare}
    for name, value in (known | {part: view.part(part) for part in ("train", "val")}).items():
        found.update(f"{name} {_words(value)}".encode())
        if isinstance(value, Tensor):
            found.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _words(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _trained(path: Path, teacher: TeacherSpec, split: Split, phase: str, seed: int) -> Fit:
    epochs, fitting = [], fit_one_teacher(teacher, split, phase=phase, seed=seed)
    while True:
        try:
            epoch = next(fitting)
        except StopIteration as stop:
            fitted: Fitted = stop.value
            break
        epochs.append((epoch.index, epoch.loss, epoch.accuracy, epoch.best))
        yield epoch
    said = json.dumps({"epochs": epochs, "chosen": fitted.epoch})
    state = fitted.network.state_dict()
    atomic_files.save(path, {name: v.cpu().numpy() for name, v in state.items()}, training=said)
    return fitted

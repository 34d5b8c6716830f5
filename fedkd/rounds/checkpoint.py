"""What a federation is after a round, on disk: whole or not at all, and never pickled.

A checkpoint is a folder `round-000012` with the server's and all clients' tensors (safetensors),
the bytes moved so far, and a manifest with the SHA-256 of each file (`fedkd.storage.atomic_files`
writes it). Nothing else has to be saved: every random stream is made anew from the seed and the
round, and optimisers start afresh in every round.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedkd.core import MEMORY, Client
from fedkd.messages import Ledger
from fedkd.rounds.round import Round
from fedkd.storage import atomic_files

KEPT = 2
FORMAT = 1
MANIFEST, STATE = "manifest.json", "state.json"
SERVER, CLIENTS = "server.safetensors", "clients.safetensors"


class State(NamedTuple):
    """What a checkpoint is of: the round, the bytes moved so far by direction and key.

    And `constants` of the models and `parts` of the clients, see `save`.
    """

    round: int
    up: Counter[str]
    down: Counter[str]
    constants: str
    parts: Counter[int]


def save(
    folder: Path,
    current: Round,
    total: Ledger,
    identity: str,
    constants: str = "",
    parts: Mapping[int, int] | None = None,
) -> Path:
    """Write a checkpoint, and remove all but the newest two.

    Args:
        folder: of the checkpoints of one run; made where it is not there.
        current: the round that has just ended.
        total: bytes moved in all rounds so far.
        identity: of the experiment; only the same one can go on from here.
        constants: a hash of what models have beside parameters (`Model.constants`), and is not in
            the checkpoint: with other frozen weights the run cannot go on.
        parts: client number -> in how many rounds it took part, where somebody counts that.

    Returns:
        The checkpoint's own folder.

    Raises:
        OSError: it cannot be written; the one before stays.
    """
    atomic_files.sweep(folder)
    target = of_round(folder, current.index)
    params = {f"{c.id}/{name}": v for c in current.clients for name, v in c.params.items()}
    state = {"round": current.index, "up": dict(total.up), "down": dict(total.down)}
    state |= {"parts": {str(k): count for k, count in parts.items()}} if parts else {}
    with atomic_files.replacing(target) as draft:
        draft.mkdir()
        save_file(_owned(current.server), draft / SERVER)
        save_file(_owned(params), draft / CLIENTS)
        (draft / STATE).write_text(json.dumps(state), encoding="utf-8")
        hashes = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
        said = {"format": FORMAT, "identity": identity, "round": current.index, "sha256": hashes}
        said |= {"constants": constants} if constants else {}
        (draft / MANIFEST).write_text(json.dumps(said, indent=1), encoding="utf-8")
    drop_old(folder)
    return target


def of_round(folder: Path, index: int) -> Path:
    """Where the checkpoint of a round is."""
    return folder / f"round-{index:06d}"


def drop_old(folder: Path) -> None:
    """Remove all checkpoints but the newest two."""
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def load(
    folder: Path,
    clients: Sequence[Client],
    identity: str,
    device: torch.device = torch.device("cpu"),  # noqa: B008  (a value)
    constants: str = "",
) -> tuple[Round, Ledger] | None:
    """The newest checkpoint of a run, to be handed to `simulate(after=...)`; None if none.

    Args:
        folder: of the checkpoints.
        clients: as they were before the first round; they get the saved parameters.
        identity: of the experiment.
        device: where the server and the clients' parameters go.
        constants: see `save`.

    Raises:
        ValueError: the newest checkpoint is damaged, or one of another experiment, or of models
            with other constants.
    """
    state = verified(folder, identity)
    if state is None:
        return None
    newest = _all(folder)[-1]
    if state.constants != constants:
        raise ValueError(
            f"{newest} was written with other frozen weights or constants of the models; give "
            "those again, or start anew elsewhere"
        )
    try:
        server = _read(newest / SERVER, device)
        params = _read(newest / CLIENTS, device)
    except SafetensorError as reason:
        raise _damaged(newest, str(reason)) from None
    memories = _memories(params)
    after = tuple(
        replace(c, params=_of_client(c, params, memories.get(str(c.id), {}), newest))
        for c in clients
    )
    total = Ledger(state.up, state.down)
    return Round(state.round, server, after, (), {}, Ledger()), total


def reached(folder: Path) -> int:
    """The round of the newest checkpoint of a run, 0 where there is none; nothing is verified."""
    return max(rounds(folder), default=0)


def rounds(folder: Path) -> list[int]:
    """The rounds after which there are checkpoints of a run, which nobody has verified."""
    return [_index(found) for found in _all(folder)]


def drop_after(folder: Path, index: int) -> None:
    """Remove the checkpoints of all rounds after this one."""
    for checkpoint in _all(folder):
        if _index(checkpoint) > index:
            shutil.rmtree(checkpoint)


def verified(folder: Path, identity: str) -> State | None:
    """The round and the bytes of the newest checkpoint, whose files are as they were written.

    Raises:
        ValueError: the checkpoint is damaged, or one of another experiment.
    """
    found = _all(folder)
    if not found:
        return None
    manifest = _manifest(found[-1], identity)
    path = found[-1] / STATE
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        moved = Counter(read["up"]), Counter(read["down"])
        parts = Counter({int(k): int(count) for k, count in read.get("parts", {}).items()})
        state = State(int(read["round"]), *moved, manifest.get("constants", ""), parts)
    except (ValueError, KeyError, TypeError) as reason:
        raise _damaged(found[-1], f"{STATE} cannot be read ({reason!r})") from None
    if state.round != _index(found[-1]):
        raise _damaged(found[-1], f"{STATE} is of round {state.round}")
    return state


def digest(current: Round) -> str:
    """The SHA-256 of everything a round leaves behind: server and clients, bit for bit."""
    found = hashlib.sha256()
    named = {f"server/{name}": value for name, value in current.server.items()}
    for client in current.clients:
        named |= {f"{client.id}/{name}": value for name, value in client.params.items()}
    for name, value in sorted(named.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _manifest(checkpoint: Path, identity: str) -> dict[str, Any]:
    """What the manifest says, of files that are as it says."""
    try:
        manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        known, hashes = manifest["identity"], dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise _damaged(checkpoint, f"its manifest cannot be read ({reason})") from None
    if manifest.get("format") != FORMAT or known != identity:
        raise ValueError(
            f"{checkpoint} belongs to another experiment ({str(known)[:8]} instead of "
            f"{identity[:8]}); resume the run that it was written by, or start anew elsewhere"
        )
    for name in (SERVER, CLIENTS, STATE):
        path = checkpoint / name
        if not path.is_file() or _sha256(path) != hashes.get(name):
            raise _damaged(checkpoint, f"{name} is not what the manifest says")
    return manifest


def _damaged(checkpoint: Path, why: str) -> ValueError:
    return ValueError(
        f"the checkpoint {checkpoint} is damaged: {why}; remove that folder to go on from the one "
        "before it, or from the start"
    )


def _memories(params: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What clients remember, by their numbers: no client begins with a memory."""
    found: dict[str, dict[str, Tensor]] = {}
    for key in sorted(key for key in params if f"/{MEMORY}" in key):
        number, _, name = key.partition("/")
        found.setdefault(number, {})[name] = params[key]
    return found


def _of_client(
    client: Client, params: dict[str, Tensor], memory: dict[str, Tensor], where: Path
) -> dict[str, Tensor]:
    try:
        return memory | {name: params[f"{client.id}/{name}"] for name in client.params}
    except KeyError as missing:
        raise _damaged(where, f"no parameter {missing} of client {client.id}") from None


def _owned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies: rows of one stack share their memory, which the format does not take."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _read(path: Path, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a file, each in memory of its own.

    In the file's they lie at any place, and products of numbers at odd places may differ in their
    last bits: the kernels read them otherwise.
    """
    return {name: value.to(device, copy=True) for name, value in load_file(path).items()}


def _all(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("round-*") if re.fullmatch(r"round-\d{6,}", path.name)]
    return sorted(found, key=_index)


def _index(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("round-"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Where clients' parameters are between rounds: in memory, or past a budget in mapped files.

Engines return parameters as rows of one stacked tensor per chunk. Where all clients take part in
all rounds that is how they stay. Else one client that is not seen again for long would keep all
rows alive, and each gets memory of its own. Where memory is short the clients of a group go to a
safetensors file as one stacked tensor for each parameter. The file is mapped back and at once
unlinked: the system reads pages as they are needed, and frees the disk when the last client lets
go, come what may.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fedkd.core import Client
from kdcore.training.loop import Params


class ClientStore:
    """Keeps clients' parameters, up to so many megabytes in memory and the rest in files.

    Attributes:
        notes: what was done otherwise than asked, in words.
    """

    def __init__(self, budget: float | None = None, folder: Path | None = None) -> None:
        """A store.

        Args:
            budget: megabytes in memory; by default any.
            folder: for the files; by default that of the system for temporary ones.
        """
        self._budget, self._folder = budget, folder
        self._held: dict[int, int] = {}  # client -> bytes in memory
        self._noted = False
        self.notes: list[str] = []

    def __call__(self, clients: Sequence[Client]) -> list[Client]:
        """The same clients, their parameters kept; those that live elsewhere stay there."""
        kept = list(clients)
        groups: dict[str, list[int]] = {}
        for place, client in enumerate(clients):
            if isinstance(client.params, dict) and client.params:
                groups.setdefault(client.group, []).append(place)
        for places in groups.values():
            people = [clients[place] for place in places]
            if self._fits(people):
                found = [with_own_memory(client) for client in people]
            else:
                mapped = self._mapped([client.params for client in people])
                found = [replace(c, params=p) for c, p in zip(people, mapped, strict=True)]
            for place, client in zip(places, found, strict=True):
                kept[place] = client
        return kept

    def _fits(self, people: Sequence[Client]) -> bool:
        if self._budget is None:
            return True
        for client in people:
            self._held.pop(client.id, None)
        sizes = {c.id: sum(value.nbytes for value in c.params.values()) for c in people}
        fits = sum(self._held.values()) + sum(sizes.values()) <= self._budget * 1e6
        if fits:
            self._held |= sizes
        elif not self._noted:
            self._noted = True
            self.notes.append(
                f"clients' parameters take more than {self._budget:g} MB: the rest is in files"
            )
        return fits

    def _mapped(self, params: Sequence[Params]) -> list[Params]:
        stack = {name: torch.stack([one[name] for one in params]) for name in params[0]}
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="kdsim-") as folder:
            file = Path(folder) / "params.safetensors"
            save_file(stack, file)
            found = load_file(file)  # sorted by name; the order of parameters is part of a model
        return [{name: found[name][row] for name in stack} for row in range(len(params))]


def with_own_memory(client: Client) -> Client:
    """The client, its parameters without the rest of the storage that they look into."""
    if not isinstance(client.params, dict):
        return client  # they live elsewhere
    params = {
        k: v if v.untyped_storage().nbytes() == v.nbytes else v.clone()
        for k, v in client.params.items()
    }
    return replace(client, params=params)

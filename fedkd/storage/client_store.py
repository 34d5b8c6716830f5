"""Where clients' parameters are between rounds: in memory, or past a budget in mapped files.

Engines return parameters as rows of one stacked tensor per chunk. Where all clients take part in
all rounds that is how they stay. Else one client that is not seen again for long would keep all
rows alive, and each gets memory of its own. Where memory is short the clients of a group go to a
file, as one stacked tensor for each parameter. The file is mapped back and at once unlinked: the
system reads pages as they are needed, and frees the disk when the last client lets go, come what
may. In a file as in memory each client's parameters begin where torch would have them begin, since
arithmetic may round otherwise for other places.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedkd.core import Client
from kdcore.training.loop import Params

ALIGNMENT = 64  # bytes: what torch gives each tensor of its own on a CPU


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
        groups: dict[tuple[str, ...], list[int]] = {}  # of those that have the same names
        for place, client in enumerate(clients):
            if isinstance(client.params, dict) and client.params:
                groups.setdefault((client.group, *client.params), []).append(place)
        for places in groups.values():
            people = [clients[place] for place in places]
            if self._fits(people):
                found = [with_own_memory(client) for client in people]
            else:
                mapped = self._mapped([client.params for client in people])
                found = [c.with_params(p) for c, p in zip(people, mapped, strict=True)]
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
        starts, end = {}, 0
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="kdsim-") as folder:
            path = Path(folder) / "params"
            with path.open("wb") as file:
                for name in params[0]:
                    starts[name] = end
                    end += file.write(_aligned([one[name] for one in params]).numpy().data)
            whole = torch.from_file(str(path), shared=False, size=end, dtype=torch.uint8)
        columns = {
            name: _apart(whole[start:], value, len(params))
            for (name, value), start in zip(params[0].items(), starts.values(), strict=True)
        }
        return [{name: columns[name][row] for name in columns} for row in range(len(params))]


def _aligned(column: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as bytes, (K, bytes), with room after each up to where one may begin."""
    flat = torch.stack(list(column)).cpu().reshape(len(column), -1).view(torch.uint8)
    return torch.nn.functional.pad(flat, (0, _width(flat.shape[1]) - flat.shape[1]))


def _apart(whole: Tensor, like: Tensor, count: int) -> tuple[Tensor, ...]:
    """The inverse: K tensors like one of them, which lie at the start of some bytes."""
    width = _width(like.nbytes)
    rows = whole[: count * width].view(count, width)[:, : like.nbytes].view(like.dtype)
    return rows.view(count, *like.shape).unbind()


def with_own_memory(client: Client) -> Client:
    """The client, its parameters without the rest of the storage that they look into."""
    if not isinstance(client.params, dict):
        return client  # they live elsewhere
    params = {
        k: v if v.untyped_storage().nbytes() == v.nbytes else v.clone()
        for k, v in client.params.items()
    }
    return client.with_params(params)


def _width(size: int) -> int:
    """Bytes from one tensor to where the next may begin."""
    return ALIGNMENT * max(1, -(-size // ALIGNMENT))

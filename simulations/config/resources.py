"""What one run may take, and how it is kept; no part of what determines its numbers."""

from dataclasses import dataclass

from simulations.config.grid import THREADS, Document, _check_keys, _table
from simulations.config.schema import leaves, updated


@dataclass(frozen=True)
class Resources:
    """What one run takes, and how it is kept.

    Attributes:
        cpus: cores, which are also its threads.
        gpus: the share of a GPU.
        device: where a run computes, `kdcore.devices.device_of`: auto (a GPU for a run that has a
            share of one), cpu, cuda, cuda:N or mps. Of the engine `ray` the share alone decides.
        actors: of the engine `ray`, how many, each with `cpus` and `gpus` of its own.
        shares: of architectures that need another share there: "resnet8=1:0.5" for 1 core and half
            a GPU an actor, "mlp=1" for a core alone.
        memory: megabytes for a chunk of the engine `batched`, and as many for the parameters of
            all clients between rounds, past which they are kept in files; 0 for any.
        ray_address: HOST:PORT of a Ray cluster for them; by default one is started.
        deadline: seconds that a chunk of clients may take there; 0 for any.
        checkpoint_every: federated rounds from one checkpoint to the next; 0 for none.
        weights: megabytes up to which a run's final weights are kept in its folder; 0 for none.
    """

    cpus: int = 1
    gpus: float = 0.0
    device: str = "auto"
    memory: float = 0.0
    actors: int = 2
    shares: tuple[str, ...] = ()
    ray_address: str = ""
    deadline: float = 0.0
    checkpoint_every: int = 10
    weights: float = 64.0

    def __post_init__(self) -> None:
        """Refuse what makes no share."""
        if not 1 <= self.cpus <= THREADS or self.gpus < 0:
            raise ValueError(
                f"cpus must be >= 1 and <= {THREADS}, gpus >= 0, got {self.cpus} and {self.gpus}"
            )
        counted = self.memory, self.deadline, self.checkpoint_every, self.weights
        if self.actors < 1 or min(counted) < 0:
            raise ValueError(
                "actors must be >= 1, memory, deadline, checkpoint_every and weights >= 0, got "
                f"{self.actors}, {', '.join(f'{one:g}' for one in counted[:-1])} and "
                f"{self.weights:g}"
            )
        _ = self.share_of

    @property
    def share_of(self) -> dict[str, tuple[float, float]]:
        """Architecture -> cores and GPUs of its actors, as `shares` has it.

        Raises:
            ValueError: it is not in that form.
        """
        found = {}
        for text in self.shares:
            group, _, amounts = text.partition("=")
            cpus, _, gpus = amounts.partition(":")
            try:
                found[group] = float(cpus), float(gpus or 0)
            except ValueError:
                found[group] = 0.0, 0.0
            if not group or not found[group][0] > 0 or found[group][1] < 0:
                raise ValueError(
                    f"shares takes MODEL=CPUS or MODEL=CPUS:GPUS, such as resnet8=1:0.5, got "
                    f"{text!r}"
                )
        return found


def read_resources(document: Document, source: str) -> Resources:
    """What each run takes; ValueError for an unknown key or a bad value."""
    given = _table(document, "resources", source)
    _check_keys(given, leaves(Resources), "resources", source)
    try:
        return updated(Resources(), given)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None

"""What one run may take, and how it is kept; no part of what determines its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from kdcore.settings import Setting, check_ranges
from simulations.config.schema import check_keys, leaves, updated

THREADS = 1024  # of a run, at the most


@dataclass(frozen=True)
class Resources:
    """What one run takes, and how it is kept."""

    cpus: Annotated[int, Setting("cores, which are also threads", ge=1, le=THREADS)] = 1
    cores: Annotated[
        int,
        Setting(
            "clients of the engine auto at once where they run in turn, one on each core; 0 for "
            "all cores, or for cpus beside other runs",
            ge=0,
            le=THREADS,
        ),
    ] = 0
    gpus: Annotated[float, Setting("share of a GPU of a run", ge=0)] = 0.0
    device: Annotated[
        str,
        Setting("auto, cpu, cuda, cuda:N or mps; auto: a GPU for a run that has a share of one"),
    ] = "auto"
    memory: Annotated[
        float,
        Setting(
            "megabytes for a stack of the engines auto and batched, and as many for the parameters "
            "of all clients between rounds, past which they are kept in files; 0 for any",
            ge=0,
        ),
    ] = 0.0
    actors: Annotated[
        int, Setting("of the engine ray, how many, each with cpus and gpus of its own", ge=1)
    ] = 2
    shares: Annotated[
        tuple[str, ...],
        Setting("MODEL=CPUS or MODEL=CPUS:GPUS, for actors of architectures that need others"),
    ] = ()
    ray_address: Annotated[
        str, Setting("HOST:PORT of a Ray cluster to run on; by default $RAY_ADDRESS, or here")
    ] = ""
    deadline: Annotated[
        float, Setting("seconds that a chunk of clients may take there; 0 for any", ge=0)
    ] = 0.0
    checkpoint_every: Annotated[
        int, Setting("federated rounds from one checkpoint to the next; 0 for none", ge=0)
    ] = 10
    weights: Annotated[
        float, Setting("megabytes up to which final weights are kept; 0 for none", ge=0)
    ] = 64.0
    track: Annotated[
        tuple[str, ...], Setting("trackers that are told of each run: `kdsim list trackers`")
    ] = ()

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "Resources":
        """What the settings of a table [resources] ask for.

        Raises:
            ValueError: an unknown key, the nearest is named; or a value that cannot be.
        """
        check_keys(table, leaves(cls), "[resources]")
        return updated(cls(), table)

    def __post_init__(self) -> None:
        """Refuse what makes no share."""
        check_ranges(self)
        _ = self.share_of

    def beside_others(self) -> "Resources":
        """What a run takes where others run beside it: not all cores, unless it was asked to."""
        return replace(self, cores=self.cores or self.cpus)

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

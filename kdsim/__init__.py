"""Federated and graph knowledge distillation, simulated: the one name that a user imports.

    import kdsim

    for record in kdsim.simulate("dsfl", clients=10, alpha=0.1, rounds=5):
        print(record.accuracy)                # of each round; the last one is of the run

    runs = kdsim.run("demo", set={"fed.rounds": 5}, out="runs/mine")    # an experiment, kept
    print(runs.final().groupby("method").accuracy.mean())
    print(runs.report)                                        # the path of its page

Nothing heavy is imported before it is used. What is public and stays: docs/stable.md.
"""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Those that come with kdsim, each in a file of its name.
ALGORITHMS = (
    "CFD COMET CoBoosting DENSE DSFL FD FML FedAUX FedAvg FedBE FedCache FedDF FedET FedGH FedGKT "
    "FedGen FedHKD FedKD FedKT FedMD FedProto FedProx FedTGP KTpFL Local Pooled SCARLET SelectiveFD"
)
METHODS = (
    "AdaGMLP CPF FFG2M GCRD GLNN GNNSD GSP KRD LLP LSP Logits MLP Mutual MultiTeacher NOSMOG "
    "Privileged RKD TINED VQGraph"
)
# Public name -> the module that it is in.
_PUBLIC = {
    **dict.fromkeys(("simulate", "distill", "run", "tune", "load", "report"), "kdsim.api"),
    "Runs": "kdsim.runs",
    "Tuned": "kdsim.tuned",
    **dict.fromkeys(("Algorithm", "Client", "Model", "Properties", "Task"), "fedkd.core"),
    **dict.fromkeys(
        ("Message", "PayloadSpec", "Received", "Transform", "Upload"), "fedkd.messages"
    ),
    "data": "fedkd.data.own.sources",
    "Channel": "fedkd.communication.channel",
    "Round": "fedkd.rounds.round",
    **dict.fromkeys(("Graph", "Method", "Split", "TeacherLogits"), "graphkd"),
    **{name: f"fedkd.algorithms.{name.lower()}" for name in ALGORITHMS.split()},
    **{name: f"graphkd.methods.{name.lower()}" for name in METHODS.split()},
    "Outputs": "kdcore.outputs",
    **dict.fromkeys(("Batches", "Clipping", "Examples", "TrainingConfig"), "kdcore.training.loop"),
}

__all__ = [*sorted(_PUBLIC), "__version__"]


def _guard() -> None:
    """Say so, in one line, when a folder of the user's hides a package of ours."""
    found = find_spec("simulations")
    where = Path(found.origin or "") if found else Path()
    if where.resolve() != Path(__file__).resolve().parents[1] / "simulations" / "__init__.py":
        raise ImportError(
            f"simulations of kdsim is hidden by {where}; rename that, or start Python elsewhere"
        )
    from simulations.packages import hidden

    if said := hidden():
        raise ImportError(said)


_guard()
__version__ = importlib.import_module("simulations.packages").our_version()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"kdsim has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__

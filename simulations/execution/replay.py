"""`kdsim inspect`: what exactly crossed the network, to and from one client in one round.

Payloads are not kept with a run: the round is run again from the experiment, from the newest
checkpoint before it, and is checked against the checksum that the round's record holds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fedkd.communication.channel import weigh_broadcast, weigh_upload
from fedkd.data.federated_data import FederatedData
from fedkd.messages import Message
from fedkd.rounds import checkpoint
from fedkd.rounds.round import Round
from simulations.config import experiments, files, identity, sources
from simulations.config.resources import Resources
from simulations.execution import scheduler
from simulations.execution.payloads import lines, tensors
from simulations.results import run_folder
from simulations.runners import federated
from simulations.runners.federated_run import FederatedRun, checksum, federated_run

Record = dict[str, Any]


def inspect(
    folder: Path, index: int, client: int, root: Path | None = None, rows: int = 3
) -> Iterator[Record]:
    """Records of what a client was told and what it sent in a round: one of each tensor.

    Args:
        folder: of one federated run.
        index: of the round, from 1.
        client: its number.
        root: the folder of data sets.
        rows: of how many rows of predictions the largest classes are told.

    Raises:
        ValueError: no such run, round or client; the client had no part in the round; or the replay
            is not what was sent. One line that says what to do.
        FileNotFoundError: a data file is missing.
    """
    run = _run_in(folder)
    experiment = _experiment_of(run)
    record = _record_of(run, experiment, index, client)
    torch.set_num_threads(int(run_folder.head(run.path)["threads"]))
    resources = _resources_of(run.path)
    device = federated.device_for(experiment, resources)
    federation = federated.prepare(experiment, root, resources).to(device)
    way = federated_run(experiment, federation)
    current = _replay(way, federation, resources, run, index)
    _check(record, current, run)
    if client not in {**current.broadcasts, **current.uploads}:
        raise ValueError(
            f"nothing crossed between client {client} and the others in round {index}; "
            f"{_others(current)}"
        )
    yield _said(way, current, client, "checksum" in record)
    yield from _payloads(way, federation, current, client, rows)


def _replay(
    way: FederatedRun,
    federation: FederatedData,
    resources: Resources,
    run: run_folder.Run,
    index: int,
) -> Round:
    """The round, run again from the newest checkpoint before it, or from the start."""
    kept, before = run.path / scheduler.CHECKPOINT, None
    if 0 < checkpoint.reached(kept) < index:
        found = federated.loaded(kept, federation, run.hash)
        before = found[0] if found else None
    with federated.engine_of(way.experiment, resources) as (engine, *_):
        rounds = way.rounds(federation, engine, before)
        return next(current for current in rounds if current.index == index)


def _payloads(
    way: FederatedRun, federation: FederatedData, current: Round, client: int, rows: int
) -> Iterator[Record]:
    """A record of each tensor, down and up."""
    channel, classes = way.channel.with_algorithm(way.algorithm), federation.task.num_classes
    read: Message = {}
    if client in current.broadcasts and way.topology is None:
        read = channel.read_down(current.broadcasts[client])
        yield from tensors("down", current.broadcasts[client], read, classes, rows)
    if client in current.uploads:
        upload, group = current.uploads[client], federation.clients[client].group
        # On a clock, perhaps an earlier one.
        answered = getattr(current, "answered", current.broadcasts)
        reader = channel.given_broadcast(channel.read_down(answered.get(client, {})))
        try:
            payload_spec = way.algorithm.payload_spec(federation.task, group)
            read = reader.read_up(upload, payload_spec).payload
        except ValueError:
            read = {}  # it was turned away: only what was sent can be told
        held = None if upload.rows is None else upload.rows.nonzero().flatten().tolist()
        yield from tensors("up", upload.payload, read, classes, rows, held)


def _said(way: FederatedRun, current: Round, client: int, verified: bool) -> Record:
    """The round, the sums of bytes, and what became of the upload."""
    upload = current.uploads.get(client)
    counts = "weight" in way.algorithm.properties.beyond_training
    record: Record = {
        "record": "inspect",
        "round": current.index,
        "client": client,
        "bytes_down": weigh_broadcast(way.algorithm, current.broadcasts.get(client, {})).total(),
        "bytes_up": weigh_upload(way.algorithm, client, upload).total() if upload else 0,
        "weight": float(upload.weight) if upload and counts else None,
        "checksum": checksum(current) if verified else None,
    }
    if way.topology is not None:
        hears = sorted(way.topology.neighbourhoods[client] - {client})
        record["sent_to"] = hears
    if client in current.rejected:
        record["rejected"] = current.rejected[client]
    if client in current.failed:
        record["failed"] = current.failed[client]
    if upload is None and client not in current.failed:
        record["pending"] = "its upload was still on its way"
    if client in getattr(current, "late", ()):
        record["late"] = "too late to count"
    if client in getattr(current, "stale", {}):
        record["rounds_late"] = getattr(current, "stale", {})[client]
    return record


def _run_in(folder: Path) -> run_folder.Run:
    if (folder / "run.json").is_file():
        return run_folder.load(folder)[0]
    found = [run.path for run in run_folder.load(folder)] if folder.is_dir() else []
    if found:
        raise ValueError(f"{folder} holds {len(found)} runs; name one of them, such as {found[0]}")
    raise ValueError(f"{folder} is no run folder; name one that `kdsim run` or `fed` has written")


def _experiment_of(run: run_folder.Run) -> experiments.FedExperiment:
    """The experiment of a run, as it was."""
    given = {k: v for k, v in run.experiment.items() if k not in ("kind", "algorithm", "method")}
    if run.experiment.get("kind") != "fed":
        raise ValueError(f"{run.path} is no federated run: nothing crossed a network in it")
    experiment: experiments.FedExperiment = experiments.build(
        "fed", run.experiment["algorithm"], given
    )
    now = sources.sources(experiment)
    for path, (_, before) in run_folder.sources(run.path).items():
        sources.check(now, before, path)
    if identity.digest(experiment, now) != run.hash:
        raise ValueError(
            f"{run.path} was written by another version of kdsim, with other settings; inspect it "
            "with that version, or run the experiment again"
        )
    return experiment


def _record_of(
    run: run_folder.Run, experiment: experiments.FedExperiment, index: int, client: int
) -> Record:
    """What the run says of the round; ValueError for a round or client that it does not have."""
    rounds = {r["round"]: r for r in run.records if r.get("record") == "round"}
    if index not in rounds:
        raise ValueError(
            f"--round {index}: {run.path.name} has the rounds 1 to {max(rounds, default=0)}"
        )
    if not 0 <= client < experiment.clients:
        raise ValueError(f"--client {client}: the clients are 0 to {experiment.clients - 1}")
    return dict(rounds[index])


def _resources_of(folder: Path) -> Resources:
    path = folder.parent / run_folder.EXPERIMENT
    document = files.read(path) if path.is_file() else {}
    with files.naming(path.name):
        return Resources.of(document.get("resources", {}))


def _check(record: Record, current: Round, run: run_folder.Run) -> None:
    """Raise ValueError for a replay that is not what was sent."""
    if "checksum" in record and record["checksum"] != checksum(current):
        before, now = run_folder.head(run.path)["versions"], run_folder.versions()
        differ = [f"{k} {v} (now {now.get(k)})" for k, v in before.items() if now.get(k) != v]
        cause = ", ".join(differ) or "the engine auto, another machine, or other data"
        raise ValueError(
            f"round {record['round']} cannot be replayed exactly, so nothing is shown: the "
            f"checksum of what crossed was {record['checksum']} and is {checksum(current)}; the "
            f"cause may be {cause}. Inspect it there, or run the experiment again here"
        )


def _others(current: Round) -> str:
    found = sorted({*current.broadcasts, *current.uploads})
    return f"there it was {', '.join(map(str, found))}" if found else "it was nobody"


def show(records: Iterator[Record], json: bool) -> None:
    """Print the records, as lines of JSON or to be read."""
    if json:
        for record in records:
            print(run_folder.line(record))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for record in records:
        for line in lines(record):
            console.print(line)

"""`kdsim inspect`: what exactly crossed the network, to and from one client in one round.

Payloads are not kept with a run: the round is run again from the experiment, from the newest
checkpoint before it, and is checked against the checksum that the round's record holds. All its
clients are, by the same engine in the same stacks, as one alone has other last bits.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedkd.communication.channel import weigh_broadcast, weigh_upload
from fedkd.data.federated_data import FederatedData
from fedkd.messages import Message, Upload
from fedkd.rounds import checkpoint
from fedkd.rounds.round import Round
from fedkd.storage import atomic_files
from simulations.config import experiments, files, identity, sources
from simulations.config.resources import Resources
from simulations.execution import scheduler
from simulations.execution.payloads import lines, tensors
from simulations.results import run_folder
from simulations.runners import federated
from simulations.runners.federated_run import FederatedRun, checksum, federated_run

Record = dict[str, Any]


class Opened(NamedTuple):
    """A federated run, ready to be run again.

    Attributes:
        run: its folder.
        experiment, resources: as they were.
        federation: on the device where it computed.
        way: its course.
    """

    run: run_folder.Run
    experiment: experiments.FedExperiment
    resources: Resources
    federation: FederatedData
    way: FederatedRun

    def rounds(self, last: int, first: int = 1) -> Iterator[Round]:
        """The rounds from the first to the last asked for, each of them as it was recorded.

        Raises:
            ValueError: a round that is not what was sent. One line that says what to do.
        """
        recorded = {r["round"]: r for r in self.run.records if r.get("record") == "round"}
        kept, before = self.run.path / scheduler.CHECKPOINT, None
        if 0 < checkpoint.reached(kept) < first:
            found = federated.loaded(kept, self.federation, self.run.hash)
            before = found[0] if found else None
        with federated.engine_of(self.experiment, self.resources) as (engine, *_):
            for current in self.way.rounds(self.federation, engine, before):
                if current.index >= first:
                    _check(recorded[current.index], current, self.run)
                    yield current
                if current.index == last:
                    return


def opened(folder: Path, root: Path | None = None) -> Opened:
    """The federated run in a folder.

    Raises:
        ValueError: there is no such run, or it cannot be run again.
        FileNotFoundError: a data file is missing.
    """
    run = _run_in(folder)
    experiment = _experiment_of(run)
    if experiment.secret_noise:
        raise ValueError(
            f"{run.path} has secret noise, which nobody can draw again, so what crossed cannot be "
            "shown; run it without secret_noise to look at it"
        )
    torch.set_num_threads(int(run_folder.head(run.path)["threads"]))
    resources = _resources_of(run.path)
    device = federated.device_for(experiment, resources)
    federation = federated.prepare(experiment, root, resources).to(device)
    way = federated_run(experiment, federation)
    return Opened(run, experiment, resources, federation, way)


def inspect(
    folder: Path,
    index: int,
    client: int,
    root: Path | None = None,
    rows: int = 3,
    save: Path | None = None,
) -> Iterator[Record]:
    """Records of what a client was told and what it sent in a round: one of each tensor.

    Args:
        folder: of one federated run.
        index: of the round, from 1.
        client: its number.
        root: the folder of data sets.
        rows: of how many rows of predictions the largest classes are told.
        save: a file for the tensors themselves (safetensors): `down.KEY` and `up.KEY` as they
            crossed, `up.KEY.read` and `down.KEY.read` where reading makes something else of them.

    Raises:
        ValueError: no such run, round or client; the client had no part in the round; or the replay
            is not what was sent. One line that says what to do.
        FileNotFoundError: a data file is missing.
    """
    run = _run_in(folder)
    record = _record_of(run, _experiment_of(run), index, client)
    replay = opened(folder, root)
    (current,) = replay.rounds(index, index)
    if client not in {**current.broadcasts, **current.uploads}:
        raise ValueError(
            f"nothing crossed between client {client} and the others in round {index}; "
            f"{_others(current)}"
        )
    yield _said(replay, current, client, "checksum" in record)
    messages = list(_messages(replay, current, client))
    for message in messages:
        yield from tensors(*message[:3], replay.federation.task.num_classes, rows, message.held)
    if save is not None:
        found = {name: value for message in messages for name, value in message.named()}
        atomic_files.save(save, {name: value.numpy() for name, value in found.items()})


class Crossed(NamedTuple):
    """A message: its direction, as it crossed, as it was read (empty where it could not be)."""

    direction: str
    sent: Message
    read: Message
    held: list[int] | None = None

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors by name, on the CPU."""
        for key, value in self.sent.items():
            plain = value.detach().cpu().contiguous()
            yield f"{self.direction}.{key}", plain
            if key in self.read and not _same(plain, self.read[key].cpu()):
                yield f"{self.direction}.{key}.read", self.read[key].detach().cpu().contiguous()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def _messages(replay: Opened, current: Round, client: int) -> Iterator[Crossed]:
    """What crossed between a client and the others in a round."""
    channel = replay.way.channel.with_algorithm(replay.way.algorithm)
    if client in current.broadcasts and replay.way.topology is None:
        sent = current.broadcasts[client]
        yield Crossed("down", sent, channel.read_down(sent))
    if client in current.uploads:
        upload = current.uploads[client]
        read = read_upload(replay, current, client)
        held = None if upload.rows is None else upload.rows.nonzero().flatten().tolist()
        yield Crossed("up", upload.payload, read.payload if read else {}, held)


def read_upload(replay: Opened, current: Round, client: int) -> Upload | None:
    """An upload as the server reads it; None where it was turned away, or there is none."""
    if client not in current.uploads:
        return None
    way, group = replay.way, replay.federation.clients[client].group
    channel = way.channel.with_algorithm(way.algorithm)
    # On a clock, an upload answers perhaps an earlier broadcast.
    answered = getattr(current, "answered", current.broadcasts)
    answer = channel.given_broadcast(channel.read_down(answered.get(client, {})))
    try:
        spec = way.algorithm.payload_spec(replay.federation.task, group)
        return answer.read_up(current.uploads[client], spec)
    except ValueError:
        return None


def _said(replay: Opened, current: Round, client: int, verified: bool) -> Record:
    """The round, the sums of bytes, and what became of the upload."""
    way, upload = replay.way, current.uploads.get(client)
    about = way.algorithm, replay.federation.task, client
    counts = "weight" in way.algorithm.properties.beyond_training
    counts &= way.channel.private_size.disclosure != "hidden"
    record: Record = {
        "record": "inspect",
        "round": current.index,
        "client": client,
        "bytes_down": weigh_broadcast(way.algorithm, current.broadcasts.get(client, {})).total(),
        "bytes_up": weigh_upload(*about, upload, way.channel).total() if upload else 0,
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
    found = list(run_folder.load(folder)) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        such = f"name one of them, such as {found[0].path}"
        raise ValueError(f"{folder} holds {len(found)} runs; {such}")
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
        cause = ", ".join(differ) or "another machine, or other data"
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

"""One federated run: an experiment in, a record per round and one of the whole run out."""

import gc
import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedkd.attacks.byzantine import corrupt
from fedkd.attacks.lying import lying
from fedkd.communication.private_size import check_disclosure
from fedkd.core import Client, Engine, Model, Task
from fedkd.data import datasets
from fedkd.data import partition as partitions
from fedkd.data.federated_data import FederatedData, Pools, federate, noisy, pools, ready, tried
from fedkd.data.own import sources as own_sources
from fedkd.data.own.containers import is_file
from fedkd.data.own.partition import ClientRows, Dealt, deal
from fedkd.data.partition import Partition
from fedkd.engines import made
from fedkd.engines.batched import batched
from fedkd.engines.fault_tolerance import fault_tolerant
from fedkd.engines.sequential import sequential
from fedkd.losses import with_losses
from fedkd.messages import Ledger
from fedkd.models import build, size
from fedkd.rounds import checkpoint
from fedkd.rounds.round import (
    Deployment,
    Round,
    check_federation,
    deploy_all,
    left_out,
    nothing_learnt,
)
from fedkd.storage import weights
from fedkd.storage.client_store import ClientStore
from fedkd.targets import CLASSES
from kdcore.devices import device_of
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig
from kdcore.training.mixed_precision import in_precision
from simulations import machine, process
from simulations.config.experiments import USUAL, FedExperiment, tampering
from simulations.config.identity import digest
from simulations.config.resources import Resources
from simulations.results import run_folder
from simulations.runners import federated_scores, privacy
from simulations.runners.federated_run import FederatedRun, federated_run, saved
from simulations.runners.objects import NONE, Objects

Record = dict[str, Any]


def prepare(
    experiment: FedExperiment,
    root: Path | None = None,
    resources: Resources = Resources(),  # noqa: B008  (frozen)
    objects: Objects = NONE,
) -> FederatedData:
    """The clients of an experiment, checked.

    Args:
        experiment: what to run.
        root: the folder of data sets, see `fedkd.data.datasets.load`.
        resources: what the engine may take.
        objects: data and models that were given as such.

    Raises:
        ValueError: it cannot run; the message names the value, what was expected and the way out.
        FileNotFoundError: a data file is missing.
    """
    given = objects.given(experiment.data)
    data = _read(experiment, root) if given is None else given
    federation = dealt(experiment, data, objects)
    check(experiment, federation, resources)
    said = left_out(experiment.algorithm, federation.task, federation.clients)
    if experiment.distillation_loss != USUAL and not experiment.algorithm.properties.distils:
        said += (
            f"{experiment.name} learns from no predictions of others: the distillation loss "
            f"{experiment.distillation_loss} changes nothing",
        )
    return federation._replace(notes=(*federation.notes, *_meant(experiment, data), *said))


def _meant(e: FedExperiment, data: Any) -> tuple[str, ...]:
    """What the partition auto is on these data, as a note: neither title nor settings say it."""
    if e.partition != partitions.AUTO:
        return ()
    name = partitions.chosen(e.partition, data)
    strength = f", alpha {e.alpha:g}" if name in partitions.BY_ALPHA else ""
    return (f"partition auto is {name}{strength} on these data",)


def tables(prepared: FederatedData) -> Any:
    """The data of it: what the first client has, which is a part of tables that all share."""
    first = prepared.clients[0].private
    return first.x, first.y


def _read(e: FedExperiment, root: Path | None) -> Any:
    """The data of a name, or in a file."""
    if e.graph:
        from simulations.runners import federated_graphs  # networkx takes a while to import

        return federated_graphs.read(e, root)
    if not is_file(e.data):
        return datasets.load(e.data, root)
    label = None if e.label is None else e.label.split(",")
    one = label[0] if label and len(label) == 1 else label
    target = None if e.target == "auto" else e.target
    return own_sources.data(e.data, label=one, target=target, client=e.client, by=e.by)


def dealt(e: FedExperiment, data: Any, objects: Objects = NONE) -> FederatedData:
    """The clients of an experiment on some data.

    Raises:
        ValueError: data or models from which no such federation can be made.
    """
    if e.graph:
        from simulations.runners import federated_graphs

        federation = federated_graphs.dealt(e, data, objects)
    else:
        federation = _of_examples(e, data, objects)
    losses = objects.loss(e.loss), objects.loss(e.distillation_loss)
    task = with_losses(federation.task, federation.clients, *losses)
    return federation._replace(task=replace(task, rounds=e.rounds))


def _of_examples(e: FedExperiment, data: Any, objects: Objects) -> FederatedData:
    if not isinstance(data, datasets.Dataset):
        raise ValueError(f"{e.name} learns from a Dataset (kdsim.data), got {type(data).__name__}")
    rows = objects.rows(e.partition)
    by_hand = None if rows is None else _dealt_by_hand(e, data, rows)
    chosen = _pools(e, data) if by_hand is None else by_hand.pools
    about = data.shape, data.num_classes, tried(ready(data, chosen), chosen)
    built = objects.built(e.models, *about)
    models = built | {name: build(name, *about) for name in e.models if name not in built}
    models = {
        name: model._replace(predict=in_precision(model.predict, e.precision))
        for name, model in models.items()
    }
    _check_room(e, models, len(chosen.private))
    parts = _parts(e, data, chosen) if by_hand is None else by_hand.parts
    tests = () if by_hand is None else by_hand.tests
    data = _in_bands(e, data, chosen, parts)
    if e.label_noise:
        data = noisy(data, chosen.private, e.label_noise, generator(e.seed, "label noise"))
    if e.lie is not None and e.lie[1].about == "labels":
        data = _mislabelled(e, data, [chosen.private[places] for places in parts])
    more = e.rotations, tests, e.same_start
    return federate(data, chosen, parts, e.models, e.seed, *more, built=models)


def check(e: FedExperiment, federation: FederatedData, resources: Resources) -> None:
    """Raise ValueError for a federation that cannot run."""
    check_federation(e.algorithm, federation.task, federation.clients)
    way = federated_run(e, federation)
    e, channel = way.experiment, way.channel.with_algorithm(e.algorithm)
    if way.costs is not None:  # not every network can be trained with the noise
        check_federation(e.algorithm, federation.task, federation.clients)
    for group in federation.task.models:
        payload_spec = e.algorithm.payload_spec(federation.task, group)
        channel.check(payload_spec)
        check_disclosure(e.size_disclosure, e.name, payload_spec)
    _check_fault(e, federation)
    _check_lie(e, federation)
    _check_engine(e, federation, resources)


def run(
    experiment: FedExperiment,
    root: Path | None = None,
    resources: Resources = Resources(),  # noqa: B008  (frozen)
    kept: Path | None = None,
    ended: weights.Place | None = None,
    identity: str | None = None,
    objects: Objects = NONE,
) -> Iterator[Record]:
    """A record of each round, and one of the run, whose metrics are those of the last round.

    "bytes_up" and "bytes_down" of a round are what crossed in all rounds so far, "bytes_deployed"
    what goes down once more so that the scored models are what they are. The run's "bytes_down" has
    that of its last round, and no other: where a run goes on, the next broadcast brings it.

    Only what is called "seconds" may differ between two runs of the same experiment, and "actors":
    where those of the engine `ray` are that have started since the record before. "engine" is how
    clients run, group by group, where the engine `auto` has chosen, in the first record after that.

    Args:
        experiment: what to run.
        root: the folder of data sets.
        resources: actors of the engine `ray`, and how often a checkpoint is written.
        kept: where checkpoints are, in the run's folder; if there is one, the run goes on from it.
        ended: where the final weights go: each client's model as it is scored.
        identity: by which checkpoints are known; by default the experiment's digest.
        objects: data and models that were given as such.
    """
    if experiment.secret_noise:
        kept = None  # what was drawn before is not known any more
    device = device_for(experiment, resources)
    federation = prepare(experiment, root, resources, objects).to(device)
    gc.freeze()  # what is here stays, and need not be looked at again at each collection
    store = ClientStore(resources.memory or None if device.type == "cpu" else None)
    with engine_of(experiment, resources) as (engine, notes, actors, chosen):
        every = resources.checkpoint_every
        known = identity or digest(experiment)
        first = conversions(federation) + _too_many_rounds(experiment)
        first += privacy.notes(experiment, federated_run(experiment, federation).costs)
        reported: dict[str, str] = {}
        for record in _rounds(experiment, federation, engine, store, every, kept, ended, known):
            said = [*first, *notes, *store.notes]
            first.clear()
            notes.clear()
            store.notes.clear()
            said += record.get("notes", [])
            where: Record = {"actors": [*actors]} if actors else {}
            actors.clear()
            where |= {"engine": dict(chosen)} if chosen != reported else {}
            reported = dict(chosen)
            yield record | ({"notes": said} if said else {}) | where


def conversions(federation: FederatedData) -> list[str]:
    """What was done to data and models so that they can be run, in words.

    That clients cannot be stacked is left to the engine to say: one that runs them in turn anyway
    does nothing else than it was asked to.
    """
    said = list(federation.notes)
    for group, model in federation.task.models.items():
        why = getattr(model.predict, "alone", None)
        own = [note for note in model.notes if why is None or why not in note]
        said += [f"{group}: {note}" for note in own]
    return said


def _too_many_rounds(e: FedExperiment) -> list[str]:
    """That a method of one round is run for more, in words."""
    if e.rounds == 1 or not e.algorithm.properties.one_round:
        return []
    return [
        f"{e.name} is a method of one round, and rounds is {e.rounds}: in each further one clients "
        "begin from the server's model, and all is done again; --rounds 1 is the paper's"
    ]


def _rounds(
    experiment: FedExperiment,
    federation: FederatedData,
    engine: Engine,
    store: ClientStore,
    every: int,
    kept: Path | None,
    ended: weights.Place | None,
    identity: str,
) -> Iterator[Record]:
    start = time.perf_counter()
    way = federated_run(experiment, federation)
    scorer = sequential if experiment.graph and experiment.engine == "ray" else engine
    found = loaded(kept, federation, identity) if kept else None
    before, total = found or (None, Ledger())
    spent = privacy.begun(way.costs, kept, identity, before.index if before else 0)
    secret = secrets.randbits(62) if experiment.secret_noise else None
    record, scores, current, used = {}, {}, before, None
    for current in way.rounds(federation, engine, before, store, secret):
        ledger = current.ledger
        total += ledger
        spent = privacy.after(spent, current)
        due = current.index % experiment.eval_every == 0 or current.index == experiment.rounds
        used = _used(way, federation, current, engine) if due else None
        scores = federated_scores.scored(way, federation, current, used, scorer) if used else {}
        record = _round(current, total, ledger, scores) | way.said(federation, current)
        record |= privacy.of_round(spent)
        if note := nothing_learnt(current.index, current.uploaders, current.rejected):
            record["notes"] = [note]
        yield record | {"seconds": time.perf_counter() - start}
        if kept and every and current.index % every == 0 and current.index < experiment.rounds:
            run_folder.settle(kept.parent)
            about = identity, _constants(federation.task), spent.parts if spent else None
            checkpoint.save(kept, saved(current), total, *about)
    assert current is not None
    assert used is not None
    said = _keep(ended, federation, used.clients) if ended else []
    said += [federated_scores.collapse(scores)] if "collapsed" in scores else []
    metrics = {name: scores[name] for name in federated_scores.of_run(federation, scores)}
    down = total.bytes_down + scores["bytes_deployed"]
    epsilon, account = privacy.of_run(spent)
    metrics |= {"bytes_up": total.bytes_up, "bytes_down": down} | way.metrics(record) | epsilon
    metrics |= federation.measures
    yield {
        "record": "run",
        "kind": "fed",
        "method": experiment.name,
        "data": experiment.data,
        "protocol": experiment.protocol,
        "seed": experiment.seed,
        "metrics": metrics,
        **way.drawn(),
        **account,
        **federation.drawn,
        "state": checkpoint.digest(saved(current)),
        **({"diverged": scores["diverged"]} if "diverged" in scores else {}),
        **({"notes": said} if said else {}),
        "seconds": time.perf_counter() - start,
    }


def device_for(experiment: FedExperiment, resources: Resources) -> torch.device:
    """Where a run computes; that of the engine `ray` leaves devices to its actors.

    Raises:
        ValueError: there is no such device, or actors would not be on it.
    """
    if experiment.engine != "ray":
        return device_of(resources.device, resources.gpus)
    if resources.device not in ("auto", "cpu") and not resources.gpus:
        raise ValueError(
            f"device {resources.device} with the engine ray: its actors compute on a GPU of which "
            "they have a share; say gpus, such as 0.5, and leave out the device"
        )
    return torch.device("cpu")


def loaded(kept: Path, federation: FederatedData, identity: str) -> tuple[Round, Ledger] | None:
    """The newest checkpoint of a run, see `fedkd.rounds.checkpoint.load`, where its tensors are."""
    task = federation.task
    return checkpoint.load(kept, federation.clients, identity, task.device, _constants(task))


def _constants(task: Task) -> str:
    """What a run's checkpoints are known by beside the experiment: `Model.constants` of all."""
    return " ".join(f"{g}={m.constants}" for g, m in sorted(task.models.items()) if m.constants)


@contextmanager
def engine_of(
    experiment: FedExperiment, resources: Resources
) -> Iterator[tuple[Engine, list[str], list[Record], dict[str, str]]]:
    """The engine, what it did otherwise than asked, its actors, and how it has groups run.

    These are its own list, list and dict, which it adds to.
    """
    with ExitStack() as held:
        if experiment.engine == "ray":
            from fedkd.engines.ray.engine import RayEngine  # Ray takes a second to import

            share, shares = _shares(experiment, resources)
            with process.own_signals():
                engine: Engine = held.enter_context(
                    RayEngine(
                        resources.actors,
                        chunk=experiment.chunk,
                        share=share,
                        shares=shares,
                        address=resources.ray_address or None,
                        deadline=resources.deadline or None,
                    )
                )
        else:
            cores = resources.cores or machine.cores()
            engine = made(experiment.engine, experiment.chunk, resources.memory or None, cores)
        notes: list[str] = getattr(engine, "notes", [])
        actors: list[Record] = getattr(engine, "started", [])
        chosen: dict[str, str] = getattr(engine, "chosen", {})
        engine = fault_tolerant(engine)
        if experiment.lie is not None and experiment.lie[1].about == "predictions":
            engine = lying(engine, *experiment.lie, CLASSES.sent, experiment.seed)
        if experiment.corrupt is not None:
            engine = corrupt(engine, *tampering(experiment.corrupt, experiment.clients))
        yield engine, notes, actors, chosen


def _pools(e: FedExperiment, data: datasets.Dataset) -> Pools:
    private = e.private or _all_others(e, data)
    return pools(data, private, e.public, e.validation, e.test, e.seed, e.absent_classes)


def _parts(e: FedExperiment, data: datasets.Dataset, chosen: Pools) -> Partition:
    """For each client, places in the private pool."""
    stream, key = generator(e.seed, "partition"), partitions.key_of(data)
    domains, cut = (None if v is None else v[chosen.private] for v in (data.domains, key))
    more = e.alpha, e.shards, e.classes_per_client, domains, data.target, cut
    how = partitions.chosen(e.partition, data)
    return partitions.partition(how, data.y[chosen.private], e.clients, stream, *more)


def _in_bands(
    e: FedExperiment, data: datasets.Dataset, chosen: Pools, parts: Partition
) -> datasets.Dataset:
    """The data, whose domains are the clients' bands where they were dealt out by these."""
    key = partitions.key_of(data)
    if partitions.chosen(e.partition, data) != "bands" or key is None:
        return data
    held = [chosen.private[places] for places in parts]
    return data._replace(domains=partitions.in_bands(key, held))


def _mislabelled(
    e: FedExperiment, data: datasets.Dataset, held: Sequence[Tensor]
) -> datasets.Dataset:
    """The data with other labels on the rows of those who lie about them.

    Raises:
        ValueError: labels are no classes.
    """
    if data.target != CLASSES:
        raise ValueError(
            f"liars {e.liars}: wrong labels are of classes, and each example has "
            f"{data.target.words}; leave it out"
        )
    assert e.lie is not None
    who, lie = e.lie
    y = data.y.clone()
    for liar in who:
        y[held[liar]] = lie.labels(y[held[liar]], data.num_classes)
    return data._replace(y=y)


def _dealt_by_hand(e: FedExperiment, data: datasets.Dataset, rows: Sequence[ClientRows]) -> Dealt:
    """What the user has dealt out, row by row.

    Raises:
        ValueError: rows that there are not, or settings that would deal otherwise.
    """
    if len(rows) != e.clients:
        raise ValueError(f"parts are of {len(rows)} clients, and clients is {e.clients}")
    held = sum(len(one.training) for one in rows)
    said = {"private": e.private not in (0, held), "absent_classes": e.absent_classes > 0}
    said |= {"rotations": e.rotations > 1, "data": data.foreign > 0}
    if wrong := [key for key, other in said.items() if other]:
        raise ValueError(
            f"parts say which of {len(data.y)} examples each client holds, and "
            f"{wrong[0]}={getattr(e, wrong[0])} says otherwise; leave one of them out"
        )
    return deal(data, rows, e.public, e.validation, e.test, e.seed)


def _all_others(e: FedExperiment, data: datasets.Dataset) -> int:
    """How many examples are private where all are that are nothing else."""
    test = 0 if data.official else e.test or len(data.y) // 5  # untold, a fifth
    there = len(data.y) - data.official - data.foreign
    others = there - (0 if data.foreign else e.public) - e.validation - test
    if others < 1:
        raise ValueError(
            f"{e.public} public, {e.validation} validation and {test} test examples leave none "
            f"of {there} to train on; take fewer"
        )
    return others


def _check_room(e: FedExperiment, models: Mapping[str, Model], private: int) -> None:
    """Raise ValueError for models and orders of examples that this machine has no memory for."""
    there = machine.memory()
    counts = {name: size(model) for name, model in models.items()}
    bytes_of = [math.inf if n is None else 4 * n for n in counts.values()]
    # Parameters of all; and of one that is trained, its gradients, momentum and what it becomes.
    each = sum(bytes_of) / max(len(bytes_of), 1)  # without models: `federate` says so
    need = e.clients * each + 3 * max(bytes_of, default=0)
    if need > there:
        raise ValueError(
            f"models {','.join(e.models)}: the parameters of {e.clients} clients take "
            f"{need / 1e9:.3g} GB, and this machine has {there / 1e9:.3g} GB; take smaller models "
            "or fewer clients"
        )
    for name, own in vars(e.algorithm).items():
        if not isinstance(own, TrainingConfig):
            continue
        passes = own.epochs if own.steps is None else own.steps
        need = 16 * passes * (own.batch_size + max(private, e.public) * (own.steps is None))
        if need > there:
            raise ValueError(
                f"{name}: the order of examples in {passes} passes with batch_size "
                f"{own.batch_size} takes {need / 1e9:.3g} GB, and this machine has "
                f"{there / 1e9:.3g} GB; take smaller ones"
            )


def _check_engine(
    experiment: FedExperiment, federation: FederatedData, resources: Resources
) -> None:
    """Raise ValueError for an engine that could not start."""
    if experiment.engine == "ray":
        from fedkd.engines.ray import engine as ray  # it takes a second to import

        ray.check_models(federation.task.models)
        with process.own_signals():
            ray.check(workers_of(experiment, resources), resources.ray_address or None)
    elif experiment.engine in ("batched", "auto"):
        engine = batched(experiment.chunk, resources.memory or None)
        for client in federation.clients:
            engine.check(client, client.private.x)


def _shares(experiment: FedExperiment, resources: Resources) -> tuple[Any, dict[str, Any]]:
    """What an actor of the engine `ray` takes, and the architectures whose actors take other."""
    from fedkd.engines.ray.engine import Share

    unknown = sorted(set(resources.share_of) - set(experiment.models))
    if unknown:
        raise ValueError(
            f"shares names {unknown[0]!r}, which is none of the models "
            f"({', '.join(experiment.models)})"
        )
    others = {group: Share(*amounts) for group, amounts in resources.share_of.items()}
    if others and set(experiment.models) <= set(others):  # nobody takes what is for all others
        return next(iter(others.values())), others
    return Share(resources.cpus, resources.gpus), others


def workers_of(experiment: FedExperiment, resources: Resources) -> list[Any]:
    """What each actor of the engine `ray` takes, those of one share beside each other.

    Raises:
        ValueError: `shares` names an architecture that is none of the experiment's.
    """
    share, others = _shares(experiment, resources)
    kinds = dict.fromkeys([share, *others.values()])
    return [kind for kind in kinds for _ in range(resources.actors)]


def _check_fault(experiment: FedExperiment, federation: FederatedData) -> None:
    """Raise ValueError for a fault that nobody could see."""
    if experiment.corrupt is None or not experiment.corrupt.endswith(":simplex"):
        return
    task = federation.task
    payload_spec = [
        c for g in task.models for c in experiment.algorithm.payload_spec(task, g).values()
    ]
    if payload_spec and not any(spec.simplex for spec in payload_spec):
        raise ValueError(
            f"corrupt {experiment.corrupt}: the uploads of {experiment.name} are no distributions; "
            "take another fault, such as nan, or an algorithm that exchanges predictions"
        )


def _check_lie(experiment: FedExperiment, federation: FederatedData) -> None:
    """Raise ValueError for lies about predictions that nobody sends, or labels of nodes."""
    if experiment.lie is None:
        return
    if experiment.lie[1].about == "labels":
        if experiment.graph:
            raise ValueError(
                f"liars {experiment.liars}: wrong labels are of examples, and clients hold graphs; "
                "take another lie, such as noise"
            )
        return
    if experiment.algorithm.properties.up == "nothing":
        return  # clients alone, for comparison, whom nobody can lie to
    sent = [experiment.algorithm.payload_spec(federation.task, g) for g in federation.task.models]
    specs = [spec.get(CLASSES.sent) for spec in sent]
    if not all(spec and spec.simplex for spec in specs):
        raise ValueError(
            f"liars {experiment.liars}: the uploads of {experiment.name} are no distributions for "
            "public examples; take label-flip, or an algorithm that exchanges predictions, such as "
            "fedmd"
        )


def _used(
    way: FederatedRun, federation: FederatedData, current: Round, engine: Engine
) -> Deployment:
    """The clients with the models that they would use now."""
    return deploy_all(
        way.algorithm,
        federation.task,
        current,
        engine=engine,
        channel=way.channel,
        seed=way.experiment.seed,
    )


def _keep(ended: weights.Place, federation: FederatedData, used: Sequence[Client]) -> list[str]:
    """Write the final weights; a note where they are too many."""
    task = federation.task
    x = federation.test.x
    about = {
        "shape": list(task.shape),
        "inputs": [_kind(one) for one in (x if isinstance(x, tuple) else (x,))],
        "several": isinstance(x, tuple),
        "num_classes": task.num_classes,
        "groups": {str(client.id): client.group for client in used},
    }
    return weights.save(ended, {str(client.id): dict(client.params) for client in used}, about)


def _kind(x: Tensor) -> tuple[list[int], str]:
    """The shape of an example, and its type."""
    return list(x.shape[1:]), str(x.dtype).removeprefix("torch.")


def _round(current: Round, total: Ledger, ledger: Ledger, scores: Record) -> Record:
    return {
        "record": "round",
        "round": current.index,
        **scores,
        **federated_scores.measured(current),
        "bytes_up": total.bytes_up,
        "bytes_down": total.bytes_down,
        "traffic": {"up": dict(ledger.up), "down": dict(ledger.down)},
        "cohort": list(current.cohort),
        "rejected": {str(client): reason for client, reason in current.rejected.items()},
        "failed": {str(client): reason for client, reason in current.failed.items()},
    }

"""The command: which runs, which attacks; what is written and printed of them."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fedkd.algorithms import REGISTRY as ALGORITHMS
from fedkd.storage import atomic_files
from kdattacks import REGISTRY, Attack, Knowledge, Scores
from kdattacks.attacks import PLACES
from kdcore.registry import is_reference
from simulations.audits import client_links, federated, graphs
from simulations.audits.outcomes import Outcome, pooled
from simulations.graph_settings import kind_of
from simulations.reporting.figures import common, roc
from simulations.results import run_folder

Record = dict[str, Any]
FILE, FIGURE, TABLE = "audit.json", "audit.png", "audit.md"
OF_GRAPHS = ("links", "nodes")
WHAT = {
    "graph": "a graph run",
    "": "a federated run",
    "nodes": "a federated run on a graph",
    "graphs": "a federated run of whole graphs",
}


class Wanted(NamedTuple):
    """What is asked for.

    Attributes:
        attacks: names, or places of a user's own; nothing is all that apply.
        shadows: models that are trained for each client.
        client, round: one alone, and by default all of the last round.
        root: the folder of data sets.
    """

    attacks: tuple[str, ...] = ()
    shadows: int = 64
    client: int | None = None
    round: int | None = None
    root: Path | None = None


def audit(folder: Path, wanted: Wanted, say: Callable[[str], None]) -> list[Outcome]:
    """Attack the run in a folder, or those in the folders below it, and write down what came of it.

    Each run's folder gets `audit.json`, a table and a figure of its own; where there are several
    runs, the folder above gets those of all together, decisions of the same attack pooled.

    A run among several on which no attack can be made, such as one of a baseline, is said and left
    out.

    Raises:
        ValueError: wrong input, or attacks of which none can be made; one that was asked for by
            name and cannot be made, where there is one run.
    """
    for name in wanted.attacks:
        _check_shadows(REGISTRY.get(name), wanted.shadows)
    runs = run_folder.load(folder) if folder.is_dir() else []
    if not runs:
        raise ValueError(
            f"{folder} holds no run; name one that `kdsim run`, `fed` or `graph` wrote"
        )
    _check_kinds(runs, wanted)
    found = []
    for run in runs:
        mine = list(_outcomes(run, wanted, say, alone=len(runs) == 1))
        if mine:
            write(run.path, mine, wanted)
        found += mine
    if not found:
        where = runs[0].path.name if len(runs) == 1 else f"any of the {len(runs)} runs in {folder}"
        raise ValueError(f"no attack can be made on what crossed in {where}; why, is said above")
    if len(runs) > 1 or runs[0].path != folder:
        found = pooled(found)
        write(folder, found, wanted)
    return found


def _check_kinds(runs: Sequence[run_folder.Run], wanted: Wanted) -> None:
    """Raise ValueError for what cannot be audited, before anything is run again."""
    for run in runs:
        records(run.path)  # of before: it may be damaged
        if run.experiment["kind"] not in ("fed", "graph"):
            raise ValueError(f"{run.path.name} is a recipe of the surveys; nothing crossed in it")
        if not run.complete:
            raise ValueError(f"{run.path.name} is not finished; `kdsim resume {run.path.parent}`")
        kind = _kind(run)
        for name in wanted.attacks:
            if not _applies(name, kind):
                others = [other for other in REGISTRY.names() if _applies(other, kind)]
                raise ValueError(
                    f"{name} is no attack on {WHAT[kind]}, and {run.path.name} is one; take one of "
                    f"{', '.join(others)}"
                )
        if kind == "graph" and wanted.client is not None:
            raise ValueError(
                f"--client {wanted.client}: {run.path.name} is a graph run, without any"
            )


def _check_shadows(attack: Attack, wanted: int) -> None:
    """Raise ValueError for fewer shadow models than the attack's file says that it takes."""
    fewest = getattr(sys.modules[attack.__module__], "FEWEST", None)
    if fewest is not None:
        Knowledge(1, shadows_wanted=wanted).enough(fewest)


def _kind(run: run_folder.Run) -> str:
    """What a run is: "graph", or federated and what clients hold, "nodes", "graphs", or neither."""
    return "graph" if run.experiment["kind"] == "graph" else kind_of(run.experiment)


def _applies(name: str, kind: str) -> bool:
    """Whether an attack is one on such runs; of clients `yeom` asks what `nodes` does of others."""
    if is_reference(name):
        return True
    if kind == "graph":
        return name in OF_GRAPHS
    return name != "nodes" and (kind == "nodes" or name not in client_links.WHO)


def _outcomes(
    run: run_folder.Run, wanted: Wanted, say: Callable[[str], None], alone: bool
) -> Iterator[Outcome]:
    """What comes of all attacks on a run; those that cannot be made are said.

    Raises:
        ValueError: that is one that was named, and the run is alone.
    """
    names = wanted.attacks or [n for n in REGISTRY.names() if _applies(n, _kind(run))]
    attacked = _seen(run, wanted)
    say(f"{run.path.name}:")
    for name in names:
        try:
            found = attacked(name)
        except ValueError as error:
            if wanted.attacks and alone:
                raise
            say(f"  {name}: not made: {error}")
            continue
        say(f"  {name}")
        yield from found


def _seen(run: run_folder.Run, wanted: Wanted) -> Callable[[str], list[Outcome]]:
    """The run as an attacker sees it: a function of an attack's name."""
    if run.experiment["kind"] == "graph":
        of_graph = graphs.seen(run.path, wanted.root)
        return lambda name: of_graph.outcomes(name, _attack(name))
    seen = federated.seen(run.path, wanted.root, wanted.shadows, wanted.client, wanted.round)
    return lambda name: of_clients(seen, name)


def of_clients(seen: federated.Audit, name: str) -> list[Outcome]:
    """What comes of the attack of this name on clients; ValueError where it cannot be made."""
    if name in client_links.WHO:
        return client_links.outcomes(seen, name, _attack(name))
    return [seen.outcome(name, _attack(name))]


def _attack(name: str) -> Attack:
    """The attack of this name; of one of the user's, what fails is said in a line."""
    found = REGISTRY.get(name)
    return found if name in PLACES else partial(_tried, name, found)


def _tried(name: str, attack: Attack, *seen: Any) -> Scores:
    try:
        scores = attack(*seen)
    except Exception as error:
        raise ValueError(f"attack {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(scores, Scores):
        raise ValueError(f"attack {name!r} gives {scores!r}; expected Scores (kdattacks)")
    return scores


def write(folder: Path, outcomes: Sequence[Outcome], wanted: Wanted) -> None:
    """`audit.json`, a table and a figure; records of other attacks that were there before stay."""
    kept = [
        record
        for record in records(folder)
        if record["attack"] not in {outcome.about["attack"] for outcome in outcomes}
    ]
    every = [*kept, *(outcome.record for outcome in outcomes)]
    how = {"shadows": wanted.shadows, "versions": run_folder.versions()}
    text = json.dumps(run_folder.finite({**how, "records": every}), indent=1) + "\n"
    atomic_files.write(folder / FILE, text)
    atomic_files.write(folder / TABLE, table(every))
    figure = roc.curves(outcomes)
    if figure is not None:
        with atomic_files.replacing(folder / FIGURE) as draft:
            Path(draft).write_bytes(common.encode(figure, "png"))


def records(folder: Path) -> list[Record]:
    """What earlier audits have left in a folder; nothing where none has.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["records"]
        return [record for record in found if isinstance(record["attack"], str)]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; delete it") from None


FILE_WIDTH = 200  # letters of a line, where nobody looks at a terminal
COLUMNS = ("who", "attack", "AUC", "control", "TPR at 1 % FPR", "at 0.1 %", "else")
ELSE = ("kl", "kl_uniform", "majority", "exact", "correlation", "control_correlation", "nearest")


def table(records: Sequence[Record]) -> str:
    """Who learns what, as Markdown: what a server learns in words, and attack by attack."""
    lines = ["# Who learns what", ""]
    for method in dict.fromkeys(record["method"] for record in records):
        mine = [record for record in records if record["method"] == method]
        lines += [f"## {method}", "", _learns(method), ""]
        lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
        lines += [f"| {' | '.join(row(record))} |" for record in mine]
        lines.append("")
    return "\n".join(lines)


def _learns(method: str) -> str:
    """What the algorithm itself says that a server learns."""
    if method not in ALGORITHMS:
        return "Whoever may ask these networks about nodes:"
    return (
        f"An honest but curious server learns: {ALGORITHMS.get(method).properties.server_learns}."
    )


def row(record: Record) -> list[str]:
    """The cells of a record: a dash where nothing could be told."""
    who = record.get("target", "server" if record["attack"] not in ASKING else "who may ask")
    pairs = f", {record['pairs']} pairs" if "pairs" in record else ""
    control = _number(record["control_auc"])
    if record["control_auc"] is not None:
        control += " ({:.3f} to {:.3f})".format(*record["control_interval"])
    more = [f"{name.replace('_', ' ')} {_number(record[name])}" for name in ELSE if name in record]
    cells = [who, record["attack"] + pairs, _number(record["auc"]), control]
    return [*cells, _number(record["tpr_01"]), _number(record["tpr_001"]), ", ".join(more)]


ASKING = ("yeom", "lira", "lira-offline", "rmia")  # they ask the client's own model


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def show(outcomes: Sequence[Outcome], json: bool) -> None:
    """Print records, as lines of JSON or as a table."""
    if json:
        for outcome in outcomes:
            print(run_folder.line(outcome.record))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD)
    for column in ("method", *COLUMNS):
        shown.add_column(column, no_wrap=True)
    for outcome in outcomes:
        shown.add_row(outcome.about["method"], *row(outcome.record))
    width = None if sys.stdout.isatty() else FILE_WIDTH
    Console(highlight=False, markup=False, width=width).print(shown)

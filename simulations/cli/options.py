"""`kdsim fed ALGORITHM` and `kdsim graph METHOD`: a command for each, its flags the settings."""

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import click
from typer.core import TyperGroup

Run = Callable[..., int]


class Listing(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """Values separated by commas."""

    name = "a,b,c"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The list of values."""
        return value.split(",") if isinstance(value, str) else value


class Methods(TyperGroup):
    """A group with a command for every algorithm (or method) there is, made when it is asked for.

    Args:
        kind: a key of `simulations.config.experiments.KINDS`.
        run: called with the kind, the name, the settings that were given, and the other flags.
        options: flags beside the settings.
    """

    def __init__(self, kind: str, run: Run, options: Callable[[], list[click.Option]]):
        noun = {"fed": "federated run: ALGORITHM", "graph": "graph distillation: METHOD"}[kind]
        super().__init__(name=kind, help=f"One {noun} and its flags.", no_args_is_help=True)
        self.kind, self.run, self.options = kind, run, options

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all."""
        from simulations.config.experiments import KINDS

        return KINDS[self.kind].names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The command of one; a usage error if there is none."""
        from simulations.config.experiments import KINDS
        from simulations.config.schema import Leaf, leaves

        try:
            method = KINDS[self.kind].get(name)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        known = {**leaves(KINDS[self.kind].experiment), **leaves(method)}
        known["seeds"] = Leaf(int | None, None)
        settings: list[click.Parameter] = [_option(key, leaf) for key, leaf in known.items()]

        def call(**flags: Any) -> int:
            given = {key: flags.pop(_variable(key)) for key in known}
            chosen = {key: value for key, value in given.items() if value is not None}
            return self.run(self.kind, name, chosen, flags)

        words = f"{_first(method)}\n\nHyperparameters and settings are listed with their defaults."
        params = [*settings, *self.options()]
        # A plain click command: Typer's table of flags cuts long ones off.
        return click.Command(name, callback=call, params=params, help=words)


def _option(key: str, leaf: Any) -> click.Option:
    flag = "--" + key.replace(".", "-").replace("_", "-")
    shown = ",".join(leaf.default) if leaf.many else leaf.default
    return click.Option(
        param_decls=[_variable(key), flag],
        type=Listing() if leaf.many else _type(leaf.hint),
        default=None,  # so that what was given can be told from what was not
        help=f"{HELP.get(key, '')} [default: {'none' if shown is None else shown}]".strip(),
    )


def _variable(key: str) -> str:
    return key.replace(".", "__")


def _type(hint: Any) -> Any:
    """The click type of a hint; `X | None` is X, since leaving a flag out says None."""
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    plain = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return plain[0]


def _first(method: Any) -> str:
    """The first line of a docstring."""
    return (type(method).__doc__ or "").strip().partition("\n")[0]


HELP = {
    "data": "data set; `kdsim list datasets`",
    "clients": "how many",
    "models": "architectures, dealt out in turn; `kdsim list models`",
    "partition": "how private examples are dealt out",
    "alpha": "concentration of dirichlet and quantity",
    "shards": "shards for each client",
    "classes_per_client": "labels of each client, for pathological",
    "absent_classes": "labels that no client holds",
    "rotations": "1, 2 or 4: turn clients' examples by so many parts of a full turn",
    "private": "examples dealt out to clients",
    "public": "examples that all may see",
    "validation": "examples to select on",
    "test": "test examples; 0 is all that are left",
    "fraction": "share of clients in a round",
    "engine": "who runs the clients",
    "chunk": "clients at once in the batched engine",
    "compression": "of messages both ways",
    "corrupt": "CLIENT:FAULT, tamper with a client's uploads",
    "topology": "who hears whom: a server all, or peers their neighbours",
    "degree": "nearest peers that each is joined to in a small world",
    "rewiring": "chance of a small world's link to lead elsewhere",
    "radius": "of a random geometric topology",
    "clock.step_seconds": "virtual seconds of a mini-batch",
    "clock.bandwidth": "bytes a virtual second of a client, each way; 0 is no limit",
    "clock.spread": "sigma of the log-normal factors by which clients' speeds differ",
    "clock.stragglers": "share of clients that are slow",
    "clock.slowdown": "how many times slower",
    "clock.dropout": "chance of a client to be lost in a round",
    "clock.deadline": "virtual seconds after which a round ends; 0 waits for all",
    "clock.staleness": "rounds that an upload may be late and still count",
    "clock.buffer": "update the server after so many uploads, without rounds",
    "clock.server_learning_rate": "times the updates of parameters in a buffer",
    "eval_every": "rounds between evaluations",
    "seed": "of every random choice",
    "seeds": "run seeds 0 to N-1 instead",
    "protocol": "are the test nodes in the graph from the start?",
    "public_size": "public examples asked about in a round; none is all",
}

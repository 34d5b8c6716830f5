"""Audits of mechanisms: many runs on either of two neighbours, and what these prove of epsilon.

Unlike an attack on a run this asks whether a mechanism keeps what it promises. The noise is what
kdsim itself would take for the epsilon; the runs go through the code that federations go through.
If the lower bound is above the epsilon, the mechanism is wrong; if it is below, nothing is proved.

How runs are scored is fixed here, before any figure is made, with the share alpha of right
mechanisms that would be found wrong:

- `fd`: the noisy sum of class means and labels held, before the server makes anything of it, of
  three clients who hold ten labels and are sure of one label whatever they see; the first says
  another one in the second neighbour. The score is the release projected onto the difference of the
  two sums. Alpha is .001.
- `dpsgd`: 100 digits, with or without one canary, an example of label 0 whose one input nobody else
  has; each of 20 steps takes 100 records on average, with a learning rate so small that the model
  stays where it began. The score is the change of all parameters projected onto the step along
  which the canary's gradient moves them first. Alpha is .05. The runs are clients of one stack.
- `dpsgd-one-run`: the same records and steps, once, with canaries of which a coin each said whether
  to be in, and each of which has an input of its own. The score of one is the change of the weights
  of its input, projected likewise. Alpha is .05, `runs` is half the number of canaries. It costs
  one training, and sees little: `fedkd.privacy.one_run`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedkd.algorithms.fd import FD
from fedkd.algorithms.local import Local
from fedkd.communication.noisy_aggregation import Cohort, released
from fedkd.core import Client, Task
from fedkd.data import datasets
from fedkd.engines.batched import batched
from fedkd.messages import Message, Received
from fedkd.models import build
from fedkd.privacy import one_run
from fedkd.privacy.accounting import noise_multiplier
from fedkd.privacy.client_noise import ClientNoise
from fedkd.privacy.lower_bounds import FEWEST, lower_bound, projected
from fedkd.rounds.round import private_of_all
from kdcore.rng import generator
from kdcore.training.loop import Clipping, Examples, TrainingConfig, supervised
from kdcore.training.stacked import Params
from simulations.results import run_folder

Scores = tuple[Tensor, Tensor]  # (M,) of runs on one neighbour, and on the other

LABELS = 10
RECORDS, STEPS, CANARY = 100, 20, 100.0


class Mechanism(NamedTuple):
    """What is audited.

    Attributes:
        unit, relation: in which the neighbours differ.
        alpha: how often a right mechanism may be found wrong.
        noise: (epsilon, delta) -> the noise multiplier that kdsim takes.
        scores: (noise multiplier, runs on either neighbour, seed) -> their scores.
        bounds: (scores, delta, alpha) -> the lower bound of epsilon, and others beside it.
        samples: what so many scores of either kind are.
    """

    unit: str
    relation: str
    alpha: float
    noise: Callable[[float, float], float]
    scores: Callable[[float, int, int], Scores]
    bounds: Callable[[Scores, float, float], dict[str, float]]
    samples: str = "runs on either neighbour"


class Proof(NamedTuple):
    """What came of an audit; `record` is how it is written."""

    record: dict[str, Any]

    @property
    def wrong(self) -> bool:
        """Whether the mechanism gives away more than it promises."""
        return bool(self.record["lower_bound"] > self.record["epsilon"])


def audit(name: str, epsilon: float, delta: float, runs: int, seed: int) -> Proof:
    """The lower bound that so many runs on either neighbour prove of a mechanism's epsilon.

    Raises:
        ValueError: no mechanism of this name, or too few runs; epsilon or delta cannot be.
    """
    if name not in MECHANISMS:
        raise ValueError(f"unknown mechanism {name!r}; there are {', '.join(MECHANISMS)}")
    if runs < FEWEST:
        raise ValueError(f"runs is {runs}; take {FEWEST} or more on either neighbour")
    audited = MECHANISMS[name]
    noise = audited.noise(epsilon, delta)
    found = audited.bounds(audited.scores(noise, runs, seed), delta, audited.alpha)
    return Proof(
        {
            "mechanism": name,
            "unit": audited.unit,
            "relation": audited.relation,
            "epsilon": epsilon,
            "delta": delta,
            "noise": noise,
            "runs": runs,
            "seed": seed,
            "alpha": audited.alpha,
            **found,
        }
    )


def by_many_runs(scores: Scores, delta: float, alpha: float) -> dict[str, float]:
    """As if the two samples were normal, and whatever they are."""
    found = lower_bound(*scores, delta, alpha)
    return {"lower_bound": found.gaussian, "clopper_pearson": found.clopper_pearson}


def by_one_run(scores: Scores, delta: float, alpha: float) -> dict[str, float]:
    """By guessing of canaries whether they were in."""
    return {"lower_bound": one_run.lower_bound(*scores, delta, alpha)}


def show(proof: Proof, json: bool) -> None:
    """Print it, as a line of JSON or in words."""
    found = proof.record
    if json:
        print(run_folder.line(found))
        return
    held = "nothing speaks against the mechanism"
    besides = ""
    if "clopper_pearson" in found:
        besides = f"; by Clopper-Pearson alone {found['clopper_pearson']:.2f}"
    lines = (
        f"{found['mechanism']}: epsilon {found['epsilon']:g} at delta {found['delta']:g} of a",
        f"{found['unit']} ({found['relation']}) is promised; the noise is {found['noise']:.3f}.",
        f"{found['runs']} {MECHANISMS[found['mechanism']].samples} prove",
        f"{found['lower_bound']:.2f} (alpha {found['alpha']:g}{besides}):",
        "the mechanism gives away more than it promises" if proof.wrong else held,
    )
    print(" ".join(lines))


def fd(noise: float, runs: int, seed: int) -> Scores:
    """Of sums over clients of which one is another one; see the module."""
    algorithm = FD(leave_one_out=False)
    specs = {"any": algorithm.payload_spec(Task({}, LABELS), "any")}
    cohort = Cohort(specs, {"any": 3.0}, {"any": {}}, {client: {} for client in range(3)})

    def release(label: int, noise: float, run: int) -> Tensor:
        uploads = [_sure_of(label, 0), _sure_of(2, 1), _sure_of(3, 2)]
        stream = generator(seed, "audit", label, run)
        return flat(released(ClientNoise(noise), algorithm, uploads, cohort, stream))

    exact = [release(label, 0.0, 0) for label in (0, 1)]
    first, second = (
        torch.stack([release(label, noise, run) for run in range(runs)]) for label in (0, 1)
    )
    return projected(first, *exact), projected(second, *exact)


def _sure_of(label: int, client: int) -> Received:
    """What a client sends who holds all labels, and answers with one whatever it sees."""
    means = torch.eye(LABELS)[[label] * LABELS]
    return Received(client, "any", {"means": means}, 1.0, torch.ones(LABELS))


def dpsgd(noise: float, runs: int, seed: int) -> Scores:
    """Of training without and with the canary; see the module."""
    data = datasets.load("digits", None)
    x = torch.zeros(RECORDS + 1, data.x[0].numel() + 1)
    x[:RECORDS, :-1] = data.x[:RECORDS].flatten(1)
    x[RECORDS, -1] = CANARY
    y = torch.cat([data.y[:RECORDS], torch.zeros(1, dtype=torch.long)])
    model = build("mlp-16", x.shape[1:], 10)
    start = model.init(generator(seed, "audit"))
    held = [Examples(x, y, torch.arange(count)) for count in (RECORDS, RECORDS + 1)]
    clients = [Client(k, "mlp", start, held[k % 2]) for k in range(2 * runs)]
    training = TrainingConfig(
        learning_rate=0.002, batch_size=RECORDS, steps=STEPS, privacy=Clipping(1.0, noise)
    )
    found = trained(Task({"mlp": model}, 10), clients, Local(training), seed)

    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    loss = supervised(model.predict(leaves, x[RECORDS:]), y[RECORDS:]).sum()
    slope = flat(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
    scores = (torch.stack(list(map(flat, found))) - flat(start)) @ (-slope / slope.norm())
    return scores[0::2], scores[1::2]


def dpsgd_one_run(noise: float, runs: int, seed: int) -> Scores:
    """Of canaries that were left out of one training, and of those in it; see the module."""
    data, canaries = datasets.load("digits", None), 2 * runs
    inputs = data.x[0].numel()
    x = torch.zeros(RECORDS + canaries, inputs + canaries)
    x[:RECORDS, :inputs] = data.x[:RECORDS].flatten(1)
    x[RECORDS:, inputs:] = CANARY * torch.eye(canaries)
    y = torch.cat([data.y[:RECORDS], torch.zeros(canaries, dtype=torch.long)])
    member = torch.rand(canaries, generator=generator(seed, "coins")) < 0.5
    rows = torch.cat([torch.arange(RECORDS), RECORDS + member.nonzero().flatten()])
    model = build("mlp-16", x.shape[1:], 10)
    start = model.init(generator(seed, "audit"))
    training = TrainingConfig(
        learning_rate=0.002 * len(rows) / RECORDS,  # the divisor of a step is the number of records
        batch_size=len(rows),
        steps=STEPS,
        privacy=Clipping(1.0, noise),
    )
    client = Client(0, "mlp", start, Examples(x, y, rows))
    (found,) = trained(Task({"mlp": model}, 10), [client], Local(training), seed)

    first = next(name for name in start if name.endswith("weight"))
    weights = start[first].clone().requires_grad_()
    loss = supervised(model.predict({**start, first: weights}, x[RECORDS:]), y[RECORDS:]).sum()
    (slopes,) = torch.autograd.grad(loss, weights)  # a column is of one canary alone
    change = (found[first] - start[first])[:, inputs:].double()
    slopes = slopes[:, inputs:].double()
    scores = -(change * slopes).sum(dim=0) / slopes.norm(dim=0).clamp(min=1e-12)
    return scores[~member], scores[member]


def trained(task: Task, clients: Sequence[Client], algorithm: Local, seed: int) -> list[Params]:
    """The clients' parameters after a round of their own, in which nothing is exchanged."""
    batches = private_of_all(algorithm, clients, seed, 1)
    inputs: list[tuple[Any, ...]] = [({}, own, None) for own in batches]
    return [params for params, _ in batched()(algorithm.client_update, task, clients, inputs)]


def flat(tensors: Params | Message) -> Tensor:
    """All numbers in a row, in float64."""
    return torch.cat([value.detach().double().flatten() for value in tensors.values()])


DPSGD = Mechanism(
    unit="record",
    relation="add",
    alpha=0.05,
    noise=lambda epsilon, delta: noise_multiplier(epsilon, delta, STEPS),
    scores=dpsgd,
    bounds=by_many_runs,
)
MECHANISMS = {
    "fd": Mechanism(
        unit="client",
        relation="replace",
        alpha=0.001,
        noise=noise_multiplier,
        scores=fd,
        bounds=by_many_runs,
    ),
    "dpsgd": DPSGD,
    "dpsgd-one-run": DPSGD._replace(
        scores=dpsgd_one_run,
        bounds=by_one_run,
        samples="canaries in one run, and as many left out of it,",
    ),
}

"""Who was trained on, from answers and from public predictions alone: tables of docs/privacy.md.

    python -m benchmarks.membership        # digits with 20 % wrong labels, 128 shadow models
    python -m benchmarks.membership --label-noise 0 --shadows 64 --seed 1
    python -m benchmarks.membership --epsilon 20 --steps 100    # of clients trained by DP-SGD

32 targets, each trained on its own 300 of the same 600 digits, so that the other 300 are no
members: 9,600 decisions of either kind, pooled. Shadow models are trained on other halves. All are
clients of DS-FL in its first round, who train and then say what 578 public examples are. Seconds
are CPU seconds of one thread.
"""

import argparse
import time
from dataclasses import replace

import torch

from benchmarks.harness import machine
from fedkd.algorithms.dsfl import DSFL
from fedkd.core import Engine, Task
from fedkd.data import datasets
from fedkd.data.federated_data import flipped
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.models import build
from fedkd.privacy.accounting import noise_multiplier
from fedkd.rounds.round import public_of
from kdattacks import REGISTRY, Knowledge, Recorded, ShadowConfig, scoring, truth
from kdattacks.shadows import halves
from kdcore.rng import generator
from kdcore.training.loop import Clipping, Examples, TrainingConfig

TARGETS, POOL, PUBLIC = 32, 600, 578
DELTA = 1e-4
LOCAL = TrainingConfig(learning_rate=0.5, epochs=40, batch_size=20)
ATTACKS = ("yeom", "lira", "lira-offline", "rmia", "public", "public-nearest")


def federation(
    noise: float, seed: int, engine: Engine, local: TrainingConfig = LOCAL
) -> tuple[ShadowConfig, Examples, Examples]:
    """How clients learn, the candidates, and examples of the attacker's own."""
    data = datasets.load("digits", None)
    order = torch.randperm(len(data.y), generator=generator(seed, "study"))
    pool, public, rest = order.tensor_split([POOL, POOL + PUBLIC])
    y = data.y.clone()
    for name, rows in (("pool", pool), ("rest", rest)):
        y[rows] = flipped(y[rows], noise, 10, generator(seed, name, "noise"))
    task = Task({"mlp": build("mlp-64", data.shape, 10)}, 10, data.x[public])
    algorithm = DSFL(local=local)
    asked = public_of(algorithm, task, seed, 1)
    config = ShadowConfig(algorithm, task, "mlp", ({},), (asked,), engine=engine)
    return config, Examples(data.x, y, pool), Examples(data.x, y, rest)


def study(noise: float, shadows: int, seed: int) -> None:
    """Every attack on membership, and what it took."""
    start = time.process_time()
    config, candidates, population = federation(noise, seed, batched())
    knowledge = Knowledge(10, candidates, population, config, shadows, seed)
    parts = halves(POOL, TARGETS, generator(seed, "targets"))
    targets = config.train(candidates, parts, knowledge.asked, seed + 1_000_000)
    numbers = tuple(range(TARGETS))
    recorded = Recorded(
        numbers,
        ({},),
        (dict(enumerate(targets.sent)),),
        config.public,
        dict(enumerate(targets.predictions)),
    )
    print("| attack | AUC | TPR at 1 % | TPR at 0.1 % | control AUC | CPU s |")
    print("|---|---|---|---|---|---|")
    for name in ATTACKS:
        begun = time.process_time()
        scores = REGISTRY.get(name)(recorded, knowledge, generator(seed, "attack", name))
        found = truth.Facts(targets.member).decisions(scores, generator(seed, "control", name))
        measured = scoring.measures(found)
        cells = [f"{measured[key]:.4f}" for key in ("auc", "tpr_01", "tpr_001", "control_auc")]
        print(f"| {name} | {' | '.join(cells)} | {time.process_time() - begun:.1f} |")
    low, high = scoring.interval(found.values, found.control)
    print(f"control's interval {low:.3f} to {high:.3f}; {time.process_time() - start:.1f} s in all")


def private(noise: float, shadows: int, seed: int, epsilon: float, steps: int) -> None:
    """LiRA on DP-SGD of this epsilon, and on the same steps without noise, and without clipping.

    Beside the rates those of shuffled truths, of which 95 % lie between the two that are named.
    """
    own = POOL // 2
    multiplier = noise_multiplier(epsilon, DELTA, steps, LOCAL.batch_size / own)
    print(f"epsilon {epsilon:g} at delta {DELTA:g}, {steps} steps: noise {multiplier:.3f}")
    print("| steps | accuracy | AUC | TPR at 1 % | TPR at 0.1 % | shuffled at 0.1 % | CPU s |")
    print("|---|---|---|---|---|---|---|")
    arms = {
        "neither clipped nor noisy": None,
        "clipped": Clipping(1.0, 0.0),
        "clipped and noisy": Clipping(1.0, multiplier),
    }
    for name, privacy in arms.items():
        begun = time.process_time()
        local = replace(LOCAL, steps=steps, privacy=privacy)
        config, candidates, population = federation(noise, seed, batched(), local)
        knowledge = Knowledge(10, candidates, population, config, shadows, seed)
        parts = halves(POOL, TARGETS, generator(seed, "targets"))
        targets = config.train(candidates, parts, knowledge.asked, seed + 1_000_000)
        seen = dict(enumerate(targets.predictions))
        recorded = Recorded(tuple(range(TARGETS)), ({},), ({},), config.public, seen)
        scores = REGISTRY.get("lira")(recorded, knowledge, generator(seed, "attack", "lira"))
        found = truth.Facts(targets.member).decisions(scores, generator(seed, "control", "lira"))
        clean = datasets.load("digits", None).y[population.rows]
        correct = targets.predictions[:, POOL:].argmax(dim=-1) == clean
        rates = [scoring.tpr_at(rate, found.values, found.truth) for rate in (0.01, 0.001)]
        cells = [correct.double().mean(), scoring.auc(found.values, found.truth), *rates]
        low, high = shuffled(found, seed)
        print(
            f"| {name} | {' | '.join(f'{cell:.4f}' for cell in cells)} | {low:.4f} to {high:.4f} "
            f"| {time.process_time() - begun:.1f} |",
            flush=True,
        )


def shuffled(found: scoring.Decisions, seed: int, times: int = 200) -> tuple[float, float]:
    """Between which rates at 0.1 % those of 95 % of shuffled truths lie."""
    rates = []
    for time_ in range(times):
        order = torch.randperm(len(found.truth), generator=generator(seed, "shuffled", time_))
        rate = scoring.tpr_at(0.001, found.values, found.truth[order])
        assert rate is not None
        rates.append(rate)
    low, high = torch.tensor(rates).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def speed(shadows: int, alone: int, seed: int) -> None:
    """Shadow models a second, stacked and one by one, measured in turn."""
    ratios, rates = [], []
    for _ in range(3):
        pair = []
        for engine, count in ((batched(), shadows), (sequential, alone)):
            config, candidates, _ = federation(0.2, seed, engine)
            parts = halves(POOL, count, generator(seed, "speed"))
            begun = time.process_time()
            config.train(candidates, parts, candidates, seed)
            pair.append((time.process_time() - begun) / count)
        rates.append(pair)
        ratios.append(pair[1] / pair[0])
    stacked, single = sorted(rates)[1]
    print(
        f"{1 / stacked:.1f} shadow models a second stacked, {1 / single:.1f} one by one: "
        f"{sorted(ratios)[1]:.1f}x [{min(ratios):.1f} to {max(ratios):.1f}]"
    )


def main() -> None:
    """The study, then the speed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label-noise", type=float, default=0.2)
    parser.add_argument("--shadows", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epsilon", type=float, help="of clients trained by DP-SGD, and no more")
    parser.add_argument("--steps", type=int, default=600, help="of each of these")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if given.epsilon is not None:
        private(given.label_noise, given.shadows, given.seed, given.epsilon, given.steps)
        return
    study(given.label_noise, given.shadows, given.seed)
    speed(given.shadows, 6, given.seed)


if __name__ == "__main__":
    main()

"""tests.kdcore.schemes.test_offline."""

import pytest
import torch
from torch import nn

from kdcore.rng import generator
from kdcore.schemes import offline
from kdcore.schemes.learners import Learner
from kdcore.schemes.stages import run, soft
from kdcore.training.loop import draw, fit, supervised
from tests.kdcore.schemes.test_stages import TRAINING, examples, learner, predict, same


def test_alone_is_ordinary_training():
    start, data = learner(1), examples()
    found = run(offline.alone("s", data, TRAINING), {"s": start}, generator(0, "order"))["s"]
    batches = draw(data, TRAINING, generator(0, "order"))
    same(found, Learner(predict, fit(predict, start.params, batches, TRAINING, supervised)), 0)


def test_offline_is_the_loop_of_hinton_et_al():
    student, teacher, data = learner(1), learner(2), examples()
    scheme = offline.offline("s", ("t",), soft(4.0), data, TRAINING, hard=0.3)
    found = run(scheme, {"s": student, "t": teacher}, generator(0, "order"))
    batches = draw(data, TRAINING, generator(0, "order"))
    leaves = {k: nn.Parameter(v.clone()) for k, v in student.params.items()}
    optimiser = torch.optim.SGD(leaves.values(), lr=0.1, momentum=0.9)
    for order, mask in zip(batches.order, batches.mask, strict=True):
        i = order[mask.bool()]
        said, target = predict(leaves, data.x[i]).logits, teacher(data.x[i]).logits
        gap = nn.functional.kl_div(
            (said / 4).log_softmax(-1), (target / 4).softmax(-1), reduction="batchmean"
        )
        hard = nn.functional.cross_entropy(said, data.y[i])
        optimiser.zero_grad()
        (0.7 * 16 * gap + 0.3 * hard).backward()
        optimiser.step()
    same(found["s"], Learner(predict, {k: v.detach() for k, v in leaves.items()}))
    same(found["t"], teacher, 0)


@pytest.mark.parametrize("hard", [0.0, 0.3])
def test_multi_step_is_a_chain_of_offline_stages(hard):
    data, learners = examples(), {n: learner(i) for i, n in enumerate("tas")}
    scheme = offline.multi_step("tas", soft(3.0), data, TRAINING, hard)
    found = run(scheme, learners, generator(5))
    g = generator(5)
    first = run(offline.offline("a", "t", soft(3.0), data, TRAINING, hard), learners, g)
    second = run(offline.offline("s", "a", soft(3.0), data, TRAINING, hard), first, g)
    for name in "tas":
        same(found[name], second[name], 0)

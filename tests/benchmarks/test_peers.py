"""The loop of public libraries does what it says: no last batch, logits of training, one order."""

import torch
from torch.nn import functional as F  # noqa: N812

from benchmarks import peers
from kdcore.rng import generator


def client(count, labels):
    x = torch.rand(count, 3, generator=generator(0, "x"))
    return peers.PeerClient(lambda: torch.nn.Linear(3, 2), x, torch.tensor(labels), 2), x


def test_a_step_for_each_whole_batch_and_logits_from_before_it():
    one, x = client(5, [0, 1, 1, 1, 0])
    model = [p.detach().clone().requires_grad_() for p in one.model.parameters()]
    seen = []
    for batch, y in ((x[:2], [0, 1]), (x[2:4], [1, 1])):  # the fifth example is in no whole batch
        logits = F.linear(batch, *model)
        seen += zip(y, logits.detach(), strict=True)
        slopes = torch.autograd.grad(F.cross_entropy(logits, torch.tensor(y)), model)
        model = [
            (p - 0.1 * g).detach().requires_grad_() for p, g in zip(model, slopes, strict=True)
        ]
    said = one.train({})
    for label in (0, 1):
        mean = torch.stack([logits for held, logits in seen if held == label]).mean(dim=0)
        torch.testing.assert_close(said[label], mean)
    for mine, theirs in zip(model, one.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_who_holds_a_label_counts_once():
    logits = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])]
    told = peers.fd_round([Says({0: logits[0], 1: logits[1]}), Says({0: logits[1]})], {})
    assert told[0].tolist() == [2.0, 4.0]
    assert told[1].tolist() == [3.0, 6.0]


class Says:
    def __init__(self, said):
        self.said = said

    def train(self, told):
        return self.said


def test_of_a_label_that_nobody_holds_the_target_is_what_it_says_itself():
    one, x = client(2, [0, 1])
    logits = one.model(x).detach()
    targets = one._targets(logits, torch.tensor([0, 1]), {0: torch.tensor([0.0, 0.0])})
    assert targets[0].tolist() == [0.5, 0.5]
    torch.testing.assert_close(targets[1], logits[1].softmax(0))

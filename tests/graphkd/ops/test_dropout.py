import pytest
import torch

from graphkd.ops.dropout import Dropout, dropout, mask
from graphkd.training.loop import seeded

CPU = torch.device("cpu")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_zeroes_its_share_and_keeps_the_mean(p):
    with seeded(0, CPU, "test"):
        h = dropout(torch.ones(300, 301), p, True)
    count, kept = h.numel(), (h > 0).sum().item()
    assert abs(kept - (1 - p) * count) < 4 * (p * (1 - p) * count) ** 0.5
    assert set(h.unique().tolist()) == {0, h.max().item()}
    assert h.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)


def test_neighbouring_numbers_are_dropped_independently():
    with seeded(1, CPU, "test"):
        kept = (mask((100_000, 4), 0.5, torch.ones(1)) > 0).float()
    assert kept.T.corrcoef().triu(1).abs().max() < 4 / 100_000**0.5
    assert kept.T.cov().diag().allclose(torch.tensor(0.25), atol=1e-3)


@pytest.mark.parametrize("p", [1e-9, 1 - 1e-9])
def test_the_least_and_the_greatest_share_are_finite(p):
    with seeded(0, CPU, "test"):
        assert mask((70_000,), p, torch.ones(1)).isfinite().all()


def test_nothing_is_dropped_outside_of_training():
    h = torch.ones(3, 3)
    assert dropout(h, 0.5, False) is h
    assert dropout(h, 0.0, True) is h


def test_the_stream_decides_what_is_dropped():
    def drawn(seed):
        with seeded(seed, CPU, "test"):
            return mask((50, 7), 0.5, torch.ones(1, dtype=torch.float64))

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert drawn(0).dtype == torch.float64


def test_the_module_is_pytorchs_own_on_the_cpu():
    h = torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    found = []
    for kind in (Dropout, torch.nn.Dropout):
        with seeded(0, CPU, "test"):
            found.append(kind(0.4)(h))
    assert torch.equal(*found)
    assert torch.equal(Dropout(0.4).eval()(h), h)

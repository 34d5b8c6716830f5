"""Counted masks: as many as torch's, the same in a stack, and another one at every step."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fedkd.models.dropout import counted, uniform

HERE = torch.device("cpu")


def key(number):
    return torch.tensor(number)


def test_numbers_are_uniform_and_do_not_hang_together():
    drawn = uniform(key(5), (100_000,), HERE).double()
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    # Of 100 000 uniform numbers the mean is within 5 sigma of 1/2, sigma = 1 / sqrt(12 n).
    assert abs(float(drawn.mean()) - 0.5) < 5 / (12 * 1e5) ** 0.5
    counts = torch.histc(drawn, 20, 0, 1)
    chi = ((counts - 5000) ** 2 / 5000).sum()
    assert float(chi) < 45  # of 19 degrees of freedom: above with probability 0.001
    for other in (uniform(key(6), (100_000,), HERE), drawn.roll(1)):
        together = torch.corrcoef(torch.stack([drawn, other.double()]))[0, 1]
        assert abs(float(together)) < 5 / 1e5**0.5


def test_a_place_has_its_number_whatever_the_shape():
    wide = uniform(key(3), (4, 6), HERE)
    assert torch.equal(uniform(key(3), (2, 6), HERE), wide[:2])
    assert torch.equal(uniform(key(3), (24,), HERE), wide.flatten())


def test_a_share_p_is_dropped_and_the_rest_is_scaled():
    with counted(key(1)):
        found = F.dropout(torch.ones(50_000), 0.3)
    assert found.unique().tolist() == [0, pytest.approx(1 / 0.7)]
    assert abs(float((found == 0).double().mean()) - 0.3) < 5 * (0.21 / 5e4) ** 0.5


def test_a_stack_has_the_masks_of_each():
    layer = nn.Sequential(nn.Dropout(0.4), nn.Linear(3, 3), nn.Dropout(0.2))

    def masked(stream, x):
        with counted(stream):
            return layer(x)

    streams, x = torch.tensor([7, 2**60, -3]), torch.rand(3, 5, 3)
    together = torch.func.vmap(masked)(streams, x)
    for k in range(3):
        alone = masked(streams[k], x[k])
        assert torch.equal(alone == 0, together[k] == 0)
        torch.testing.assert_close(alone, together[k])


def test_steps_calls_and_streams_have_masks_of_their_own():
    def mask(stream, calls=1):
        with counted(key(stream)):
            for _ in range(calls):
                found = F.dropout(torch.ones(64), 0.5)
        return tuple(found.tolist())

    several = {mask(0), mask(1), mask(2**40), mask(0, 2), mask(0, 3)}
    assert len(several) == 5
    assert mask(1, 2) == mask(1, 2)


def test_whole_channels_are_dropped():
    with counted(key(1)):
        found = F.dropout2d(torch.ones(50, 4, 3, 3), 0.5)
    assert ((found == 0).all((2, 3)) | (found == 2).all((2, 3))).all()


def test_attention_drops_its_weights_and_is_torchs_otherwise():
    q, k, v = torch.rand(3, 2, 4, 8)
    mask = torch.rand(4, 4) > 0.2
    mask.fill_diagonal_(True)
    for more in ({}, {"is_causal": True}, {"attn_mask": mask}, {"attn_mask": mask.float()},
                 {"scale": 0.3}):  # fmt: skip
        expected = F.scaled_dot_product_attention(q, k, v, **more)
        with counted(key(1)):
            nearly = F.scaled_dot_product_attention(q, k, v, dropout_p=1e-12, **more)
            torch.testing.assert_close(nearly, expected)
            dropped = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5, **more)
        assert not torch.allclose(dropped, expected)


def test_torch_is_as_it_was_behind_it_and_in_other_threads():
    plain = F.dropout, F.scaled_dot_product_attention
    found = []
    with counted(key(1)):
        mine = F.dropout(torch.ones(100), 0.5)
        torch.manual_seed(3)
        thread = threading.Thread(target=lambda: found.append(F.dropout(torch.ones(100), 0.5)))
        thread.start()
        thread.join()
        assert not F.dropout(torch.ones(3), 1.0).any()
        assert F.dropout(torch.ones(3), 0.5, training=False).all()
    assert (F.dropout, F.scaled_dot_product_attention) == plain
    torch.manual_seed(3)
    assert torch.equal(found[0], F.dropout(torch.ones(100), 0.5))
    assert not torch.equal(found[0], mine)

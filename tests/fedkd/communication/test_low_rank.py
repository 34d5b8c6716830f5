"""Singular triplets against numpy, and the mistakes that are made with them elsewhere."""

import numpy as np
import pytest
import torch

from fedkd.communication.compression.low_rank import by_broadcast, low_rank, rank

pytestmark = pytest.mark.usefixtures("double")
SHAPES = {"conv": (8, 4, 3, 3), "head": (10, 30), "bias": (10,), "thin": (1, 5)}


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def tensors(seed=0):
    generator = stream(seed)
    return {name: torch.randn(*shape, generator=generator) for name, shape in SHAPES.items()}


def sent(message, energy):
    return low_rank(energy).encode(message, stream())


def read(message, energy):
    return low_rank(energy).decode(sent(message, energy))


def size(message):
    return sum(value.numel() for value in message.values())


def test_the_least_number_that_carries_the_energy():
    # Squares 16, 9, 4, 1 of 30: shares .533, .833, .967, 1.
    singular = torch.tensor([4.0, 3.0, 2.0, 1.0])
    kept = {energy: rank(singular, energy) for energy in (0, 0.5, 0.54, 0.9, 0.97, 1)}
    assert kept == {0: 1, 0.5: 1, 0.54: 2, 0.9: 3, 0.97: 4, 1: 4}


@pytest.mark.parametrize("energy", [0.0, 0.95, 0.965, 1.0])
def test_no_rank_is_ever_zero(energy):
    # Equal singular values: the energy is reached by the last one only. A loop that stops before it
    # leaves the rank at zero, and the layer at zeros.
    assert rank(torch.ones(3), energy) == {0.0: 1, 0.95: 3, 0.965: 3, 1.0: 3}[energy]
    assert rank(torch.zeros(3), energy) == 1
    found = read({"conv": torch.eye(9).reshape(9, 1, 3, 3)}, energy)["conv"]
    assert found.norm() >= 1 - 1e-12
    if energy > 0.9:
        torch.testing.assert_close(found, torch.eye(9).reshape(9, 1, 3, 3))


@pytest.mark.parametrize("energy", [0.3, 0.7, 0.95])
def test_against_numpy(energy):
    given = tensors()
    found = read(given, energy)
    for name in ("conv", "head"):
        matrix = given[name].flatten(1).numpy()
        left, singular, right = np.linalg.svd(matrix, full_matrices=False)
        shares = (singular**2).cumsum() / (singular**2).sum()
        kept = int(np.searchsorted(shares, energy)) + 1
        rows, columns = matrix.shape
        expected = matrix
        if kept * (rows + columns) < rows * columns:
            expected = (left[:, :kept] * singular[:kept]) @ right[:kept]
        torch.testing.assert_close(found[name].flatten(1), torch.tensor(expected))
    assert torch.equal(found["bias"], given["bias"])
    assert {name: value.shape for name, value in found.items()} == SHAPES


def test_nothing_is_longer_than_it_was():
    # Factors of kernels along their k x k axes, or of ranks near the full one, would be.
    for energy in (0.1, 0.5, 0.9, 0.99, 1.0):
        assert size(sent(tensors(), energy)) <= size(tensors())
    assert size(sent(tensors(), 0.1)) < 0.6 * size(tensors())


def test_a_matrix_of_one_rank_is_sent_as_one_triplet_and_read_back():
    left, right = torch.arange(1.0, 11).unsqueeze(1), torch.arange(1.0, 31)
    assert size(sent({"head": left * right}, 0.95)) == 10 + 30
    torch.testing.assert_close(read({"head": left * right}, 0.95)["head"], left * right)


def test_a_tensor_that_is_not_finite_is_sent_as_it_is():
    # A singular value decomposition of it would not converge; the border has to see it.
    for bad in (torch.nan, torch.inf):
        given = tensors()
        given["head"][2, 3] = bad
        assert sent(given, 0.5)["head"] is given["head"]


def test_types_are_kept():
    for kind in (torch.float16, torch.float32):
        given = {"head": tensors()["head"].to(kind)}
        assert {value.dtype for value in sent(given, 0.3).values()} == {kind}
    codes = {"codes": torch.ones(20, 20, dtype=torch.uint8)}
    assert read(codes, 0.3) == codes


def test_the_energy_may_come_with_the_broadcast():
    given = tensors()
    stage = by_broadcast("energy")({"energy": torch.tensor([0.3], dtype=torch.float16)})
    assert size(stage.encode(given, stream())) == size(sent(given, 0.3))
    whole = by_broadcast("energy")({})
    torch.testing.assert_close(whole.decode(whole.encode(given, stream())), given)


def test_an_energy_is_a_share():
    with pytest.raises(ValueError, match="energy must be a share between 0 and 1, got 1.2"):
        low_rank(1.2)

"""What a round multiplies, by hand; and what is divided by what."""

import pytest
import torch

from benchmarks import plain
from benchmarks.floor import Operations, floor, of_an_example, rates
from benchmarks.harness import Spent


def test_operations_of_a_perceptron():
    predicting, training = of_an_example(plain.mlp(784, 64, 10), torch.rand(4, 1, 28, 28))
    forward = 2 * (784 * 64 + 64 * 10)
    assert predicting == Operations(forward, 0)
    # As many for the gradients of the weights, and of the layer between for what goes back.
    assert training == Operations(2 * forward + 2 * 64 * 10, 0)


def test_operations_of_a_convolutional_network():
    predicting, training = of_an_example(plain.cnn(10, (4, 8), 28), torch.rand(3, 1, 28, 28))
    first, second = 2 * 28 * 28 * 9 * 4, 2 * 14 * 14 * 9 * 4 * 8
    head = 2 * 8 * 7 * 7 * 10
    assert predicting == Operations(head, first + second)
    assert training == Operations(3 * head, 2 * first + 3 * second)


def test_the_best_time_makes_the_rate_and_the_rate_the_floor():
    product = 2 * 1024**3
    convolution = 6 * 32 * 14 * 14 * 9 * 48 * 112
    rate = rates([Spent(0.5, 9), Spent(2, 9)], [Spent(4, 9), Spent(3, 9)])
    assert rate == Operations(product / 0.5, convolution / 3)
    needed = Operations(product, 0).times(4).plus(Operations(0, convolution))
    assert floor(needed, rate) == pytest.approx(4 * 0.5 + 3)

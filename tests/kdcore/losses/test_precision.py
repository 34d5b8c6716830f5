import torch
from torch import tensor

from kdcore.losses.precision import in_float32
from kdcore.outputs import Outputs


@in_float32
def seen(*given, **named):
    """What a loss is given, and gives back."""
    return (*given, *named.values())


def test_16_bits_are_worked_with_in_float32_and_given_back():
    types = []

    @in_float32
    def loss(student, teacher, labels, temperature):
        """A loss."""
        types.extend(t.dtype for t in (student, teacher[0], labels))
        return student.sum(-1) * temperature

    half, labels = torch.ones(2, 3, dtype=torch.bfloat16), tensor([0, 1])
    value = loss(half, [half], labels=labels, temperature=2.0)
    assert types == [torch.float32, torch.float32, torch.int64]
    assert value.dtype == torch.bfloat16
    assert value.tolist() == [6, 6]
    assert loss.__name__ == "loss"
    assert loss.__doc__ == "A loss."


def test_named_tuples_keep_their_names():
    (outputs,) = seen(Outputs(torch.ones(1, dtype=torch.float16), ()))
    assert outputs.logits.dtype == torch.float16


def test_a_sum_that_needs_more_than_three_digits():
    # 256 + 1 is 256 in bfloat16, but the sum of 256, 1 and 1 is 258.
    @in_float32
    def total(values):
        return values[0] + values[1] + values[2]

    assert float(total(tensor([256.0, 1.0, 1.0], dtype=torch.bfloat16))) == 258


def test_float32_and_float64_are_left_as_they_are_and_a_mixture_is_float32():
    for dtype in (torch.float32, torch.float64, torch.int32):
        tensors = torch.ones(2, dtype=dtype), torch.ones(3, dtype=dtype)
        assert all(a is b for a, b in zip(seen(tensors[0], b=tensors[1]), tensors, strict=True))
    mixed = seen(torch.ones(1), torch.ones(1, dtype=torch.bfloat16))
    assert [t.dtype for t in mixed] == [torch.float32, torch.float32]

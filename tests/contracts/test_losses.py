"""What every knowledge loss promises, whichever it is: a new one is tested from its first day.

The losses are found by looking into the modules. Their arguments are made by name; a loss that
takes an argument of a new name fails here until ARGUMENTS says how to make one.
"""

import inspect

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap

from knowledge import relation, response

N, C, K = 5, 3, 3

MODULES = (response, relation)


def logits(generator, dtype):
    return torch.randn(N, C, generator=generator, dtype=dtype)


def probabilities(generator, dtype):
    return logits(generator, dtype).softmax(-1)


def labels(generator, dtype):
    return torch.randint(C, (N,), generator=generator)


ARGUMENTS = {
    "student": logits,
    "student_logits": logits,
    "teacher": logits,
    "target_probabilities": probabilities,
    "labels": labels,
}


def public_functions(module):
    return [
        function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]


def required(loss):
    parameters = inspect.signature(loss).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty]


def arguments(loss, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    unknown = [name for name in required(loss) if name not in ARGUMENTS]
    if unknown:
        pytest.fail(
            f"{loss.__module__}.{loss.__name__} takes {unknown}, which this contract cannot make: "
            f"add a maker to ARGUMENTS in {__file__} (it knows {sorted(ARGUMENTS)})"
        )
    return [ARGUMENTS[name](generator, dtype) for name in required(loss)]


def stacked(loss):
    problems = [arguments(loss, seed=seed) for seed in range(K)]
    return [torch.stack(tensors) for tensors in zip(*problems, strict=True)]


def total(loss):
    return lambda *tensors: loss(*tensors).sum()


LOSSES = [loss for module in MODULES for loss in public_functions(module)]
with_teacher = pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES if "teacher" in required(loss)], ids=lambda f: f.__name__
)
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)


def test_the_losses_are_found():
    names = {loss.__name__ for loss in LOSSES}
    assert {"kl", "decoupled", "cross_entropy", "distance", "angle"} <= names
    assert not any(name.startswith("_") for name in names)


def test_an_argument_of_a_new_name_fails_and_says_what_to_add():
    def loss(student, mystery):
        return student

    with pytest.raises(pytest.fail.Exception, match=r"mystery.*ARGUMENTS"):
        arguments(loss)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_value_per_example_in_the_dtype_of_the_student(loss, dtype):
    value = loss(*arguments(loss, dtype=dtype))
    assert value.shape == (N,)
    assert value.dtype == dtype


@every_loss
def test_gradients_are_right_to_second_order(loss):
    student, *others = arguments(loss)
    student.requires_grad_()
    assert gradcheck(lambda s: loss(s, *others), (student,))
    assert gradgradcheck(lambda s: loss(s, *others), (student,))


@every_loss
def test_only_the_student_gets_a_gradient(loss):
    student, *others = (
        t.requires_grad_(t.is_floating_point()) for t in arguments(loss, dtype=torch.float64)
    )
    teachers = [t for t in others if t.requires_grad]
    value = loss(student, *others).sum()
    to_student, *to_teachers = torch.autograd.grad(value, (student, *teachers), allow_unused=True)
    assert to_student.abs().sum() > 0
    assert all(gradient is None for gradient in to_teachers)


@every_loss
def test_vmap_is_a_loop_over_problems(loss):
    tensors = stacked(loss)
    looped = torch.stack([loss(*one) for one in zip(*tensors, strict=True)])
    torch.testing.assert_close(vmap(loss)(*tensors), looped, rtol=1e-12, atol=1e-12)


@every_loss
def test_vmap_of_the_gradient_is_a_loop_over_problems(loss):
    tensors = stacked(loss)
    gradient = grad(total(loss))
    looped = torch.stack([gradient(*one) for one in zip(*tensors, strict=True)])
    torch.testing.assert_close(vmap(gradient)(*tensors), looped, rtol=1e-12, atol=1e-12)

    tensors[0].requires_grad_()  # and the other way round: the gradient of vmap
    (outside,) = torch.autograd.grad(vmap(loss)(*tensors).sum(), tensors[:1])
    torch.testing.assert_close(outside, looped, rtol=1e-12, atol=1e-12)


@every_loss
def test_vmap_with_one_teacher_for_all_students(loss):
    students, *others = stacked(loss)
    shared = [t[0] for t in others]
    in_dims = (0, *(None for _ in shared))
    looped = torch.stack([grad(total(loss))(student, *shared) for student in students])
    together = vmap(grad(total(loss)), in_dims)(students, *shared)
    torch.testing.assert_close(together, looped, rtol=1e-12, atol=1e-12)


@every_loss
def test_permuting_the_examples_permutes_the_values(loss):
    tensors = arguments(loss)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    moved = loss(*(t[order] for t in tensors))
    torch.testing.assert_close(moved, loss(*tensors)[order], rtol=1e-12, atol=1e-12)


@every_loss
def test_inputs_are_left_as_they_are(loss):
    tensors = arguments(loss)
    before = [t.clone() for t in tensors]
    tensors[0].requires_grad_()
    loss(*tensors).sum().backward()
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


@every_loss
def test_huge_logits_give_finite_values_and_gradients_in_float32(loss):
    student, *others = arguments(loss, dtype=torch.float32)
    student = (200 * student.sign()).requires_grad_()
    others = [200 * t.sign() if (t < 0).any() else t for t in others]  # logits, not probabilities
    value = loss(student, *others)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@with_teacher
def test_no_loss_at_the_teacher_and_none_below_it(loss):
    student, teacher, *others = arguments(loss)
    assert (loss(student, teacher, *others) > 0).all()
    torch.testing.assert_close(
        loss(teacher.clone(), teacher, *others), torch.zeros(N).double(), rtol=0, atol=1e-12
    )


@every_loss
def test_examples_that_do_not_match_are_an_error_that_names_the_shapes(loss):
    student, *others = arguments(loss)
    last = others[-1][:-1]
    with pytest.raises(ValueError, match=r"shape \(5, 3\).*\(4,( 3)?\)") as mismatch:
        loss(student, *others[:-1], last)
    assert "(N, " in str(mismatch.value)  # what was expected instead
    with pytest.raises(ValueError, match=r"shape \(1, 5, 3\)"):
        loss(student[None], *others)


@every_loss
def test_the_docstring_has_paper_convention_shapes_and_errors(loss):
    text = inspect.getdoc(loss)
    assert "https://" in text
    for heading in ("Convention", "Shapes:", "Raises:"):
        assert heading in text, f"{loss.__name__} lacks {heading!r}"

"""What every knowledge loss promises, whichever it is: a new one is tested from its first day.

The losses are found by looking into the modules: a public function whose first argument is the
student. Arguments are made by name; a loss that takes an argument of a new name fails here until
ARGUMENTS or NUMBERS says how to make one, one that takes no rows of classes until SHAPES does.
"""

import functools
import importlib
import inspect
import itertools
import math
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import entr, rel_entr, softmax
from torch import tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap

import kdcore.losses
from kdcore.losses import decoupled, ranking, response, sequence

N, C, K = 5, 3, 3

MODULES = [
    importlib.import_module(f"kdcore.losses.{module.name}")
    for module in pkgutil.iter_modules(kdcore.losses.__path__)
    if module.name not in kdcore.losses.PARTS
]

# Public functions on students that are no losses, one value per example; see NO_LOSSES below.
TOOLS = {"student_ranks"}
NOT_ZERO = "Not 0 where the student is the teacher"  # what a loss of another minimum has to say


def normal(*shape):
    return lambda generator, dtype: torch.randn(*shape, generator=generator, dtype=dtype)


def whole(*shape, below=C):
    return lambda generator, dtype: torch.randint(below, shape, generator=generator)


def probabilities(generator, dtype):
    return normal(N, C)(generator, dtype).softmax(-1)


def tokens_there(generator, dtype):
    return torch.arange(4) < torch.randint(1, 5, (N, 1), generator=generator)


def items(*columns):
    """Some columns of a random order of the C items, for each query."""
    return lambda generator, dtype: torch.rand(N, C, generator=generator).argsort(-1)[:, columns]


ARGUMENTS = {
    "student": normal(N, C),
    "student_logits": normal(N, C),
    "teacher": normal(N, C),
    "targets": normal(N, C),
    "target_probabilities": probabilities,
    "labels": whole(N),
    "top": items(0, 1),
    "others": items(2),
    "tokens": whole(N, 4),
    "mask": tokens_there,
    "queue": normal(N + 1, C),
    "spread": normal(C),
}
NUMBERS = {"threshold": 1.5, "scale": 9.0}
SHAPES = {  # of student and teacher, where these are no (N, C)
    "attention_transfer": (N, 2, 1, 3),
    "flow": (N, C, 2),
    "mmd": (N, 4, C),
    "neuron_selectivity": (N, C, 2, 3),
    "sequence_level": (N, 4, C),
    "word_level": (N, 4, C),
}
SHARED = {"queue", "spread"}  # have no row for each example
LEARNED = {"spread"}  # get a gradient beside the student


def unified(student, teacher):
    """One tensor for two teachers who share a class."""
    columns = [tensor([0, 1]), tensor([1, 2])]
    return decoupled.unified(student, [teacher[:, c] for c in columns], columns)


FORMS = {decoupled.unified: unified}  # of losses that take more than tensors and numbers


def public_functions(module):
    return [
        function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]


def required(function):
    """The names of the arguments that have to be given."""
    parameters = inspect.signature(FORMS.get(function, function)).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty]


def taken(loss):
    """The names of the tensors that a loss has to be given."""
    names = [name for name in required(loss) if name not in NUMBERS]
    unknown = [name for name in names if name not in ARGUMENTS]
    if unknown:
        pytest.fail(
            f"{loss.__module__}.{loss.__name__} takes {unknown}, which this contract cannot make: "
            f"add a maker to ARGUMENTS or NUMBERS in {__file__} (it knows {sorted(ARGUMENTS)})"
        )
    return names


def on_tensors(loss):
    """The loss, given its numbers."""
    numbers = {name: NUMBERS[name] for name in required(loss) if name in NUMBERS}
    form = FORMS.get(loss, loss)
    return lambda *tensors: form(**dict(zip(taken(loss), tensors, strict=True)), **numbers)


def arguments(loss, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = SHAPES.get(loss.__name__)
    networks = {"student": normal(*shape), "teacher": normal(*shape)} if shape else {}
    return [(ARGUMENTS | networks)[name](generator, dtype) for name in taken(loss)]


def stacked(loss):
    problems = [arguments(loss, seed=seed) for seed in range(K)]
    return [torch.stack(tensors) for tensors in zip(*problems, strict=True)]


def total(call):
    return lambda *tensors: call(*tensors).sum()


def is_loss(function):
    return required(function)[0] in ("student", "student_logits") and function.__name__ not in TOOLS


FUNCTIONS = [function for module in MODULES for function in public_functions(module)]
LOSSES = [function for function in FUNCTIONS if is_loss(function)]
NO_LOSSES = [function for function in FUNCTIONS if not is_loss(function)]
with_teacher = pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES if "teacher" in required(loss)], ids=lambda f: f.__name__
)
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def test_the_losses_are_found():
    names = {loss.__name__ for loss in LOSSES}
    assert {"kl", "decoupled", "cross_entropy", "distance", "angle", "hint", "listmle"} <= names
    assert not any(name.startswith("_") for name in names)
    assert {f.__name__ for f in NO_LOSSES} >= TOOLS


def test_an_argument_of_a_new_name_fails_and_says_what_to_add():
    def loss(student, mystery):
        return student

    with pytest.raises(pytest.fail.Exception, match=r"mystery.*ARGUMENTS"):
        arguments(loss)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_value_per_example_in_the_dtype_of_the_student(loss, dtype):
    value = on_tensors(loss)(*arguments(loss, dtype=dtype))
    assert value.shape == (N,)
    assert value.dtype == dtype


@every_loss
def test_gradients_are_right_to_second_order(loss):
    student, *others = arguments(loss)
    student.requires_grad_()
    assert gradcheck(lambda s: on_tensors(loss)(s, *others), (student,))
    assert gradgradcheck(lambda s: on_tensors(loss)(s, *others), (student,))


@every_loss
def test_only_the_student_gets_a_gradient(loss):
    student, *others = (t.requires_grad_(t.is_floating_point()) for t in arguments(loss))
    names = [n for n, t in zip(taken(loss)[1:], others, strict=True) if t.requires_grad]
    teachers = [t for t in others if t.requires_grad]
    value = on_tensors(loss)(student, *others).sum()
    to_student, *to_others = torch.autograd.grad(value, (student, *teachers), allow_unused=True)
    assert to_student.abs().sum() > 0
    for name, gradient in zip(names, to_others, strict=True):
        assert (gradient is None) == (name not in LEARNED), name


@every_loss
def test_vmap_is_a_loop_over_problems(loss):
    tensors, call = stacked(loss), on_tensors(loss)
    looped = torch.stack([call(*one) for one in zip(*tensors, strict=True)])
    torch.testing.assert_close(vmap(call)(*tensors), looped, rtol=1e-12, atol=1e-12)


@every_loss
def test_vmap_of_the_gradient_is_a_loop_over_problems(loss):
    tensors, call = stacked(loss), on_tensors(loss)
    gradient = grad(total(call))
    looped = torch.stack([gradient(*one) for one in zip(*tensors, strict=True)])
    torch.testing.assert_close(vmap(gradient)(*tensors), looped, rtol=1e-12, atol=1e-12)

    tensors[0].requires_grad_()  # and the other way round: the gradient of vmap
    (outside,) = torch.autograd.grad(vmap(call)(*tensors).sum(), tensors[:1])
    torch.testing.assert_close(outside, looped, rtol=1e-12, atol=1e-12)


@every_loss
def test_vmap_with_one_teacher_for_all_students(loss):
    students, *others = stacked(loss)
    shared = [t[0] for t in others]
    in_dims = (0, *(None for _ in shared))
    gradient = grad(total(on_tensors(loss)))
    looped = torch.stack([gradient(student, *shared) for student in students])
    together = vmap(gradient, in_dims)(students, *shared)
    torch.testing.assert_close(together, looped, rtol=1e-12, atol=1e-12)


@every_loss
def test_permuting_the_examples_permutes_the_values(loss):
    tensors, call = dict(zip(taken(loss), arguments(loss), strict=True)), on_tensors(loss)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    moved = [t if name in SHARED else t[order] for name, t in tensors.items()]
    value = call(*tensors.values())
    torch.testing.assert_close(call(*moved), value[order], rtol=1e-12, atol=1e-12)


@every_loss
def test_inputs_are_left_as_they_are(loss):
    tensors = arguments(loss)
    before = [t.clone() for t in tensors]
    tensors[0].requires_grad_()
    on_tensors(loss)(*tensors).sum().backward()
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


@every_loss
def test_huge_logits_give_finite_values_and_gradients_in_float32(loss):
    student, *others = arguments(loss, dtype=torch.float32)
    student = (200 * student.sign()).requires_grad_()
    others = [200 * t.sign() if (t < 0).any() else t for t in others]  # logits, not probabilities
    value = on_tensors(loss)(student, *others)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@every_loss
@HALF
def test_of_16_bits_the_value_is_that_in_float32_rounded(loss, dtype):
    given = [t.to(dtype) if t.is_floating_point() else t for t in arguments(loss)]
    wide = [t.float() if t.is_floating_point() else t for t in given]
    given[0].requires_grad_()
    value = on_tensors(loss)(*given)
    assert value.dtype == dtype
    assert torch.equal(value, on_tensors(loss)(*wide).to(dtype))
    (gradient,) = torch.autograd.grad(value.sum(), given[0])
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


def kl(p, q):
    return rel_entr(q, p).sum(1)


def decoupled_by_hand(p, q, y):
    """TCKD + 8 NCKD; a teacher of one class alone has no NCKD."""
    label = np.eye(C)[y]
    split = [np.stack([(r * label).sum(1), (r * (1 - label)).sum(1)], 1) for r in (p, q)]
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = [r * (1 - label) / mass[:, 1:] for r, mass in zip((p, q), split, strict=True)]
    rest[1] = np.nan_to_num(rest[1], nan=0)
    rest[0] = np.nan_to_num(rest[0], nan=0)
    return kl(*split) + 8 * kl(*rest)


def given(columns, p, q):
    """KL of both, given that it is one of these classes; NaN where one side says it is none."""
    with np.errstate(invalid="ignore"):
        return kl(*(r[:, columns] / r[:, columns].sum(1, keepdims=True) for r in (p, q)))


def probability(p, y):
    with np.errstate(divide="ignore"):
        return -np.log(p[np.arange(len(y)), y])


def of_one_token(loss, *others):
    """A loss on sequences as one on their only token."""
    return loss(*(t[:, None] for t in others), torch.ones(len(others[0]), 1))


# Each divergence of logits s and t (with labels y), and what it is of probabilities p and q.
DIVERGENCES = {
    response.kl: (response.kl, kl),
    response.reverse_kl: (response.reverse_kl, lambda p, q: kl(q, p)),
    response.jensen_shannon: (
        response.jensen_shannon,
        lambda p, q: (kl((p + q) / 2, p) + kl((p + q) / 2, q)) / 2,
    ),
    response.symmetric_kl: (response.symmetric_kl, lambda p, q: kl(p, q) + kl(q, p)),
    response.mutual: (lambda s, t: response.mutual([s, t])[0], kl),
    response.soft_cross_entropy: (
        lambda s, t: response.soft_cross_entropy(s, t.softmax(-1)),
        lambda p, q: kl(p, q) + entr(q).sum(1),
    ),
    response.kl_to_probabilities: (
        lambda s, t: response.kl_to_probabilities(s, t.softmax(-1)),
        kl,
    ),
    response.cross_entropy: (
        lambda s, t, y: response.cross_entropy(s, y),
        lambda p, q, y: probability(p, y),
    ),
    decoupled.decoupled: (
        lambda s, t, y: decoupled.decoupled(s, t, y, temperature=1.0),
        decoupled_by_hand,
    ),
    decoupled.generalised: (
        lambda s, t, y: decoupled.generalised(s, t, y, imitation=0.25),
        lambda p, q, y: 0.75 * probability(p, y) + 0.25 * (kl(p, q) + entr(q).sum(1)),
    ),
    decoupled.unified: (unified, lambda p, q: given([0, 1], p, q) + given([1, 2], p, q)),
    sequence.word_level: (functools.partial(of_one_token, sequence.word_level), kl),
    sequence.sequence_level: (
        lambda s, t, y: of_one_token(sequence.sequence_level, s, y),
        lambda p, q, y: probability(p, y),
    ),
    ranking.listwise_softmax: (
        ranking.listwise_softmax,
        lambda p, q: kl(p, q) + entr(q).sum(1),
    ),
}
every_divergence = pytest.mark.parametrize(
    ("call", "expected"), DIVERGENCES.values(), ids=[f.__name__ for f in DIVERGENCES]
)


def ruled_out():
    """Students and teachers who rule out classes, in all ways that leave one; and labels."""
    supports = [kept for kept in itertools.product([True, False], repeat=C) if any(kept)]
    ways = list(itertools.product(supports, supports, range(C)))
    shape = (len(ways), C)
    logits = [normal(*shape)(torch.Generator().manual_seed(k), torch.float64) for k in range(2)]
    kept = [tensor(kept) for kept in zip(*((s, t) for s, t, _ in ways), strict=True)]
    student, teacher = (torch.where(k, z, -math.inf) for z, k in zip(logits, kept, strict=True))
    return student, teacher, tensor([y for *_, y in ways])


def of_logits(call, student, teacher, labels):
    """A divergence of logits, given labels if it takes three."""
    return call(student, teacher, labels) if takes_labels(call) else call(student, teacher)


def takes_labels(call):
    return "y" in inspect.signature(call).parameters


def test_every_divergence_of_logits_is_here():
    told = {loss for loss in LOSSES if "in nats" in inspect.getdoc(loss)}
    of_rows = {"infonce", "contrastive", "variational", "relaxed_ranking", "listmle", "darkrank"}
    of_rows |= {"probabilistic_transfer", "similarity_distribution"}  # no class has a logit there
    assert {loss for loss in told if loss.__name__ not in of_rows} <= set(DIVERGENCES)


@every_divergence
def test_a_class_that_is_ruled_out_counts_as_in_scipy(call, expected):
    student, teacher, labels = ruled_out()
    value = of_logits(call, student, teacher, labels)
    p, q = (softmax(side.numpy(), axis=1) for side in (student, teacher))
    right = expected(p, q, labels.numpy()) if takes_labels(call) else expected(p, q)
    torch.testing.assert_close(value, torch.from_numpy(right), equal_nan=True)
    assert call is unified or not value.isnan().any()
    assert value.isfinite().any()


@every_divergence
def test_gradients_are_finite_where_the_value_is_and_so_they_are_under_vmap(call, expected):
    student, teacher, labels = ruled_out()
    finite = of_logits(call, student, teacher, labels).isfinite()
    student, teacher, labels = student[finite].requires_grad_(), teacher[finite], labels[finite]
    value = of_logits(call, student, teacher, labels)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient.isfinite().all()
    assert (gradient[student == -math.inf] == 0).all()

    def alone(s, t, y):
        return of_logits(call, s[None], t[None], y[None]).sum()

    one_by_one = vmap(grad(alone))(student.detach(), teacher, labels)
    torch.testing.assert_close(one_by_one, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [response.kl, response.reverse_kl, response.jensen_shannon])
@HALF
def test_a_divergence_of_16_bits_at_a_high_temperature_is_right_and_not_negative(loss, dtype):
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 64, 10, generator=draw).to(dtype)
    value = loss(student, teacher, temperature=20.0)
    assert (value > 0).all()
    right = loss(student.double(), teacher.double(), temperature=20.0)
    torch.testing.assert_close(value.double(), right, rtol=torch.finfo(dtype).eps, atol=1e-3)
    near = loss(student, torch.nextafter(student, teacher), temperature=20.0)
    assert (near > -4 * torch.finfo(torch.float32).eps * 20**2).all()


@with_teacher
def test_no_loss_at_the_teacher_unless_the_docstring_says_so(loss):
    student, teacher, *others = arguments(loss)
    at_teacher = on_tensors(loss)(teacher.clone(), teacher, *others)
    if NOT_ZERO in " ".join(inspect.getdoc(loss).split()):
        assert at_teacher.abs().max() > 1e-3
    else:
        assert (on_tensors(loss)(student, teacher, *others) > 0).all()
        torch.testing.assert_close(at_teacher, torch.zeros(N).double(), rtol=0, atol=1e-12)


@every_loss
def test_examples_that_do_not_match_are_an_error_that_names_the_shapes(loss):
    student, *others = arguments(loss)
    for place, name in enumerate(taken(loss)[1:]):
        if name not in SHARED:
            short = [t[:-1] if i == place else t for i, t in enumerate(others)]
            with pytest.raises(ValueError, match=r"shapes? .*\(5, .*\(4,") as mismatch:
                on_tensors(loss)(student, *short)
            assert "(N, " in str(mismatch.value)  # what was expected instead
    with pytest.raises(ValueError, match=r"shape \(1, 5, "):
        on_tensors(loss)(student[None], *others)


@every_loss
def test_the_docstring_says_which_convention_was_chosen(loss):
    assert "Convention" in inspect.getdoc(loss)


@every_function
def test_the_docstring_has_paper_shapes_and_errors(function):
    text = inspect.getdoc(function)
    assert "https://" in text
    for heading in ("Shapes:", "Raises:"):
        assert heading in text, f"{function.__name__} lacks {heading!r}"


@functools.cache
def page_of(module):
    name = module.rpartition(".")[2]
    return (Path(__file__).parents[1] / f"kdcore/losses/test_{name}.py").read_text()


@every_function
def test_every_function_has_tests_of_its_own(function):
    assert f"{function.__name__}(" in page_of(function.__module__)

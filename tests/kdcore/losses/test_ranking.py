import itertools
import math

import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F  # noqa: N812
from torch import tensor

from kdcore.losses.ranking import (
    listmle,
    listwise_softmax,
    margin_mse,
    margin_ranking,
    plackett_luce,
    ranking_distillation,
    relaxed_ranking,
    student_ranks,
)

LISTS = [listwise_softmax, listmle, margin_mse]
every_list = pytest.mark.parametrize("loss", LISTS, ids=lambda f: f.__name__)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def slope(loss, student):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student).sum(), student)[0]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


S, T = 2 * normal(4, 7), 2 * normal(4, 7, seed=1)
TOP = T.argsort(-1, descending=True)[:, :3]
OTHERS = T.argsort(-1)[:, :2]
MASK = tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0, 1], [0, 0, 0, 1, 1, 0, 0], [1] * 6 + [0]])


# The same losses with plain numbers and loops.


def naive_order(scores, rest=()):
    total = 0.0
    for r in range(len(scores)):
        below = sum(math.exp(s) for s in [*scores[r:], *rest])
        total -= math.log(math.exp(scores[r]) / below)
    return total


def naive_distillation(scores, top, ranks, position, discrepancy):
    static = [math.exp(-(r + 1) / position) for r in range(len(top))]
    total = 0.0
    for r, item in enumerate(top):
        weight = static[r] / sum(static)
        if ranks is not None:
            weight *= max(0.0, math.tanh(discrepancy * (ranks[r] - r)))
        total -= weight * math.log(sigmoid(scores[item]))
    return total


def naive_ranks(scores, top):
    in_order = sorted(scores, reverse=True)
    return [in_order.index(scores[item]) for item in top]


def naive_margin(s, t):
    pairs = list(itertools.combinations(range(len(s)), 2))
    return sum(((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in pairs) / max(len(pairs), 1)


def naive_softmax(s, t):
    p, q = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (s, t))
    return -sum(a * math.log(b) for a, b in zip(q, p, strict=True))


def naive_mle(s, t):
    order = sorted(range(len(t)), key=lambda i: -t[i])
    return naive_order([s[i] for i in order])


class TestRankingDistillation:
    def test_by_hand(self):
        # Weights e^-1 and e^-2, scaled to sum 1: the sigmoid of 1, and the rest.
        value = ranking_distillation(tensor([[0.0, math.log(3.0)]]), tensor([[1, 0]]))
        first = sigmoid(1)
        close(value.item(), -first * math.log(3 / 4) - (1 - first) * math.log(1 / 2), 1e-6)

    def test_it_is_the_loop(self):
        ranks = student_ranks(S, TOP)
        assert (ranks != torch.arange(3)).any()
        for position, discrepancy in [(1.0, 0.1), (10.0, 1.0)]:
            loops = [
                [naive_distillation(s, t, r, position, discrepancy) for r in (None, rank)]
                for s, t, rank in zip(S.tolist(), TOP.tolist(), ranks.tolist(), strict=True)
            ]
            plain = ranking_distillation(S, TOP, position=position)
            weighed = ranking_distillation(S, TOP, ranks, position, discrepancy)
            close(torch.stack([plain, weighed], dim=1), loops)

    def test_at_lambda_1_the_first_of_ten_has_63_percent_of_the_weight(self):
        gradient = slope(
            lambda s: ranking_distillation(s, torch.arange(10).unsqueeze(0)),
            torch.zeros(1, 10).double(),
        )
        close((gradient / gradient.sum())[0, 0], (1 - math.exp(-1)) / (1 - math.exp(-10)))
        assert 0.63 < gradient[0, 0] / gradient.sum() < 0.64

    def test_all_places_alike_without_an_end(self):
        value = ranking_distillation(torch.zeros(1, 4), tensor([[2, 0]]), position=math.inf)
        close(value.item(), math.log(2), 1e-6)

    def test_a_student_who_ranks_as_the_teacher_has_nothing_to_learn(self):
        assert (ranking_distillation(T, TOP, student_ranks(T, TOP)) == 0).all()

    def test_items_too_high_carry_no_weight_and_items_too_low_do(self):
        gradient = slope(
            lambda s: ranking_distillation(s, tensor([[0, 1, 2]]), tensor([[5, 0, 2]])),
            torch.zeros(1, 3).double(),
        )
        assert gradient[0, 0] < 0
        assert (gradient[0, 1:] == 0).all()

    def test_large_negative_scores_are_finite(self):
        assert ranking_distillation(tensor([[-1e4]]), tensor([[0]])).item() == 1e4

    def test_an_impossible_item_costs_nothing_where_its_place_is_not_asked(self):
        scores, top = tensor([[-math.inf, 0.0]]), tensor([[0, 1]])
        assert ranking_distillation(scores, top).item() == math.inf
        # Ranks 0 and 9: the first item is in its place and has no weight, the second has e^-2.
        value = ranking_distillation(scores, top, tensor([[0, 9]]))
        close(value.item(), sigmoid(-1) * math.tanh(0.8) * math.log(2), 1e-6)
        gradient = slope(lambda s: ranking_distillation(s, top, tensor([[0, 9]])), scores)
        assert gradient.isfinite().all()

    @pytest.mark.parametrize("position", [0.0, -1.0, math.nan])
    def test_the_position_has_to_be_positive(self, position):
        with pytest.raises(ValueError, match=rf"position is {position}; .*positive"):
            ranking_distillation(S, TOP, position=position)


class TestStudentRanks:
    def test_by_hand(self):
        ranks = student_ranks(tensor([[0.3, 0.9, 0.1, 0.5]]), tensor([[2, 1, 0]]))
        assert ranks.tolist() == [[3, 0, 2]]

    def test_it_is_the_loop(self):
        loops = [naive_ranks(s, t) for s, t in zip(S.tolist(), TOP.tolist(), strict=True)]
        assert student_ranks(S, TOP).tolist() == loops

    def test_items_of_minus_infinity_do_not_count(self):
        scores = tensor([[3.0, 2.0, 1.0]])
        scores[0, 0] = -math.inf
        assert student_ranks(scores, tensor([[1, 2]])).tolist() == [[0, 1]]


class TestPlackettLuce:
    def test_by_hand(self):
        # Weights 1, 2, 3 in this order: 1/6, then 2/5, then all.
        scores = tensor([[1.0, 2.0, 3.0]]).log()
        close(plackett_luce(scores).item(), -math.log(1 / 6 * 2 / 5), 1e-6)
        # With another of weight 4 behind: 1/10, 2/9, 3/7.
        rest = tensor([[math.log(4.0)]])
        close(plackett_luce(scores, rest).item(), -math.log(1 / 10 * 2 / 9 * 3 / 7), 1e-6)

    def test_the_orders_of_a_list_are_all_there_is(self):
        scores = normal(5)
        every = torch.stack([scores[list(p)] for p in itertools.permutations(range(5))])
        close((-plackett_luce(every)).exp().sum(), 1.0)

    def test_it_is_the_loop(self):
        close(plackett_luce(S), [naive_order(s) for s in S.tolist()])
        rest = normal(4, 3, seed=2)
        pairs = zip(S.tolist(), rest.tolist(), strict=True)
        close(plackett_luce(S, rest), [naive_order(s, r) for s, r in pairs])

    def test_shifting_all_scores_changes_nothing(self):
        close(plackett_luce(S + 300, S[:, :2] + 300), plackett_luce(S, S[:, :2]), 1e-10)

    def test_scores_of_minus_infinity_are_no_items(self):
        scores = S[:1].clone()
        scores[0, [1, 4]] = -math.inf
        kept = [s for s in scores[0].tolist() if s > -math.inf]
        close(plackett_luce(scores).item(), naive_order(kept))
        gradient = slope(plackett_luce, scores)
        assert gradient.isfinite().all()
        assert (gradient[0, [1, 4]] == 0).all()

    def test_a_rest_of_minus_infinity_is_no_rest(self):
        def with_rest(scores):
            return plackett_luce(scores, torch.full((len(S), 2), -math.inf).double())

        close(with_rest(S), plackett_luce(S))
        close(slope(with_rest, S), slope(plackett_luce, S))
        rest = torch.full((len(S), 2), -math.inf).double()
        assert (slope(lambda r: plackett_luce(S, r), rest) == 0).all()

    def test_a_wrong_shape_is_named(self):
        with pytest.raises(ValueError, match=r"scores have shape \(7,\).*\(N, K\)"):
            plackett_luce(S[0])


class TestRelaxedRanking:
    def test_by_hand(self):
        # Weights 1, 2, 4, 8 of items 0..3: item 3 first, then 1, and 0 behind both; 2 is not asked.
        scores = tensor([[1.0, 2.0, 4.0, 8.0]]).log()
        value = relaxed_ranking(scores, tensor([[3, 1]]), tensor([[0]]))
        close(value.item(), -math.log(8 / 11 * 2 / 3), 1e-6)

    def test_it_is_the_loop(self):
        loops = [
            naive_order([s[i] for i in top], [s[i] for i in others])
            for s, top, others in zip(S.tolist(), TOP.tolist(), OTHERS.tolist(), strict=True)
        ]
        close(relaxed_ranking(S, TOP, OTHERS), loops)

    def test_the_order_of_the_others_is_not_asked(self):
        close(relaxed_ranking(S, TOP, OTHERS.flip(1)), relaxed_ranking(S, TOP, OTHERS))

    def test_without_others_it_is_listmle_of_the_top(self):
        none = torch.zeros(4, 0, dtype=torch.long)
        in_teachers_order = listmle(S.gather(1, TOP), T.gather(1, TOP))
        close(relaxed_ranking(S, TOP, none), in_teachers_order)

    def test_scores_too_large_for_exp_are_finite(self):
        """The authors' code takes the exponential of raw scores, which overflows from 89 on."""
        scores = tensor([[200.0, -200.0, 0.0]], requires_grad=True)
        value = relaxed_ranking(scores, tensor([[1, 0]]), tensor([[2]]))
        (gradient,) = torch.autograd.grad(value.sum(), scores)
        assert value.item() == 400
        assert gradient.isfinite().all()


class TestLists:
    def test_listwise_softmax_by_hand(self):
        # Teacher (3/4, 1/4), student even.
        value = listwise_softmax(torch.zeros(1, 2), tensor([[math.log(3.0), 0.0]]))
        close(value.item(), math.log(2), 1e-6)
        value = listwise_softmax(tensor([[0.0, math.log(3.0)]]), tensor([[math.log(3.0), 0.0]]))
        close(value.item(), -0.75 * math.log(0.25) - 0.25 * math.log(0.75), 1e-6)

    def test_listmle_by_hand(self):
        # The teacher's order is 1, 2, 0; the student's weights are 1, 2, 3.
        value = listmle(tensor([[1.0, 2.0, 3.0]]).log(), tensor([[-1.0, 7.0, 0.0]]))
        close(value.item(), -math.log(2 / 6 * 3 / 4), 1e-6)

    def test_margin_mse_by_hand(self):
        # A relevant item and another: margins 3 and 1. Three items with gaps 0, 1, 3: 1, 9, 4.
        assert margin_mse(tensor([[5.0, 2.0]]), tensor([[4.0, 3.0]])).item() == 4
        value = margin_mse(tensor([[0.0, 1.0, 3.0]]), torch.zeros(1, 3))
        close(value.item(), 14 / 3, 1e-6)

    @pytest.mark.parametrize(
        ("loss", "naive"),
        [
            (listwise_softmax, naive_softmax),
            (listmle, naive_mle),
            (margin_mse, naive_margin),
        ],
    )
    @pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
    def test_they_are_the_loops(self, loss, naive, mask):
        shown = torch.ones_like(MASK) if mask is None else mask
        loops = [
            naive(s[m.bool()].tolist(), t[m.bool()].tolist())
            for s, t, m in zip(S, T, shown, strict=True)
        ]
        close(loss(S, T, mask), loops)

    @every_list
    def test_what_is_masked_does_not_matter(self, loss):
        there = MASK.bool()
        for padding in (1e30, -math.inf, math.nan):
            student, teacher = (torch.where(there, x, padding) for x in (S, T))
            close(loss(student, teacher, MASK), loss(S, T, MASK))
            gradient = slope(lambda s, teacher=teacher: loss(s, teacher, MASK), student)
            assert (gradient[~there] == 0).all()
            close(gradient, slope(lambda s: loss(s, T, MASK), S))

    @every_list
    def test_an_empty_list_gives_nothing(self, loss):
        assert (loss(S, T, torch.zeros_like(MASK)) == 0).all()
        assert (slope(lambda s: loss(s, T, torch.zeros_like(MASK)), S) == 0).all()

    @every_list
    def test_shifting_the_scores_of_a_query_changes_nothing(self, loss):
        shift = tensor([[3.0], [-2.0], [0.0], [5.0]])
        close(loss(S + shift, T - shift), loss(S, T), 1e-10)

    @every_list
    def test_permuting_the_items_changes_nothing(self, loss):
        order = tensor([3, 1, 6, 0, 2, 5, 4])
        close(loss(S[:, order], T[:, order]), loss(S, T))

    @every_list
    def test_masks_work_under_vmap(self, loss):
        students, teachers = normal(3, 4, 7), normal(3, 4, 7, seed=5)
        together = torch.func.vmap(loss, in_dims=(0, 0, None))(students, teachers, MASK)
        looped = [loss(s, t, MASK) for s, t in zip(students, teachers, strict=True)]
        close(together, torch.stack(looped))

    def test_listwise_softmax_is_least_at_the_teacher(self):
        value = listwise_softmax(T, T)
        entropy = -(T.softmax(-1) * T.log_softmax(-1)).sum(-1)
        close(value, entropy)
        close(slope(lambda s: listwise_softmax(s, T), T), torch.zeros_like(T))

    def test_listmle_sees_the_order_of_the_teacher_alone(self):
        close(listmle(S, T**3 + T), listmle(S, T))

    def test_margin_mse_is_twice_the_variance_of_the_gaps(self):
        close(margin_mse(S, T), 2 * (S - T).var(dim=-1))

    @every_list
    def test_a_list_learns_the_order(self, loss):
        student = torch.zeros_like(T).requires_grad_()
        optimiser = torch.optim.Adam([student], lr=0.3)
        for _ in range(100):
            optimiser.zero_grad()
            loss(student, T).sum().backward()
            optimiser.step()
        relevance = T.argsort(-1).argsort(-1).numpy()
        assert sklearn.metrics.ndcg_score(relevance, student.detach().numpy()) > 0.999

    def test_temperature(self):
        close(listwise_softmax(S, T, temperature=2.0), listwise_softmax(S / 2, T / 2))
        with pytest.raises(ValueError, match="temperature is 0; .*positive"):
            listwise_softmax(S, T, temperature=0)

    @every_list
    def test_a_mask_of_another_shape_is_named(self, loss):
        with pytest.raises(ValueError, match=r"mask \(4, 6\).*mask the padding"):
            loss(S, T, MASK[:, :6])


def test_scores_are_no_items():
    with pytest.raises(ValueError, match="top is torch.float64; expected integers.*topk"):
        ranking_distillation(S, S[:, :2])


def test_margin_ranking_is_torchs_on_the_pairs_that_the_teacher_tells_apart():
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.rand(4, 6, generator=draw).double() for _ in range(2))
    pairs = list(itertools.combinations(range(6), 2))
    for n, margin in itertools.product(range(4), (0.0, 0.1, 0.4)):
        expected = 0.0
        for i, j in pairs:
            gap = float(teacher[n, i] - teacher[n, j])
            order = torch.tensor(0.0 if abs(gap) <= margin else math.copysign(1.0, gap))
            expected += float(
                F.margin_ranking_loss(student[n, i], student[n, j], order, margin=margin)
            )
        found = margin_ranking(student, teacher, margin)[n]
        assert float(found) == pytest.approx(expected / len(pairs))
    assert margin_ranking(student[:, :1], teacher[:, :1]).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="margin is -1"):
        margin_ranking(student, teacher, -1)

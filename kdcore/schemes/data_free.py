"""Data-free distillation: a generator makes the examples that the teacher is asked about."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.schemes.learners import Learners
from kdcore.schemes.stages import UNLABELLED, LossTerm, Stage, soft
from kdcore.training.batches import Examples
from kdcore.training.optimizers import TrainingConfig
from kdcore.training.stacked import Params


def copied(
    x: Tensor,
    y: Tensor,
    noise: Callable[[Tensor, torch.Generator], Tensor],
    copies: int,
    generator: torch.Generator,
) -> Examples:
    """Each example `copies` times, every time with other noise."""
    noised = torch.cat([noise(x, generator) for _ in range(copies)])
    return Examples(noised, torch.cat([y] * copies), torch.arange(len(noised)))


def data_free(
    student: str,
    teacher: str,
    generator: str,
    make: Callable[[Params, Tensor], Tensor],
    latent: int,
    rounds: int,
    at_once: int,
    inventing: TrainingConfig,
    following: TrainingConfig,
    balance: float = 5.0,
    temperature: float = 1.0,
) -> list[Stage]:
    r"""No data: a generator invents what the teacher is sure of, and the student learns from that.

    Hanting Chen, Yunhe Wang, Chang Xu, Zhaohui Yang, Chuanjian Liu, Boxin Shi, Chunjing Xu, Chao
    Xu, Qi Tian. "Data-Free Learning of Student Networks" (DAFL). ICCV 2019.
    https://arxiv.org/abs/1904.01186

        generator:  CE(t(g(z)), argmax t(g(z))) - balance H(mean over the batch of t(g(z)))
        student:    T^2 KL(t(g(z)) || s(g(z)))

    Convention: the paper's term on the size of activations is left out. The learner `generator`
    answers with the frozen teacher's outputs on what it makes: its gradient goes through them.

    Args:
        student: who follows.
        teacher: whom.
        generator: a learner with predict(params, z) = teacher(make(params, z)).
        make: (params, z) -> x.
        latent: numbers in z, standard normal.
        rounds: of both in turn.
        at_once: z of a round, for the generator and for the student.
        inventing: training of the generator in a round.
        following: training of the student in a round.
        balance: weight of the entropy.
        temperature: T.
    """

    def noise(learners: Learners, source: torch.Generator) -> Examples:
        z = torch.randn(at_once, latent, generator=source)
        return Examples(z, torch.full((at_once,), UNLABELLED), torch.arange(at_once))

    def invented(learners: Learners, source: torch.Generator) -> Examples:
        z = noise(learners, source)
        with torch.no_grad():
            return replace(z, x=make(learners[generator].params, z.x))

    def sure_and_balanced(said: Outputs, y: Tensor) -> Tensor:
        sure = response.cross_entropy(said.logits, said.logits.argmax(-1))
        mean = said.logits.softmax(-1).mean(0)
        disorder: Tensor = torch.special.xlogy(mean, mean).sum()
        return sure + balance * disorder

    invent = Stage({generator: (LossTerm(sure_and_balanced),)}, noise, inventing)
    follow = Stage({student: (LossTerm(soft(temperature), (teacher,)),)}, invented, following)
    return [invent, follow] * rounds

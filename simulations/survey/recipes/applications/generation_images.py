"""Generation of images: a small generator learns from a large one, and never sees an image."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedkd.data.datasets import Dataset
from fedkd.models.architectures import initialiser
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import LossTerm, Stage, run
from kdcore.settings import WIDEST, Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import Params, TrainingConfig
from simulations.survey.datasets import labelled, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import learner


@dataclass(frozen=True)
class ImageGeneration:
    """A generator follows another one, from the same noise to the same image.

    Angeline Aguinaldo, Ping-Yeh Chiang, Alex Gain, Ameya Patil, Kolten Pearson, Soheil Feizi.
    "Compressing GANs using Knowledge Distillation". 2019. https://arxiv.org/abs/1902.00159; here
    the generators are those of variational autoencoders (Diederik Kingma, Max Welling.
    "Auto-Encoding Variational Bayes". ICLR 2014. https://arxiv.org/abs/1312.6114).

    The teacher is trained on `train` images, the student on noise and what the teacher makes of it.
    Controls: the same small network, trained as an autoencoder on `few` images, on all images, and
    not trained at all.

    Scores are those of `samples` made images beside the test images, as a classifier sees them: the
    Frechet distance of its last hidden layer, and how evenly its ten classes are covered.
    """

    data: ClassVar[str] = "digits"

    few: Annotated[int, Setting("images that the control learns", ge=1)] = 60
    train: Annotated[int, Setting("images that the teacher learns", ge=1)] = 1078
    teacher: Annotated[int, Setting("width of its hidden layers", ge=1, le=WIDEST)] = 256
    student: Annotated[int, Setting("width of its hidden layers", ge=1, le=WIDEST)] = 64
    latent: Annotated[int, Setting("width of the noise", ge=1, le=WIDEST)] = 8
    noises: Annotated[
        int, Setting("inputs of which the student learns the teacher's images", ge=1)
    ] = 4000
    copies: Annotated[
        int, Setting("passes of each training image, each with other noise", ge=1)
    ] = 10
    samples: Annotated[int, Setting("made images that are scored", ge=2)] = 1000
    judge: Network = "mlp-64-16"
    judging: TrainingConfig = TrainingConfig("adam", 0.003, epochs=30, batch_size=32)
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.005, epochs=8, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.004, epochs=10, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Frechet distance (lower is better) and coverage (at most 1) of each generator."""
        few, rest, test = split(len(data.y), (self.few, self.train - self.few), seed)
        every = torch.cat([few, rest])
        known = labelled(data.x, data.y, every)
        start = {
            who: autoencoder(data.x[0].numel(), self.latent, width, generator(seed, "init", who))
            for who, width in (("teacher", self.teacher), ("student", self.student))
        }
        start["judge"] = learner(self.judge, data.shape, data.num_classes, seed, "judge")
        taught = run(alone("judge", known, self.judging), start, generator(seed, "judge"))
        judge = taught["judge"]

        def trained(who: str, rows: Tensor) -> Learner:
            # As many steps for each: the few images pass by more often, each time noised anew.
            copies = self.copies * len(every) // len(rows)
            images = self.noised(data.x[rows].flatten(1), copies, generator(seed, "noise"))
            study = Stage({who: (LossTerm(evidence),)}, images, self.teacher_training)
            params = run([study], start, generator(seed, "order"))[who].params
            return Learner(paint, params)

        teacher = trained("teacher", every)
        pair = {"teacher": teacher, "student": Learner(paint, start["student"].params)}
        noises = torch.randn(self.noises, self.latent, generator=generator(seed, "noises"))
        follow = offline(
            "student", ["teacher"], imitation, unlabelled(noises), self.student_training
        )
        makers = {
            "": run(follow, pair, generator(seed, "order"))["student"],
            "_baseline": trained("student", few),
            "_all_images": trained("student", every),
            "_untrained": pair["student"],
            "_teacher": teacher,
        }
        z = torch.randn(self.samples, self.latent, generator=generator(seed, "samples"))
        real = judge(data.x[test]).hidden[-1]
        metrics = {}
        for arm, maker in makers.items():
            seen = judge(maker(z).logits.sigmoid())
            metrics[f"frechet{arm}"] = frechet(seen.hidden[-1], real)
            metrics[f"coverage{arm}"] = coverage(seen.logits)
        return metrics

    def noised(self, images: Tensor, copies: int, source: torch.Generator) -> Examples:
        """Images many times over, each time with other noise for the autoencoder to draw with."""
        many = images.repeat(copies, 1)
        noise = torch.randn(len(many), self.latent, generator=source)
        return Examples((many, noise), many, torch.arange(len(many)))


# ---------------------------------------------------------------- generators


def autoencoder(pixels: int, latent: int, width: int, source: torch.Generator) -> Learner:
    """A variational autoencoder with one hidden layer on each side."""
    sizes = {
        "look": (width, pixels),
        "code": (2 * latent, width),
        "sketch": (width, latent),
        "paint": (pixels, width),
    }
    shapes: dict[str, tuple[int, ...]] = {f"{n}.weight": size for n, size in sizes.items()}
    shapes |= {f"{name}.bias": size[:1] for name, size in sizes.items()}
    return Learner(reconstruct, initialiser(shapes)(source))


def reconstruct(params: Params, x: tuple[Tensor, Tensor]) -> Outputs:
    """Images (B, P) and noise (B, L) -> logits of images (B, P), mean and log variance (B, L)."""
    image, noise = x
    mean, spread = linear(params, "code", linear(params, "look", image).relu()).chunk(2, -1)
    return Outputs(paint(params, mean + (0.5 * spread).exp() * noise).logits, (mean, spread))


def paint(params: Params, z: Tensor) -> Outputs:
    """The generator of an autoencoder: (B, L) -> logits of images (B, P)."""
    return Outputs(linear(params, "paint", linear(params, "sketch", z).relu()))


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """A layer of a name."""
    return F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])


def evidence(own: Outputs, image: Tensor) -> Tensor:
    """Minus the evidence lower bound: (B,), in nats, pixels taken for chances."""
    mean, spread = own.hidden
    pixels = F.binary_cross_entropy_with_logits(own.logits, image, reduction="none").sum(-1)
    return pixels + 0.5 * (mean.square() + spread.exp() - spread - 1).sum(-1)


def imitation(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
    """The squared gap of two images of the same noise."""
    return (student.logits.sigmoid() - teacher.logits.sigmoid()).square().sum(-1)


# ---------------------------------------------------------------- scores


def frechet(made: Tensor, real: Tensor) -> float:
    r"""The Frechet distance of two sets of features, as if both were Gaussian.

    Martin Heusel, Hubert Ramsauer, Thomas Unterthiner, Bernhard Nessler, Sepp Hochreiter. "GANs
    Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium". NeurIPS 2017.
    https://arxiv.org/abs/1706.08500

        |m - m'|^2 + tr(C + C' - 2 (C C')^{1/2})

    Convention: squared, as there; covariances divide by N - 1. The root of C C' has the trace of
    that of C^{1/2} C' C^{1/2}, which is symmetric.

    Shapes:
        made: (N, D); real: (M, D); N and M above D, or covariances are poor.
    """
    mean, means = made.double().mean(0), real.double().mean(0)
    cov, covs = made.double().T.cov(), real.double().T.cov()
    values, vectors = torch.linalg.eigh(cov)
    half = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(half @ covs @ half).clamp(min=0).sqrt().sum()
    return float((mean - means).square().sum() + cov.trace() + covs.trace() - 2 * shared)


def coverage(logits: Tensor) -> float:
    r"""How evenly the predicted classes are met: 1 if all are alike, 1 / C if there is one.

    e^{H(n)} / C,   n the share of examples of each class
    """
    share = torch.bincount(logits.argmax(-1), minlength=logits.shape[1]) / len(logits)
    return float((-torch.special.xlogy(share, share).sum()).exp() / logits.shape[1])

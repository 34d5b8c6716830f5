"""Generation of text: a student of a language model reads what its teacher writes."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedkd.models.architectures import initialiser
from kdcore.losses.sequence import sequence_level, word_level
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.decoding import sampled
from kdcore.schemes.learners import Learner
from kdcore.schemes.stages import LossTerm, Stage, run
from kdcore.settings import WIDEST, Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import Params, TrainingConfig
from simulations.survey.datasets import split
from simulations.survey.recipes import Metrics, StudentTraining, TeacherTraining

CONTEXT, EMBEDDING = 8, 16  # characters that a network looks back at, and numbers for each


@dataclass(frozen=True)
class TextGeneration:
    """Word-level and sequence-level distillation of a character model.

    Yoon Kim, Alexander Rush. "Sequence-Level Knowledge Distillation". EMNLP 2016.
    https://arxiv.org/abs/1606.07947

    The teacher has read `teacher_text` characters of Shakespeare besides the `student_text` ones
    that the student reads too. The student's arms: at each place of its text, the teacher's
    distribution (`_word`); text that the teacher wrote (`_sequence`); both, the distribution at
    each place of text that the teacher wrote, so that it sees no line of Shakespeare (no suffix).
    Controls: its text alone, for as many epochs as serve it best (`_baseline`); what the teacher
    wrote, in an order of characters that says nothing (`_shuffled`).

    The text is cut into sequences, each of which begins with nothing; which are whose, and which
    are held out for the perplexity, is drawn.
    """

    data: ClassVar[str] = "shakespeare"

    student_text: Annotated[int, Setting("characters that the student reads", ge=1, was="seen")] = (
        20_000
    )
    generated: Annotated[
        int, Setting("characters that the teacher writes", ge=1, was="written")
    ] = 200_000
    held_out: Annotated[int, Setting("characters of the perplexity", ge=1)] = 50_000
    teacher_text: Annotated[
        int, Setting("characters that the teacher reads besides", ge=1, was="heard")
    ] = 400_000
    length: Annotated[int, Setting("characters of a sequence", ge=1)] = 128
    teacher: Annotated[int, Setting("width of its hidden layer", ge=1, le=WIDEST)] = 256
    student: Annotated[int, Setting("width of its hidden layer", ge=1, le=WIDEST)] = 128
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.004, epochs=2, batch_size=4)
    student_training: StudentTraining = TrainingConfig("adam", 0.006, epochs=2, batch_size=4)
    reading: TrainingConfig = TrainingConfig("adam", 0.004, epochs=12, batch_size=4)

    def measure(self, data: str, seed: int) -> Metrics:
        """Perplexity per character of each student and of the teacher."""
        alphabet = sorted(set(data))
        numbers = torch.tensor([alphabet.index(one) for one in data])
        cut = pieces(numbers, self.length)
        sizes = [
            count // self.length for count in (self.held_out, self.student_text, self.teacher_text)
        ]
        test, few, more, _ = (cut[rows] for rows in split(len(cut), sizes, seed))
        text = torch.cat([few, more])
        start = {
            who: network(len(alphabet), width, generator(seed, "init", who))
            for who, width in (("teacher", self.teacher), ("student", self.student))
        }
        stage = Stage({"teacher": (LossTerm(read),)}, sequences(text), self.teacher_training)
        taught = run([stage], start, generator(seed, "teach"))
        many = self.generated // self.length
        wrote = write(taught["teacher"], many, self.length, generator(seed, "write"))
        order = torch.randperm(wrote.numel(), generator=generator(seed, "shuffle"))
        shuffled = wrote.flatten()[order].reshape(wrote.shape)
        # As many steps for whoever listens to the teacher: a short text passes by more often.
        often = replace(
            self.student_training, epochs=self.student_training.epochs * many // len(few)
        )
        arms = {
            "": Stage(
                {"student": (LossTerm(follow, ("teacher",)),)},
                sequences(wrote),
                self.student_training,
            ),
            "_word": Stage({"student": (LossTerm(follow, ("teacher",)),)}, sequences(few), often),
            "_sequence": Stage(
                {"student": (LossTerm(read),)}, sequences(wrote), self.student_training
            ),
            "_shuffled": Stage(
                {"student": (LossTerm(read),)}, sequences(shuffled), self.student_training
            ),
            "_baseline": Stage({"student": (LossTerm(read),)}, sequences(few), self.reading),
        }
        metrics = {"perplexity_teacher": perplexity(taught["teacher"], test)}
        for arm, study in arms.items():
            student = run([study], taught, generator(seed, "learn"))["student"]
            metrics[f"perplexity{arm}"] = perplexity(student, test)
        return metrics


# ---------------------------------------------------------------- sequences


def pieces(text: Tensor, length: int) -> Tensor:
    """A text cut into sequences of one length, (N, L); what is left over at the end is left out."""
    return text[: len(text) // length * length].reshape(-1, length)


def sequences(text: Tensor) -> Examples:
    """Sequences (N, L) to be foretold: each its own target."""
    return Examples(text, text, torch.arange(len(text)))


def read(student: Outputs, y: Tensor) -> Tensor:
    """The loss of a text, whoever wrote it."""
    return sequence_level(student.logits, y, torch.ones_like(y))


def follow(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
    """The loss of the teacher's distribution at each place of a text."""
    return word_level(student.logits, teacher.logits, torch.ones_like(y))


def perplexity(one: Learner, text: Tensor) -> float:
    r"""How many characters a model wavers between: exp of its mean loss per character.

    Frederick Jelinek, Robert Mercer, Lalit Bahl, James Baker. "Perplexity: a Measure of the
    Difficulty of Speech Recognition Tasks". Journal of the Acoustical Society of America 1977.
    https://doi.org/10.1121/1.2016299

    Shapes:
        text: (N, L), every place counts.
    """
    return math.exp(float(read(one(text), text).double().mean()))


def write(one: Learner, count: int, length: int, source: torch.Generator) -> Tensor:
    """Sequences that a model writes, each character drawn from what it says: (count, length)."""

    def say(text: Tensor) -> Tensor:
        # The model foretells the character after the last one of a sequence: a place holder's.
        seen = torch.cat([text[:, -CONTEXT:], text.new_zeros(count, 1)], dim=1)
        return one(seen).logits[:, -1]

    return sampled(say, torch.zeros(count, 0, dtype=torch.long), length, source)


# ---------------------------------------------------------------- the model


def network(characters: int, width: int, source: torch.Generator) -> Learner:
    """A language model that looks back at a few characters.

    Yoshua Bengio, Rejean Ducharme, Pascal Vincent, Christian Jauvin. "A Neural Probabilistic
    Language Model". JMLR 2003. https://www.jmlr.org/papers/v3/bengio03a.html

    One more embedding than characters stands for what is before the beginning: it is read and never
    foretold.
    """
    shapes = {
        "embedding.weight": (characters + 1, EMBEDDING),
        "layer.weight": (width, CONTEXT * EMBEDDING),
        "layer.bias": (width,),
        "head.weight": (characters, width),
        "head.bias": (characters,),
    }
    return Learner(foretell, initialiser(shapes)(source))


def foretell(params: Params, text: Tensor) -> Outputs:
    """(B, L) characters -> logits (B, L, C): those at a place say what is there, unseen."""
    before = len(params["embedding.weight"]) - 1
    past = F.pad(text[:, :-1], (CONTEXT, 0), value=before).unfold(1, CONTEXT, 1)
    seen = F.embedding(past, params["embedding.weight"]).flatten(2)
    hidden = F.linear(seen, params["layer.weight"], params["layer.bias"]).relu()
    return Outputs(F.linear(hidden, params["head.weight"], params["head.bias"]))

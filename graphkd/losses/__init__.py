"""What a graph network teaches: each name in `__all__` is a loss, one value per node.

Called as `loss(student, teacher, graph)`: the `Outputs` of both on the same N nodes, and the graph
of these nodes. The caller takes the mean. The teacher's side is detached. Losses on "the
embedding" take the last hidden state. Where widths may not differ, or a paper puts layers between
the embedding and the loss, the loss takes them as `project` (`losses.projectors` makes them);
what a method draws at random is an argument too (`losses.reliability`).

    labels        soft_labels, low_frequency, high_frequency, reliable_labels
    local         local_structure
    pairs         distance, angle, similarity_preserving, global_structure, structural_similarity
    features      hint, attention_transfer
    information   contrastive, mutual_information

Whatever grows with the pairs of nodes is worked out in blocks, and again in the backward pass, so
that a block is all that memory holds; each docstring says what time and memory grow with.
"""

from graphkd.losses import projectors as projectors
from graphkd.losses import reliability as reliability
from graphkd.losses.features import attention_transfer, hint
from graphkd.losses.global_structure import (
    angle,
    distance,
    global_structure,
    similarity_preserving,
    structural_similarity,
)
from graphkd.losses.information import contrastive, mutual_information
from graphkd.losses.kernels import KERNELS as KERNELS
from graphkd.losses.kernels import check_kernel as check_kernel
from graphkd.losses.labels import high_frequency, low_frequency, reliable_labels, soft_labels
from graphkd.losses.local_structure import local_structure

__all__ = [
    "angle",
    "attention_transfer",
    "contrastive",
    "distance",
    "global_structure",
    "high_frequency",
    "hint",
    "local_structure",
    "low_frequency",
    "mutual_information",
    "reliable_labels",
    "similarity_preserving",
    "soft_labels",
    "structural_similarity",
]

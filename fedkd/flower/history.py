"""What happened in a round."""

from dataclasses import dataclass, field
from typing import Any

from flwr.app import MetricRecord

from fedkd.messages import Ledger


@dataclass
class RoundMetrics:
    """One round, as the server saw it.

    Attributes:
        index: 1 for the first round.
        cohort: the numbers of the clients that were asked.
        rejected: client number -> why its upload was turned away.
        failed: client number -> why there is no answer: what it raised, or that it was silent.
        ledger: bytes of tensors, by direction and key.
        deployment: bytes of what brought the models that were scored; empty where none were.
        wire_up, wire_down: bytes of the whole messages as Flower serialises them; 0 where the
            strategy was told not to weigh them.
        scores: client number -> what it measured after the round.
        notes: what nobody should overlook, in lines.
    """

    index: int
    cohort: tuple[int, ...]
    rejected: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    deployment: Ledger = field(default_factory=Ledger)
    wire_up: int = 0
    wire_down: int = 0
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def means(self) -> dict[str, float]:
        """Each score's mean over the clients that sent it."""
        names = sorted({name for scores in self.scores.values() for name in scores})
        sent = {n: [s[n] for s in self.scores.values() if n in s] for n in names}
        return {name: sum(values) / len(values) for name, values in sent.items()}

    def as_json(self) -> dict[str, Any]:
        """The record in nothing but dictionaries, lists, strings and numbers."""
        return {
            "record": "round",
            "round": self.index,
            **self.means(),
            "traffic": {"up": dict(self.ledger.up), "down": dict(self.ledger.down)},
            "bytes_deployed": self.deployment.bytes_down,
            "wire": {"up": self.wire_up, "down": self.wire_down},
            "cohort": list(self.cohort),
            "rejected": {str(client): reason for client, reason in self.rejected.items()},
            "failed": {str(client): reason for client, reason in self.failed.items()},
            "scores": {str(client): scores for client, scores in self.scores.items()},
            **({"notes": self.notes} if self.notes else {}),
        }

    def as_metrics(self) -> MetricRecord:
        """What Flower's `Result` and log say of the round."""
        return MetricRecord(
            {
                "bytes-up": self.ledger.bytes_up,
                "bytes-down": self.ledger.bytes_down,
                "wire-up": self.wire_up,
                "wire-down": self.wire_down,
                "cohort": len(self.cohort),  # a log has no room for a thousand numbers
                "rejected": list(self.rejected),
                "failed": list(self.failed),
            }
        )

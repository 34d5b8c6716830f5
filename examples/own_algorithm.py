"""An algorithm of your own: FedMD with a server that keeps a part of the old consensus.

From the folder of this file: `kdsim fed own_algorithm:SlowConsensus --keep 0.5 --rounds 5`.
"""

from dataclasses import dataclass

from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Public, Server, Task
from fedkd.messages import Message


@dataclass(frozen=True)
class SlowConsensus(FedMD):
    """consensus_t = keep consensus_{t-1} + (1 - keep) mean_k p_k; with keep = 0, FedMD.

    Up and down as FedMD, https://arxiv.org/abs/1910.03581.
    """

    keep: float = 0.5

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """FedMD's, and then a step towards it."""
        newest = super().server_from_sum(task, server, total, count, public)
        if "consensus" not in server:
            return newest
        kept = self.keep * server["consensus"] + (1 - self.keep) * newest["consensus"]
        return {**newest, "consensus": kept}

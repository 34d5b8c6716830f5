"""Any algorithm of `fedkd` as a Flower app: a Strategy, a ClientApp and a ServerApp.

The rounds are those of `fedkd.rounds.round`: `DistillationStrategy` opens and closes them on the
server, `client_app` plays a client in between, and Flower carries the messages, whether in its own
simulation, between machines, or in this process (`EngineGrid`). The same seed gives the same
clients as `fedkd.rounds.synchronous.simulate`.

Only this package knows flwr, and `import fedkd` does not load it.
"""

from fedkd.flower.client_app import DistillationApp, client_app
from fedkd.flower.grids.engine import EngineGrid
from fedkd.flower.grids.local import LocalGrid
from fedkd.flower.handlers import ClientRuntime
from fedkd.flower.history import RoundMetrics
from fedkd.flower.server_app import Plan, carry_out, server_app
from fedkd.flower.strategy import DistillationStrategy
from fedkd.flower.wire.serde import pack, serialised, unpack

__all__ = [
    "DistillationApp",
    "DistillationStrategy",
    "EngineGrid",
    "LocalGrid",
    "ClientRuntime",
    "Plan",
    "RoundMetrics",
    "pack",
    "carry_out",
    "client_app",
    "serialised",
    "server_app",
    "unpack",
]

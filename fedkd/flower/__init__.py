"""Any algorithm of `fedkd` as a Flower app: a Strategy, a ClientApp and a ServerApp.

The rounds are those of `fedkd.federation`: `DistillationStrategy` opens and closes them on the
server, `client_app` plays a client in between, and Flower carries the messages, whether in its own
simulation, between machines, or in this process (`EngineGrid`). The same seed gives the same
clients as `fedkd.federation.simulate`.

Only this package knows flwr, and `import fedkd` does not load it.
"""

from fedkd.flower.client import DistillationApp, client_app
from fedkd.flower.engine_grid import EngineGrid
from fedkd.flower.grid import LocalGrid
from fedkd.flower.messages import pack, serialised, unpack
from fedkd.flower.party import Party
from fedkd.flower.record import Record
from fedkd.flower.server import Plan, carry_out, server_app
from fedkd.flower.strategy import DistillationStrategy

__all__ = [
    "DistillationApp",
    "DistillationStrategy",
    "EngineGrid",
    "LocalGrid",
    "Party",
    "Plan",
    "Record",
    "pack",
    "carry_out",
    "client_app",
    "serialised",
    "server_app",
    "unpack",
]

"""The client's side: a ClientApp that plays one client of a federation."""

from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedkd.core import Client
from fedkd.flower.handlers import KINDS, ClientRuntime, DeliveryCache, present
from fedkd.flower.wire.serde import DISTIL, SCORE, WHO, pack, typed, unpack
from kdcore.training.loop import Params


class DistillationApp(ClientApp):
    """A ClientApp around `fedkd`, in which an `EngineGrid` knows what a message asks for.

    Attributes:
        build: from a node's context to what the node plays.
        plain: whether a message has no effect but that of its handler.
    """

    def __init__(self, build: Callable[[Context], ClientRuntime]) -> None:
        super().__init__()
        self.build = build
        self.plain = True

    def lifespan(self) -> Callable[..., Any]:
        """As in any ClientApp; what a lifespan does is done for one message at a time."""
        self.plain = False
        return super().lifespan()


def client_app(build: Callable[[Context], ClientRuntime]) -> DistillationApp:
    """A ClientApp around `fedkd`.

    Parameters stay on the node, in `context.state`; they are sent only by algorithms whose upload
    they are.

    Args:
        build: from the node's context (`node_config["partition-id"]`, `run_config`) to what it
            plays. Called for every message, maybe in a new process each time: keep the data in a
            `functools.lru_cache`. (An `EngineGrid` calls it once for each node.)
    """
    app = DistillationApp(build)

    @app.query(_action(WHO))
    def who(message: Message, context: Context) -> Message:
        return Message(introduction(build(context).client), reply_to=message)

    @app.train(_action(DISTIL))
    def distil(message: Message, context: Context) -> Message:
        return _answer(build(context), message, context)

    @app.evaluate(_action(SCORE))
    def score(message: Message, context: Context) -> Message:
        return _answer(build(context), message, context)

    return app


def introduction(client: Client) -> RecordDict:
    """Who a client is."""
    return RecordDict({"who": ConfigRecord({"client": client.id, "group": client.group})})


def kept(context: Context) -> Params | None:
    """The parameters that a node kept from its last round, if there was one."""
    return (
        unpack(typed(context.state, "params", ArrayRecord)) if "params" in context.state else None
    )


def _answer(runtime: ClientRuntime, message: Message, context: Context) -> Message:
    """Open a request, run the algorithm's function, close it."""
    kind = KINDS[message.metadata.message_type]
    runtime = present(runtime, kept(context), message.content)
    (work,) = kind.ready([kind.open(runtime, runtime.terms(), message.content, DeliveryCache())])
    predict = runtime.task.models[runtime.client.group].predict
    result = kind.function(runtime.learner)(predict, runtime.client.params, *work.inputs)
    content, params = kind.close(work, result)
    if params is not None:
        context.state["params"] = pack(params)
    return Message(content, reply_to=message)


def _action(message_type: str) -> str:
    return message_type.partition(".")[2]

"""The client's side: a ClientApp that plays one client of a federation."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedkd.channel import Channel
from fedkd.core import Algorithm, Client, Task
from fedkd.federation import private_of, public_of
from fedkd.flower.messages import (
    DISTIL,
    SCORE,
    WHO,
    check_terms,
    pack,
    pack_upload,
    terms,
    unpack,
)
from knowledge.randomness import generator


class Party(NamedTuple):
    """What one node plays.

    Attributes:
        algorithm, task, channel: the same as the server's; any difference is an error.
        client: who it is, with the parameters it begins with.
        score: measures a client whose model is ready for use; None where nobody asks.
        secret: the seed of what the uplink draws (noise). None takes the run's seed: the run can
            be repeated, and the server, who knows that seed, can take the noise off again. Where
            noise is to protect from the server, give every client a secret of its own.
    """

    algorithm: Algorithm
    task: Task
    client: Client
    channel: Channel = Channel()
    score: Callable[[Client], Mapping[str, float]] | None = None
    secret: int | None = None


def client_app(build: Callable[[Context], Party]) -> ClientApp:
    """A ClientApp around `fedkd`.

    Parameters stay on the node, in `context.state`; they are sent only by algorithms whose upload
    they are.

    Args:
        build: from the node's context (`node_config["partition-id"]`, `run_config`) to what it
            plays. Called for every message, maybe in a new process each time: keep the data in a
            `functools.lru_cache`.
    """
    app = ClientApp()

    @app.query(_action(WHO))
    def who(message: Message, context: Context) -> Message:
        client = build(context).client
        answer = ConfigRecord({"client": client.id, "group": client.group})
        return Message(RecordDict({"who": answer}), reply_to=message)

    @app.train(_action(DISTIL))
    def distil(message: Message, context: Context) -> Message:
        party = _resume(build(context), context)
        return Message(_distil(party, message.content, context), reply_to=message)

    @app.evaluate(_action(SCORE))
    def score(message: Message, context: Context) -> Message:
        party = _resume(build(context), context)
        return Message(_score(party, message.content), reply_to=message)

    return app


def _distil(party: Party, content: RecordDict, context: Context) -> RecordDict:
    """One round of a client: read, update, keep the parameters, send."""
    algorithm, task, client, channel = party[:4]
    agreed = terms(algorithm, task, channel)
    check_terms(content["order"], agreed)  # before anything leaves: no upload past a wrong channel
    index, seed = int(content["order"]["round"]), int(content["order"]["seed"])
    received = channel.read_down(unpack(content["broadcast"]))
    private = private_of(algorithm, client, seed, index)
    public = public_of(algorithm, task, seed, index)
    predict = task.models[client.group].predict
    params, upload = algorithm.client_update(predict, client.params, received, private, public)
    noise = seed if party.secret is None else party.secret
    sent = channel.send_up(upload, generator(noise, "up", index, client.id))
    context.state["params"] = pack(params)
    return pack_upload(sent, agreed)


def _score(party: Party, content: RecordDict) -> RecordDict:
    """How good the model is that the client would use now (`federation.deployed`)."""
    algorithm, task, client, channel = party[:4]
    if party.score is None:
        raise ValueError("this client was built without a way to score itself")
    check_terms(content["order"], terms(algorithm, task, channel))
    index, seed = int(content["order"]["round"]), int(content["order"]["seed"])
    received = channel.read_down(unpack(content["broadcast"]))
    public = public_of(algorithm, task, seed, index + 1)
    predict = task.models[client.group].predict
    params = algorithm.deploy(predict, client.params, received, public)
    scores = party.score(replace(client, params=params))
    report = MetricRecord({name: float(value) for name, value in scores.items()})
    return RecordDict({"scores": report})


def _resume(party: Party, context: Context) -> Party:
    """The party with the parameters that it kept from its last round, if there was one."""
    if "params" not in context.state:
        return party
    kept = unpack(context.state["params"])
    return party._replace(client=replace(party.client, params=kept))


def _action(message_type: str) -> str:
    return message_type.partition(".")[2]

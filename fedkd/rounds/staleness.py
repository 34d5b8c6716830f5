"""What an upload counts for that answers an earlier state of the server than the present one.

Trained parameters are taken for what training changed: an update, which moves the parameters of
the present. This is FedBuff: John Nguyen, Kshitiz Malik, Hongyuan Zhan, Ashkan Yousefpour, Mike
Rabbat, Mani Malek, Dzmitry Huba. "Federated Learning with Buffered Asynchronous Aggregation".
AISTATS 2022. https://arxiv.org/abs/2106.06639

    w <- w + eta sum_k n_k s(tau_k) (w_k - w_told(k)) / sum_k n_k,    s(tau) = 1 / sqrt(1 + tau)

over the clients k of the buffer, with tau the number of updates of the server since client k was
told, and eta the server's learning rate. The paper counts each client once; here it is n_k
examples, so that with everybody in the buffer, tau 0 and eta 1 this is federated averaging. A
method's server is told of moved parameters and does with them what it does: FedDF distils the
ensemble of them.

What is not trained parameters (predictions, features, prototypes) moves nothing: the newest of each
client that was heard stands for it, however old.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

from fedkd.messages import Message, PayloadSpec, Received


def discount(age: int) -> float:
    """s(tau), what is left of an update that is so many updates of the server late."""
    return 1 / math.sqrt(1 + age)


def sends_parameters(payload_spec: Mapping[str, PayloadSpec]) -> bool:
    """Whether an upload holds trained parameters, or updates of them."""
    return any(spec.trained != "no" for spec in payload_spec.values())


def moved(
    upload: Received,
    payload_spec: Mapping[str, PayloadSpec],
    broadcast: Message,
    present: Message,
    age: int,
    rate: float,
) -> Received:
    """The upload, with the parameters that its update makes of the present ones.

    Args:
        upload: as it came.
        payload_spec: what it claims to be.
        broadcast: the broadcast that it answers, as it was read.
        present: what its sender would be told now.
        age: tau.
        rate: eta.
    """
    if age == 0 and rate == 1:
        return upload
    step, payload = rate * discount(age), dict(upload.payload)
    for key in upload.payload:
        spec, value = payload_spec[key], payload[key].double()
        if spec.trained == "parameters":
            value = present[key].double() + step * (value - broadcast[key].double())
        elif spec.trained == "update":
            value = step * value
        payload[key] = value.to(payload[key].dtype)
    return upload._replace(payload=payload)


def with_newest(uploads: Iterable[Received], newest: dict[int, Received]) -> Iterator[Received]:
    """The newest upload of each client heard so far, if there is a new one; keeps them."""
    fresh = {upload.client: upload for upload in uploads}
    newest |= fresh
    if fresh:
        yield from (newest[client] for client in sorted(newest))

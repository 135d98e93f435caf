"""The work as a Flower app: its simulation runtime, which is Ray, with one actor a core and one virtual node a silo.

Training and evaluation are two messages a round, as Flower's strategies have them. The server looks for replies every
10 ms instead of 100; messages wait for another thread of the runtime, which looks each 100 ms, and that cannot be set.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from work import rounds, tell, trains, work

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bare import Scores

client, server = ClientApp(), ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train a silo."""
    host, silo = work(), int(context.node_config["partition-id"])
    host.model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    host.train(silo, int(message.content["config"]["server-round"]))
    metrics = MetricRecord({"num-examples": host.weights[silo]})
    return Message(RecordDict({"arrays": ArrayRecord(host.model.state_dict()), "metrics": metrics}), reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model of the round on a silo."""
    host, silo = work(), int(context.node_config["partition-id"])
    host.model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    examples, right, loss_sum = host.evaluate(silo)
    metrics = MetricRecord({"num-examples": examples, "right": right, "loss-sum": loss_sum})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


class Timed(FedAvg):
    """Federated averaging that knows when each round's model was there."""

    def __init__(self) -> None:
        everyone = {f"min_{what}_nodes": len(work().weights) for what in ("train", "evaluate", "available")}
        super().__init__(fraction_train=1.0, fraction_evaluate=float(trains()), **everyone)
        self.ends: list[float] = []
        self.scores: list[Scores] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average."""
        averaged: tuple[ArrayRecord | None, MetricRecord | None] = super().aggregate_train(server_round, replies)
        self.ends.append(time.monotonic())
        return averaged

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep what each silo found."""
        every = list(replies)
        found = [reply.content["metrics"] for reply in every]
        self.scores = [(int(each["num-examples"]), int(each["right"]), float(each["loss-sum"])) for each in found]
        return super().aggregate_evaluate(server_round, every)


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Play the rounds."""
    del context
    grid.pull_interval = 0.01
    strategy = Timed()
    host = work()
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(host.model.state_dict()), num_rounds=rounds())
    if not trains():
        host.model.load_state_dict(result.arrays.to_torch_state_dict())
        strategy.scores = [host.evaluate(0)]
    tell(strategy.ends, strategy.scores)


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    cores = len(os.sched_getaffinity(0))
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=len(work().weights),
        backend_config={
            "init_args": {"num_cpus": cores, "include_dashboard": False, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )

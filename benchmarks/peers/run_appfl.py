"""The work as an APPFL job over MPI: rank 0 serves, each other rank plays several silos as one batched client.

Left out, because a round needs none of it: checkpoints, logging, the server's configuration for the clients, garbage
collections at each message (``optimize_memory``). The silos of a rank share a model, and their models go up in one message.
APPFL's server sleeps 100 ms before it looks for each message, which cannot be set: with an argument, so many seconds
instead, put into its module by hand.
"""

from __future__ import annotations

import logging
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

# torchvision, made for CUDA, finds its C++ operators only beside such a torch, and dies of these two when they are missing
for operator in ("nms", "qnms"):
    torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")

from appfl.agent import ClientAgent, ServerAgent  # noqa: E402  (as above)
from appfl.algorithm.trainer import BaseTrainer  # noqa: E402  (as above)
from appfl.comm.mpi import MPIClientCommunicator, MPIServerCommunicator, mpi_server_communicator  # noqa: E402  (as above)
from appfl.config import ServerAgentConfig  # noqa: E402  (as above)
from mpi4py import MPI  # noqa: E402  (as above)
from omegaconf import OmegaConf  # noqa: E402  (as above)

from silofold.core import topology  # noqa: E402  (as above)
from work import rounds, tell, work  # noqa: E402  (as above)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bare import Scores

State = dict[str, torch.Tensor]


class Trainer(BaseTrainer):
    """Evaluates and trains a silo on its rank's model."""

    def __init__(self, silo: int) -> None:
        super().__init__(model=work().model)
        self.silo, self.scores = silo, (0, 0, 0.0)

    def train(self) -> None:
        """Evaluate the model that came in, but for the first, and train it."""
        self.round += 1
        if self.round > 1:
            self.scores = work().evaluate(self.silo)
        if self.round <= rounds():
            work().train(self.silo, self.round)

    def get_parameters(self) -> State:
        """Return a copy: the next silo trains the same model."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}


class Client(ClientAgent):
    """A silo."""

    def _create_logger(self) -> None:
        self.logger = logging.getLogger("silo")

    def _load_trainer(self) -> None:
        self.trainer = Trainer(self.client_agent_config.train_configs.silo)


class Server(ServerAgent):
    """The server."""

    def _create_logger(self) -> None:
        self.logger = logging.getLogger("server")

    def _load_model(self) -> None:
        self.model = work().model


def serve(comm: MPI.Comm) -> None:
    """Serve until all clients have closed, then tell what they saw."""
    options: dict[str, Any] = {"optimize_memory": False}
    federation = {
        "num_clients": len(work().weights),
        "num_global_epochs": rounds(),
        "scheduler": "SyncScheduler",
        "scheduler_kwargs": options,
        "aggregator": "FedAvgAggregator",
        "aggregator_kwargs": options | {"client_weights_mode": "sample_size"},
    } | options
    agent = Server(ServerAgentConfig(client_configs=OmegaConf.create({}), server_configs=OmegaConf.create(federation)))
    MPIServerCommunicator(comm, agent, logger=agent.logger, **options).serve()
    found: list[tuple[list[float], list[Scores]]] = (comm.gather(None) or [])[1:]
    ends = [max(times) for times in zip(*(each for each, _ in found), strict=True)]
    tell(ends, [part for _, scores in found for part in scores])


def play(comm: MPI.Comm, mine: Sequence[int]) -> None:
    """Play some silos."""
    names = [f"silo{silo}" for silo in mine]
    settings = [{"client_id": f"silo{silo}", "train_configs": {"silo": silo}, "optimize_memory": False} for silo in mine]
    agents = [Client(OmegaConf.create(each)) for each in settings]
    server = MPIClientCommunicator(comm, server_rank=0, client_ids=names, optimize_memory=False)
    model: State = server.get_global_model(init_model=True)
    sizes = {name: {"sample_size": work().weights[silo]} for name, silo in zip(names, mine, strict=True)}
    server.invoke_custom_action("set_sample_size", kwargs=sizes)
    ends = []
    for _ in range(rounds()):
        moved = {}
        for name, agent in zip(names, agents, strict=True):
            agent.load_parameters(model)
            agent.train()
            moved[name] = agent.get_parameters()
        model, _ = server.update_global_model(moved, kwargs={name: {} for name in names})
        ends.append(time.monotonic())
    for agent in agents:
        agent.load_parameters(model)
        agent.train()
    server.invoke_custom_action("close_connection")
    comm.gather((ends, [agent.trainer.scores for agent in agents]))


def main() -> None:
    """Be a server or a client."""
    comm = MPI.COMM_WORLD
    if len(sys.argv) > 1:
        wait = float(sys.argv[1])
        mpi_server_communicator.time = SimpleNamespace(time=time.time, sleep=lambda _: time.sleep(wait))
    if comm.rank == 0:
        serve(comm)
    else:
        play(comm, topology.assign_silos(work().weights, comm.size - 1)[comm.rank - 1])


if __name__ == "__main__":
    main()

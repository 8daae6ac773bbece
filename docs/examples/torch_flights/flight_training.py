"""Trains a small network on the flights with PyTorch, on a GPU where there is one, and goes on after an interruption.

Each epoch begins with an order of its own and ends with a checkpoint, so that whoever goes on ends with the very
weights of a training that was never interrupted.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from flight_network import FlightNetwork
from torch import nn

from kaizen.checkpoints import Checkpoints

EPOCHS, BATCH, WIDTH = 6, 512, 8


def fit(examples: pd.DataFrame, target: str, seed: int, checkpoints: Checkpoints) -> FlightNetwork:
    """What the loop calls when it retrains."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, labels = examples.drop(columns=target), torch.tensor(examples[target].to_numpy(), dtype=torch.float32)
    model = FlightNetwork.describe(rows)
    data = [part.to(device) for part in (*map(torch.from_numpy, model.encode(rows)), labels)]
    network = make_network(model, seed).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    done = 0
    if found := checkpoints.latest():
        done = load(found.folder, network, optimizer, device)
    for epoch in range(done + 1, EPOCHS + 1):
        train_epoch(network, optimizer, data, seed=seed + epoch)
        checkpoints.save(epoch, lambda folder: save(folder, network, optimizer, epoch))  # noqa: B023 - called at once
    model.weights = {name: value.cpu().numpy() for name, value in network.state_dict().items()}
    return model


def make_network(model: FlightNetwork, seed: int) -> nn.ModuleDict:
    """An embedding for each category, and three layers over them and the numbers."""
    torch.manual_seed(seed)
    embeddings = nn.ModuleList(nn.Embedding(len(known) + 1, WIDTH) for known in model.known.values())
    width = WIDTH * len(embeddings) + len(model.center)
    layers = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    return nn.ModuleDict({"embeddings": embeddings, "layers": layers})


def forward(network: nn.ModuleDict, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """N logits of being late."""
    embedded = [embedding(codes[:, n]) for n, embedding in enumerate(network["embeddings"])]
    return network["layers"](torch.cat([*embedded, numbers], dim=1)).squeeze(1)


def train_epoch(
    network: nn.ModuleDict, optimizer: torch.optim.Optimizer, data: list[torch.Tensor], seed: int, batch: int = BATCH
) -> None:
    """Every row once, in an order that the seed decides wherever it runs."""
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(seed)).to(data[0].device)
    for chosen in order.split(batch):
        codes, numbers, labels = (part[chosen] for part in data)
        loss = nn.functional.binary_cross_entropy_with_logits(forward(network, codes, numbers), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def save(folder: Path, network: nn.ModuleDict, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """All that the next epoch needs: tensors and numbers, nothing that would have to be unpickled."""
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    torch.save(state, folder / "state.pt")


def load(folder: Path, network: nn.ModuleDict, optimizer: torch.optim.Optimizer, device: str) -> int:
    """Take up the state in a checkpoint; the epochs that it has behind it."""
    state = torch.load(folder / "state.pt", map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"])

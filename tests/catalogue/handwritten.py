"""Networks as people write them: by functions, in place, with shared and tied weights, with arguments that have defaults."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class FunctionalLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        x = functional.dropout(functional.relu(self.fc1(x)), 0.3, self.training)
        return self.fc3(functional.relu(self.fc2(x)))


class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(100, 16), nn.LSTM(16, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.hidden, self.head = nn.Linear(48, 32), nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        _, (last, _) = self.lstm(self.embedding(tokens))
        return self.head(torch.tanh(self.hidden(torch.cat([last[-2], last[-1]], dim=1))))


class TransformerClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(100, 16), nn.Embedding(32, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.encoder(self.embedding(tokens) + self.positions(places)).mean(dim=1))


class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.encode, self.decode = nn.Linear(12, 20), nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False)
        self.decode.weight = self.encode.weight
        self.body, self.head = nn.Linear(20, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.decode(torch.relu(self.encode(x))))
        return self.head(torch.relu(self.body(x)))


class InPlaceResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second, self.third = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.stem(x))
        for layer in (self.first, self.second, self.third):
            y = layer(x)
            y += x
            x = functional.relu_(y)
        return self.head(self.norm(x).mean((2, 3)))


class DefaultArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(10, 10) for _ in range(4))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 0.5, *, residual: bool = True) -> Tensor:
        for layer in self.layers:
            y = functional.gelu(layer(x)) * scale
            x = x + y if residual else y
        return self.head(x if mask is None else x * mask)


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.body, self.head = nn.Linear(9, 8), nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.shared(torch.relu(self.shared(x))))
        return self.head(torch.relu(self.body(x)))


class Convolution1d(nn.Module):
    """A network for signals, with reshaping by sizes and a squeeze."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(2, 8, 5, stride=2), nn.Conv1d(8, 16, 3)
        self.gru, self.head = nn.GRU(16, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _ = x.shape
        x = functional.leaky_relu(self.conv2(functional.leaky_relu(self.conv1(x), 0.1)), 0.1)
        out, _ = self.gru(x.transpose(1, 2))
        return self.head(out[:, -1].reshape(batch, -1))


class BranchOnValues(nn.Module):
    """What cannot be followed: another layer for another sign."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.sum() > 0 else self.second(x)


IMAGE, TOKENS = torch.zeros(1, 1, 28, 28), torch.zeros(1, 12, dtype=torch.int64)
HANDWRITTEN = {
    "functional LeNet": (FunctionalLeNet, IMAGE),
    "LSTM classifier": (LSTMClassifier, TOKENS),
    "transformer classifier": (TransformerClassifier, TOKENS),
    "tied weights": (TiedWeights, torch.zeros(1, 12)),
    "in-place residuals": (InPlaceResidual, torch.zeros(1, 3, 16, 16)),
    "arguments with defaults": (DefaultArguments, torch.zeros(1, 10)),
    "layer called twice": (CalledTwice, torch.zeros(1, 9)),
    "convolution and GRU on signals": (Convolution1d, torch.zeros(1, 2, 40)),
    "branch on values": (BranchOnValues, torch.zeros(1, 4)),
}

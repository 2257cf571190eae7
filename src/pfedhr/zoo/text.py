"""Networks for text: a recurrent one, a transformer, and a bag of embeddings.

They take the numbers of words (batch, tokens) int64, each below VOCABULARY; 0 fills a sentence up at its beginning, so that the
last token is a word.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pfedhr.zoo.shape import Shape, need_tokens

VOCABULARY = 256
"""How many words the networks know, with 0 for none."""


class RecurrentText(nn.Module):
    """Embeddings of 32, an LSTM of 64, two linear layers on its state after the last word."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        need_tokens("a recurrent network", shape)
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.recurrent = nn.LSTM(32, 64, batch_first=True)
        self.hidden = nn.Linear(64, 48)
        self.head = nn.Linear(48, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, tokens) int64 to logits (batch, classes)."""
        states, _ = self.recurrent(self.embedding(tokens))
        return self.head(torch.relu(self.hidden(states[:, -1])))


class TransformerText(nn.Module):
    """Embeddings of 48 with learnt positions, two encoder layers, their mean over the words, a linear layer."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        need_tokens("a transformer", shape)
        width = 48
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(1, shape[0], width) * 0.1)
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, batch_first=True) for _ in range(2)))
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, tokens) int64 to logits (batch, classes)."""
        return self.head(self.layers(self.embedding(tokens) + self.positions).mean(1))


class BagOfEmbeddings(nn.Module):
    """The mean of embeddings of 64, then two linear layers: it does not see the order of words."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        need_tokens("a bag of embeddings", shape)
        self.embedding = nn.Embedding(VOCABULARY, 64)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, tokens) int64 to logits (batch, classes)."""
        return self.head(torch.relu(self.hidden(self.embedding(tokens).mean(1))))

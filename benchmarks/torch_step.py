"""The training step of configs/sasrec_skip.py in plain PyTorch, to compare with.

Eager PyTorch as one writes it, without torch.compile; where there are several usual ways, the one
that was fastest here: one lookup for all rows (of two, each would make a gradient as large as the
table), F.scaled_dot_product_attention, F.cross_entropy over [target, negatives]. Nothing is packed:
padded positions are computed and ignored. It does what that config asks for and nothing else, and
tests/benchmarks_test.py holds its losses against skipjax's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skipjax.ids import FIRST_TRACK_ID, HELD_OUT

OPTIMIZERS = ("adam", "fused", "sparse")
_IGNORED = -100  # what F.cross_entropy takes for "does not count"


class Block(nn.Module):
    """Causal self-attention and a feed-forward part, each followed by a normalisation."""

    def __init__(self, width: int, num_heads: int, feedforward_width: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward_width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward_width, width),
        )
        self.norm_feedforward = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, length, width = x.shape
        qkv = self.qkv(x).view(size, length, 3, self.num_heads, width // self.num_heads)
        attended = F.scaled_dot_product_attention(
            *qkv.permute(2, 0, 3, 1, 4),
            # Padding is on the right, so no position that counts sees any.
            is_causal=True,
            dropout_p=self.dropout if self.training else 0.0,
        )
        attended = self.out(attended.transpose(1, 2).reshape(size, length, width))
        x = self.norm_attention(x + F.dropout(attended, self.dropout, self.training))
        fed = F.dropout(self.feedforward(x), self.dropout, self.training)
        return self.norm_feedforward(x + fed)


class Encoder(nn.Module):
    """Embedded tracks [B, L, D], padded on the right, to hidden states [B, L, D]."""

    def __init__(self, model: Any, num_positions: int):
        super().__init__()
        self.dropout = model.dropout
        self.positions = nn.Embedding(num_positions, model.width)
        sizes = (model.width, model.num_heads, model.feedforward_width, model.dropout)
        self.blocks = nn.Sequential(*(Block(*sizes) for _ in range(model.num_layers)))
        self.head = nn.Linear(model.width, model.width)

    def forward(self, embedded: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        places = torch.arange(embedded.shape[1], device=embedded.device)
        places = valid.sum(1, keepdim=True) - 1 - places  # from the end
        places = places.clamp(0, self.positions.num_embeddings - 1)
        x = F.dropout(embedded + self.positions(places), self.dropout, self.training)
        return F.gelu(self.head(self.blocks(x)))


class Model(nn.Module):
    """The table and the encoder, and the paper's two losses."""

    def __init__(self, config: Any, num_ids: int, *, sparse: bool = False):
        super().__init__()
        self.loss, self.sampling = config.loss, config.sampling
        self.table = nn.Embedding(num_ids, config.model.width, sparse=sparse)
        held_out = HELD_OUT[config.data.split]
        self.encoder = Encoder(config.model, config.data.max_length - held_out - 1)
        bound = config.model.init_bound
        for name, parameter in self.named_parameters():
            if "norm" not in name:
                # A normal of σ = 1 cut at ±0.02 is nearly that, and needs no second table.
                nn.init.uniform_(parameter, -bound, bound)

    def draw(self, size: int) -> torch.Tensor:
        """Negatives for `size` sessions: [B, K], or [1, K] for all of them."""
        rows = size if self.sampling.scope == "session" else 1
        shape = (rows, self.sampling.num_negatives)
        device = self.table.weight.device
        return torch.randint(FIRST_TRACK_ID, self.table.num_embeddings, shape, device=device)

    def forward(
        self, batch: Mapping[str, torch.Tensor], negatives: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`loss`, `nll` and `infonce` of a batch: `tracks`, `skipped` and `valid` [B, L]."""
        tracks = batch["tracks"]
        rows = self.table(torch.cat([tracks.flatten(), negatives.flatten()]))
        embedded, drawn = rows.split([tracks.numel(), negatives.numel()])
        embedded = embedded.view(*tracks.shape, -1)
        nll = self._nll(batch, embedded, negatives, drawn.view(*negatives.shape, -1))
        infonce = self._infonce(batch, embedded)
        loss = self.loss.alpha * infonce + self.loss.beta * nll
        return {"loss": loss, "nll": nll, "infonce": infonce}

    def _nll(self, batch, embedded, negatives, drawn):
        hidden = self.encoder(embedded[:, :-1], batch["valid"][:, 1:])
        target = (hidden * embedded[:, 1:]).sum(-1, keepdim=True)
        if len(negatives) == 1:
            scores = hidden @ drawn[0].T
        else:
            scores = torch.bmm(hidden, drawn.transpose(1, 2))
        heard = (negatives[:, :, None] == batch["tracks"][:, None, :]).any(-1)
        scores = scores.masked_fill(heard[:, None, :], -torch.inf)
        return _first_column_nll(target, scores, batch["valid"][:, 1:])

    def _infonce(self, batch, embedded):
        tracks, skipped, valid = batch["tracks"], batch["skipped"], batch["valid"]
        length = tracks.shape[1]
        # The first played track after each position.
        played = torch.arange(length, device=tracks.device).where(valid & ~skipped, length)
        positive = played.flip(1).cummin(1).values.flip(1)[:, 1:]
        counted = valid[:, 1:] & (positive < length)
        positive = positive.clamp(max=length - 1)
        # Context, positive and negatives all are tracks of the session: one product has them all.
        unit = F.normalize(embedded, dim=-1)
        scores = unit[:, :-1] @ unit.transpose(1, 2) / self.loss.temperature
        ids = tracks[:, None, :]
        pushed = skipped[:, None, :] & (ids != tracks[:, :-1, None])
        pushed &= ids != tracks.gather(1, positive)[..., None]
        target = scores.gather(2, positive[..., None])
        scores = scores.masked_fill(~pushed, -torch.inf)
        return _first_column_nll(target, scores, counted & pushed.any(-1))


def make_step(
    config: Any, num_ids: int, optimizer: str, device: str
) -> Callable[[Mapping[str, np.ndarray]], dict[str, torch.Tensor]]:
    """A fresh model's training step, from NumPy batches to losses that nobody has waited for.

    `optimizer` is "adam", "fused" (the same with fused=True) or "sparse" (SparseAdam for the table,
    Adam for the encoder).
    """
    torch.manual_seed(config.seed)
    with torch.device(device):
        model = Model(config, num_ids, sparse=optimizer == "sparse")
    optimizers = make_optimizers(config.optimizer, model, optimizer)

    def step(batch):
        batch = {
            name: torch.from_numpy(batch[name]).to(device, non_blocking=True)
            for name in ("tracks", "skipped", "valid")
        }
        values = model(batch, model.draw(len(batch["tracks"])))
        update(optimizers, values["loss"])
        return values

    return step


def make_optimizers(config: Any, model: Model, kind: str) -> list[torch.optim.Optimizer]:
    """Those of `model`, for a `kind` of OPTIMIZERS."""
    adam = {"lr": config.learning_rate, "betas": (config.b1, config.b2)}
    encoder = {"params": list(model.encoder.parameters()), "eps": config.epsilon}
    table = {"params": [model.table.weight], "eps": config.table_epsilon}
    if kind == "sparse":
        return [torch.optim.SparseAdam([table], **adam), torch.optim.Adam([encoder], **adam)]
    # None lets PyTorch choose, as it does for whoever says nothing.
    return [torch.optim.Adam([encoder, table], **adam, fused=True if kind == "fused" else None)]


def update(optimizers: list[torch.optim.Optimizer], loss: torch.Tensor) -> None:
    """One step of all of them."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


def _first_column_nll(target, scores, counted):
    """Mean over [B, P] `counted` of the NLL of `target` [B, P, 1] against `scores` [B, P, K]."""
    logits = torch.cat([target, scores], dim=-1).flatten(0, 1)
    labels = torch.where(counted, 0, _IGNORED).flatten()
    return F.cross_entropy(logits, labels, ignore_index=_IGNORED)

"""CLIP's network for texts (Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", ICML 2021).

In: numbers of tokens, int64 (N, 77); out: float32 (N, D), unit rows, to be compared with those of
its network for pictures. A transformer that reads from left to right; its answer is where a text
ends. Parameters bear the published names.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from embedsearch.network.resnet import TEXT_PREFIX
from embedsearch.network.text.clip_tokenizer import LENGTH

WIDTH, HEADS, LAYERS, VOCABULARY = 512, 8, 12, 49408


class Block(nn.Module):
    """x + attention(x), then x + mlp(x), each of the normalized x: (N, L, W) → the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        x = x + self._attention(self.ln_1(x))
        inner = self.mlp["c_fc"](self.ln_2(x))
        y: Tensor = x + self.mlp["c_proj"](inner * torch.sigmoid(1.702 * inner))  # QuickGELU
        return y

    def _attention(self, x: Tensor) -> Tensor:
        """Return what each token takes from itself and those before it."""
        attn = self.attn
        joint = nn.functional.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = (
            part.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for part in joint.chunk(3, dim=2)
        )
        taken = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        y: Tensor = attn.out_proj(taken.transpose(1, 2).flatten(2))
        return y


class TextTower(nn.Module):
    """Tokens to unit vectors."""

    def __init__(
        self, dim: int, width: int = WIDTH, heads: int = HEADS, layers: int = LAYERS
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, width)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, width) * 0.01)
        blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, dim) * width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return float32 (N, D), unit rows, of tokens, int64 (N, 77)."""
        x = self.token_embedding(tokens) + self.positional_embedding
        for block in self.transformer["resblocks"]:  # type: ignore[attr-defined]
            x = block(x)
        # The end of a text has the largest number.
        ends = nn.functional.one_hot(tokens.argmax(dim=1), tokens.shape[1]).to(x.dtype)
        last = (self.ln_final(x) * ends.unsqueeze(2)).sum(dim=1)
        return nn.functional.normalize(last @ self.text_projection, dim=1)


def load_text_tower(weights: Mapping[str, Tensor], dim: int) -> TextTower:
    """Return the network with the weights under TEXT_PREFIX, strictly. Raises ValueError."""
    own = {
        key.removeprefix(TEXT_PREFIX): value.float()
        for key, value in weights.items()
        if key.startswith(TEXT_PREFIX)
    }
    tower = TextTower(dim)
    try:
        tower.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"no weights of CLIP's network for texts: {error}") from error
    return tower.eval()

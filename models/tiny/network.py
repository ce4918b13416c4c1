"""The Llama architecture in torch, in the layout that GGUF files of it have."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.llama_gguf import NORM_EPSILON, ROPE_BASE, Shape


def rotations(shape: Shape) -> tuple[Tensor, Tensor]:
    """Give cosines and sines, each float32[context, head width / 2], of rotary positions."""
    pairs = torch.arange(0, shape.head_width, 2, dtype=torch.float32)
    frequencies = ROPE_BASE ** (-pairs / shape.head_width)
    angles = torch.outer(torch.arange(shape.context, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn neighbouring pairs of x[batch, heads, time, head width] by their position."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = (even * cosines - odd * sines, even * sines + odd * cosines)
    return torch.stack(turned, -1).flatten(-2)


class Norm(nn.Module):
    """RMS norm over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x[..., width] to unit mean square."""
        return functional.rms_norm(x, self.weight.shape, self.weight, NORM_EPSILON)


class Block(nn.Module):
    """One layer: grouped-query attention, then SwiGLU. Members are named as in GGUF."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_width
        self.attn_norm = Norm(shape.width)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_v = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = Norm(shape.width)
        self.ffn_gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, shape.width, bias=False)

    def _heads(self, x: Tensor, count: int) -> Tensor:
        return x.view(*x.shape[:2], count, self.shape.head_width).transpose(1, 2)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Map x[batch, time, width] to the same shape."""
        seen = self.attn_norm(x)
        q = rotate(self._heads(self.attn_q(seen), self.shape.heads), cosines, sines)
        k = rotate(self._heads(self.attn_k(seen), self.shape.kv_heads), cosines, sines)
        v = self._heads(self.attn_v(seen), self.shape.kv_heads)
        group = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(2))
        seen = self.ffn_norm(x)
        gated = functional.silu(self.ffn_gate(seen)) * self.ffn_up(seen)
        return x + torch.as_tensor(self.ffn_down(gated))


class Llama(nn.Module):
    """The whole network; the output matrix is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = Norm(shape.width)
        self.cosines, self.sines = rotations(shape)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.5 * shape.width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids, int64[batch, time], to the last hidden state, [batch, time, width]."""
        x = self.token_embd(ids)
        cosines, sines = self.cosines[: ids.shape[1]], self.sines[: ids.shape[1]]
        for block in self.blk:
            x = block(x, cosines, sines)
        return torch.as_tensor(self.output_norm(x))

    def scores(self, hidden: Tensor) -> Tensor:
        """Map hidden[..., width] to the scores of all tokens, [..., vocabulary]."""
        return functional.linear(hidden, self.token_embd.weight)

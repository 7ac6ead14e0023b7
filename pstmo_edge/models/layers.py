"""The layers that P-STMO's networks share, with the published numerics and the published parameter names.

Source: Shan et al., "P-STMO: Pre-trained Spatial Temporal Many-to-One Model for 3D Human Pose Estimation",
ECCV 2022. Tokens are (B, T, C) everywhere; B windows, T tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """`a * (x - mean) / (std + eps) + b` with the unbiased deviation and the epsilon outside the root."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(channels))
        self.b_2 = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        deviation, mean = torch.std_mean(x, dim=-1, keepdim=True)
        return self.a_2 * (x - mean) / (deviation + self.eps) + self.b_2


class Dropout(nn.Dropout):
    """Dropout whose chance is cheap on a CPU, where torch's own takes a quarter of a training step.

    Four elements share one 64-bit number of torch's generator, so there the rate is rounded to a 65536th.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(...) to (...)."""
        return dropped(x, self.p) if self.training and self.p else x


def dropped(x: Tensor, rate: float) -> Tensor:
    """`x` with a share `rate` of its elements zero and the others scaled up: see `Dropout`."""
    if not _draws_cheaply(x):
        return F.dropout(x, rate)
    limit = round(rate * 65536)
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    parts = numbers.view(torch.int16)[: x.numel()].view(x.shape)
    return x * torch.where(parts >= limit - 32768, 65536 / (65536 - limit), 0.0)


def _draws_cheaply(x: Tensor) -> bool:
    # A compiler makes random numbers on the fly, inside the loop that uses them.
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm over the rows of a matrix, with exact statistics on a CPU.

    There torch adds the rows one by one where channels come last. What that loses reaches the weights before the norm
    as an error of some per cent of their largest gradient.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) to (N, C)."""
        if not self.training or not self.wants_own_sums(x):
            return super().forward(x)
        mean, variance, count = self.statistics(x)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        return torch.addcmul(self.bias, x - mean, self.weight * torch.rsqrt(variance + self.eps))

    def wants_own_sums(self, x: Tensor) -> bool:
        """Whether `statistics` is used rather than torch's kernel."""
        return x.device.type == "cpu" and not torch.compiler.is_compiling()

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        """Mean (C,), biased variance (C,) and the number of rows."""
        variance, mean = torch.var_mean(x, 0, correction=0)
        return mean, variance, float(len(x))


class SelfAttention(nn.Module):
    """Multi-head self-attention; `linears` are the query, key, value and output projections."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.linears = nn.ModuleList(nn.Linear(channels, channels) for _ in range(4))
        self.dropout = dropout

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), or with `rows` to these tokens alone, which see all others."""
        inputs = (x if rows is None else x[:, rows], x, x)
        query, key, value = (
            linear(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, tokens in zip(self.linears, inputs, strict=False)
        )
        rate = self.dropout if self.training else 0.0
        if rate and _draws_cheaply(x):
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            mixed = dropped(scores.softmax(-1), rate) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=rate)  # [B, H, T, C / H]
        out: Tensor = self.linears[3](mixed.transpose(1, 2).flatten(-2))
        return out


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them (the published code calls it gelu)."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.w_1 = nn.Linear(channels, hidden)
        self.w_2 = nn.Linear(hidden, channels)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        out: Tensor = self.w_2(self.dropout(F.relu(self.w_1(x))))
        return out


class StridedFeedForward(nn.Module):
    """A pointwise layer, a ReLU, and a convolution over 3 tokens that keeps every `stride`-th (section 3.3)."""

    def __init__(self, channels: int, hidden: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.w_1 = nn.Conv1d(channels, hidden, kernel_size=1)
        self.w_2 = nn.Conv1d(hidden, channels, kernel_size=3, stride=stride, padding=1)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, ceil(T / stride), C)."""
        wide = self.dropout(F.relu(F.linear(x, self.w_1.weight.squeeze(-1), self.w_1.bias)))
        out: Tensor = self.w_2(wide.transpose(1, 2)).transpose(1, 2)
        return out


class Sublayer(nn.Module):
    """What stands around attention and feed-forward: the norm before, the dropout after."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = LayerNorm(channels)
        self.dropout = Dropout(dropout)


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer; with a stride, its feed-forward and its residual keep every stride-th token."""

    def __init__(self, channels: int, hidden: int, heads: int, dropout: float, stride: int | None = None) -> None:
        super().__init__()
        self.self_attn = SelfAttention(channels, heads, dropout)
        self.feed_forward: FeedForward | StridedFeedForward = (
            FeedForward(channels, hidden, dropout)
            if stride is None
            else StridedFeedForward(channels, hidden, stride, dropout)
        )
        self.sublayer = nn.ModuleList(Sublayer(channels, dropout) for _ in range(2))
        self.stride = stride or 1

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """(B, T, C) to (B, ceil(T / stride), C); with `rows` only these tokens go through the layer, and see all."""
        attend, feed = self.sublayer
        x = (x if rows is None else x[:, rows]) + attend.dropout(self.self_attn(attend.norm(x), rows))
        out: Tensor = x[:, :: self.stride] + feed.dropout(self.feed_forward(feed.norm(x)))
        return out


class EncoderStack(nn.Module):
    """Layers in a row. The closing `norm` is in the published weights and is never applied."""

    def __init__(self, layers: list[EncoderLayer], channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        # Without a gradient it must not be waited for where gradients are averaged over processes.
        self.norm = LayerNorm(channels).requires_grad_(False)

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), or with `rows` to these tokens alone: the last layer computes no others."""
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, rows if number == len(self.layers) else None)
        return x


def pointwise(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution over one token, as the matrix product it is: (..., C_in) to (..., C_out)."""
    return F.linear(x, layer.weight.squeeze(-1), layer.bias)


def by_row(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer that takes (N, C), on tokens (B, T, C)."""
    out: Tensor = layer(x.flatten(0, 1))
    return out.unflatten(0, x.shape[:2])


def over_time(weight: Tensor, bias: Tensor | None, x: Tensor, reach: int, strided: bool) -> Tensor:
    """A convolution of tokens (B, T, C_in) without padding, with a `weight` (C_out, C_in, taps).

    Its taps lie `reach` tokens apart and it answers for every token that has them all; or, `strided`, they lie side by
    side and no token is used twice. Either way it is one matrix product.
    """
    taps = weight.shape[-1]
    if strided:
        rows = x.unflatten(1, (-1, taps)).flatten(2)
    else:  # side by side too: one product is faster than a dilated convolution
        length = x.shape[1] - (taps - 1) * reach
        rows = torch.cat([x[:, tap * reach : tap * reach + length] for tap in range(taps)], dim=-1)
    return F.linear(rows, weight.transpose(1, 2).flatten(1), bias)


class ResidualBlock(nn.Module):
    """Two pointwise layers with BatchNorm, LeakyReLU(0.2) and dropout, added to their input."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.w1 = nn.Conv1d(channels, channels, kernel_size=1)
        self.batch_norm1 = BatchNorm(channels)
        self.w2 = nn.Conv1d(channels, channels, kernel_size=1)
        self.batch_norm2 = BatchNorm(channels)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) to (N, C)."""
        y = self.dropout(F.leaky_relu(self.batch_norm1(pointwise(self.w1, x)), 0.2))
        y = self.dropout(F.leaky_relu(self.batch_norm2(pointwise(self.w2, y)), 0.2))
        return x + y


class SpatialEncoder(nn.Module):
    """The per-frame MLP over all joints of one frame (section 3.1, "spatial encoding module")."""

    def __init__(self, inputs: int, hidden: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.fc_1 = nn.Conv1d(inputs, hidden, kernel_size=1)
        self.bn_1 = BatchNorm(hidden)
        self.layers = nn.ModuleList([ResidualBlock(hidden, 2.5 * dropout)])
        self.fc_2 = nn.Conv1d(hidden, channels, kernel_size=1)
        self.dropout = Dropout(dropout)

    def forward(self, keypoints: Tensor) -> Tensor:
        """(B, T, J, 2) to (B, T, C)."""
        batch, frames = keypoints.shape[:2]
        x = keypoints.reshape(batch * frames, -1)  # [B T, 2 J]
        x = self.dropout(F.leaky_relu(self.bn_1(pointwise(self.fc_1, x)), 0.2))
        for layer in self.layers:
            x = layer(x)
        return pointwise(self.fc_2, x).unflatten(0, (batch, frames))


class Head(nn.Sequential):
    """BatchNorm and one pointwise layer: tokens (B, T, C) to joints (B, T, J, D)."""

    def __init__(self, channels: int, joints: int, dimensions: int) -> None:
        super().__init__(BatchNorm(channels), nn.Conv1d(channels, joints * dimensions, kernel_size=1))
        self.shape = (joints, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, J, D)."""
        norm, linear = self
        out = pointwise(linear, norm(x.flatten(0, 1)))
        return out.unflatten(-1, self.shape).unflatten(0, x.shape[:2])

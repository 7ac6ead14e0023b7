"""Many processes as one: torchrun's environment, shared batch statistics, and sums over all processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from pstmo_edge.models.layers import BatchNorm

_PATIENCE = timedelta(hours=2)  # the others wait this long while the first process validates


@dataclass(frozen=True)
class World:
    """This process among all of a run; alone, it is the first of one."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[World]:
    """The world that torchrun describes in the environment (gloo on CPUs, nccl on GPUs), or a world of one."""
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield World(rank, size, device)
    finally:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; the gradient of each share is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """(...) to (...)."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """(...) to (...)."""
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(BatchNorm):
    """BatchNorm over the batches of all processes, on any device (torch's own SyncBatchNorm knows GPUs only).

    Gradients flow through the shared statistics, so that n processes compute what one would on the whole batch.
    """

    def wants_own_sums(self, x: Tensor) -> bool:
        """Always."""
        return True

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        """Those of all processes."""
        count = torch.full((1,), float(len(x)), dtype=x.dtype, device=x.device)
        sums = _Sum.apply(torch.cat([x.sum(0), count]))
        total = float(sums[-1].detach())
        mean = sums[:-1] / total
        return mean, _Sum.apply(((x - mean) ** 2).sum(0)) / total, total


def share_batch_norm(module: nn.Module) -> None:
    """Make every BatchNorm of a model one over all processes."""
    for inner in module.modules():
        if type(inner) is BatchNorm:
            inner.__class__ = SharedBatchNorm

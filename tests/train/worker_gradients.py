"""Run by torchrun in test_distributed: one step of a tiny run; the first process saves the gradients."""

import sys
from pathlib import Path

import numpy as np
import torch
from test_loop import TINY, tiny_trainer

from pstmo_edge.train.distributed import joined

out, frozen = Path(sys.argv[1]), sys.argv[2] == "frozen"
torch.set_num_threads(1)
with joined() as world:
    run = tiny_trainer(out.parent, TINY, world)
    if frozen:
        run.objective.eval()
    run.step(0, 0)
    if world.first:
        names = dict(run.objective.named_parameters())
        np.savez(out, **{name: p.grad.numpy() for name, p in names.items() if p.grad is not None})

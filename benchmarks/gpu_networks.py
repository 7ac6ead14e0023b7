"""The networks that a GPU is measured with: ours in each precision, and the plain ones beside them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.benchmarks.gpu_checks import TOKENS
from pstmo_edge.benchmarks.gpu_timing import Machine
from pstmo_edge.calib.calibrate import calibrate
from pstmo_edge.calib.emulation import EmulatedModel
from pstmo_edge.calib.settings import Settings
from pstmo_edge.kernels.triton import fp8, ops
from pstmo_edge.kernels.triton.engine import GpuEngine
from pstmo_edge.kernels.triton.lifter import ENDS, KernelLifter, lifter_of
from pstmo_edge.models import fused as fused_models
from pstmo_edge.models.fused import fuse


@dataclass
class Network:
    """A fused model on a CPU, and windows to calibrate its quantized forms on; each form is made once."""

    name: str
    fused: Any
    windows: Any

    def __post_init__(self) -> None:
        self._emulated: dict[str, Any] = {}

    @property
    def config(self) -> Any:
        """The model's measures."""
        return self.fused.config

    @property
    def frames(self) -> int:
        """Of a window."""
        return int(self.config.frames)

    @property
    def layers(self) -> int:
        """Of the temporal encoder."""
        return int(self.config.layers)

    def emulated(self, precision: str) -> Any:
        """The model whose numbers this precision stands for: quantized layers emulated, or the fused one."""
        if precision not in ("int8", "fp8"):
            return self.fused
        if precision not in self._emulated:
            self._emulated[precision] = self._quantized(precision)
        return self._emulated[precision]

    def _quantized(self, precision: str) -> EmulatedModel:
        if precision == "int8":
            return calibrate(self.fused, self.windows, Settings(keep_float=ENDS))
        return fp8.leaving(fp8.all_in_fp8(self.fused, self.windows))

    def on_cpu(self, precision: str) -> Callable[[Tensor], Tensor]:
        """The emulation, which computes on a CPU, for keypoints anywhere."""
        emulated = self.emulated(precision)
        return lambda keypoints: emulated(keypoints.cpu()).to(keypoints.device)

    def lifter(self, precision: str) -> KernelLifter:
        """The network made of the kernels."""
        return lifter_of(self.emulated(precision), TOKENS[precision])


class Ours:
    """A lifter under CUDA graphs; in a dry run the same kernels one by one through the interpreter."""

    def __init__(self, lifter: KernelLifter, frames: int, machine: Machine) -> None:
        self.engine = GpuEngine(lifter, frames) if machine.is_gpu else None
        self.lifter = lifter

    def poses(self, keypoints: Tensor) -> Tensor:
        """Keypoints on the device to poses there, into memory that held NaN before."""
        if self.engine is None:
            with ops.interpreted(), torch.no_grad():
                return self.lifter(keypoints)
        captured = self.engine.captured(len(keypoints))
        captured.keypoints.copy_(keypoints)
        captured.poses.fill_(float("nan"))
        captured.graph.replay()
        return captured.poses

    def replay(self, keypoints: Tensor) -> Callable[[], object]:
        """What is timed on the device: one forward, without copies."""
        if self.engine is None:
            return lambda: self.poses(keypoints)
        captured = self.engine.captured(len(keypoints))
        captured.keypoints.copy_(keypoints)
        return captured.graph.replay

    def with_copies(self, keypoints: Any) -> Callable[[], object]:
        """What a camera waits for: an array in, an array out."""
        if self.engine is None:
            return lambda: self.poses(torch.from_numpy(keypoints)).numpy()
        engine = self.engine
        return lambda: engine.run(keypoints)

    def release(self) -> None:
        """Give the graphs' memory back."""
        if self.engine is not None:
            self.engine = None
            torch.cuda.empty_cache()


class Plain(nn.Module):
    """A copy of the fused model in plain torch, in one float type; it takes float32 keypoints."""

    def __init__(self, fused: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.model = copy.deepcopy(fused).to(device, dtype)
        self.dtype = dtype

    def forward(self, keypoints: Tensor) -> Tensor:
        """(B, T, 17, 2) to (B, 17, 3)."""
        out: Tensor = self.model(keypoints.to(self.dtype))
        return out


@contextlib.contextmanager
def flash_attention() -> Iterator[None]:
    """While the body runs, fused models attend through torch's own fused operator: the fastest plain torch."""

    def attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2).flatten(-2)

    before = fused_models._attended
    fused_models._attended = attended
    try:
        yield
    finally:
        fused_models._attended = before


def random_network(frames: int, small: bool) -> Network:
    """P-STMO-S with random weights, which make arithmetic as slow as trained ones; `small` for a dry run."""
    from pstmo_edge.models.p_stmo import PSTMO, PSTMOConfig

    torch.manual_seed(0)
    config = PSTMOConfig(frames=frames, layers=1, channels=64, hidden=128, heads=2) if small else PSTMOConfig(frames)
    windows = torch.randn(8, frames, 17, 2, generator=torch.Generator().manual_seed(2)) * 0.3
    name = f"p-stmo-s-{frames}, random weights"
    return Network(name, fuse(PSTMO(config).eval()), windows.numpy())


def trained_network() -> tuple[Network, Any]:
    """The weights in the box, calibrated on the training split, and its held-out windows to measure millimetres on."""
    import numpy as np

    from pstmo_edge.calib.windows import calibration_windows
    from pstmo_edge.datasets import load_sequences
    from pstmo_edge.models.zoo import load_model
    from pstmo_edge.windows import WindowSource

    model = load_model()
    spec = model.lifter.window
    network = Network(
        "p-stmo-s-27, the weights in the box",
        fuse(model),
        calibration_windows(load_sequences(split="train"), spec),
    )
    held_out = load_sequences(split="test")
    source = WindowSource([sequence.inputs(spec.channels) for sequence in held_out], spec)
    targets = np.linspace(0, sum(map(len, held_out)) - 1, 2048).astype(int)
    truth = np.concatenate([sequence.true_poses() for sequence in held_out])[targets]
    return network, (source.gather(targets), truth)

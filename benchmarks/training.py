"""How fast training is: windows a second from the loader, and a whole step, beside the published code's ways.

Run as `python -m pstmo_edge.benchmarks.training` from the root of the source tree; the rows go to
benchmarks/results/training.json, or with a GPU to training-cuda.json. Outputs and gradients are compared before
anything is timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks.provenance import Settings, collect
from pstmo_edge.datasets import load_sequences
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import BackendError
from pstmo_edge.files import write_atomic
from pstmo_edge.models.layers import EncoderLayer, Head, LayerNorm, StridedFeedForward
from pstmo_edge.models.p_stmo import PSTMO
from pstmo_edge.models.zoo import create_model
from pstmo_edge.skeletons import get_skeleton, mirrored
from pstmo_edge.train.batches import Loader, SequenceWindows
from pstmo_edge.train.distributed import World
from pstmo_edge.train.loop import Trainer
from pstmo_edge.train.objectives import Finetune, joint_distance
from pstmo_edge.train.recipes import Recipe, Schedule
from pstmo_edge.windows import WindowSpec

RESULTS = Path("benchmarks/results")
LIMIT = 1e-4  # of outputs in metres, and of gradients relative to the largest
_PUBLISHED_WORKERS = 8  # loader processes of the published code, where a GPU leaves the cores free


class PlainWindows(Dataset[tuple[Tensor, Tensor]]):
    """One window at a time, cut, padded, copied and mirrored in Python: the published loader's way."""

    def __init__(self, sequences: Sequence[PoseSequence], spec: WindowSpec) -> None:
        self.spec = spec
        self.sequences = [(np.asarray(s.keypoints), np.asarray(s.true_poses())) for s in sequences]
        self.items = [
            (number, frame, flip)
            for number, sequence in enumerate(sequences)
            for frame in range(len(sequence))
            for flip in (False, True)
        ]
        self.skeleton = get_skeleton(sequences[0].skeleton)

    def __len__(self) -> int:
        """Every frame, plain and mirrored."""
        return len(self.items)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        """Keypoints (T, 17, 2) and poses (T, 17, 3)."""
        number, frame, flip = self.items[item]
        window = []
        for values in self.sequences[number]:
            part = self._cut(values, frame).astype(np.float32)
            window.append(torch.from_numpy(mirrored(part, self.skeleton) if flip else part))
        return window[0], window[1]

    def _cut(self, values: FloatArray, frame: int) -> FloatArray:
        first, last = frame + self.spec.offsets[0], frame + self.spec.offsets[-1]
        before, after = max(0, -first), max(0, last - len(values) + 1)
        part = values[max(0, first) : last + 1].copy()
        return np.pad(part, ((before, after), (0, 0), (0, 0)), "edge")[:: self.spec.t_downsample]


class PlainStep(nn.Module):
    """The loss of Stage II computed plainly: one operation after another, as the published code has them.

    It shares the parameters of `model`.
    """

    def __init__(self, model: PSTMO) -> None:
        super().__init__()
        self.model = model

    def forward(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """(B, T, 17, 2) and (B, T, 17, 3) to the loss."""
        one, every = self.poses(keypoints)
        return joint_distance(every, poses) + joint_distance(one, poses[:, poses.shape[1] // 2])

    def poses(self, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 17, 2) to the centre poses and all poses."""
        model = self.model
        x = self._spatial(keypoints) + model.Transformer.pos_embedding
        for layer in model.Transformer.model.layers:
            x = self._layer(layer, x)
        every = self._head(model.fcn_1, x)
        stack = model.Transformer_reduce.model
        tables = (stack.pos_embedding_1, stack.pos_embedding_2, stack.pos_embedding_3)
        for number, layer in enumerate(stack.layers):
            if number < len(tables):
                x = x + tables[number][:, : x.shape[1]]
            x = self._layer(layer, x)
        return self._head(model.fcn, x).squeeze(1), every

    def _spatial(self, keypoints: Tensor) -> Tensor:
        encoder = self.model.encoder
        x = keypoints.flatten(2).transpose(1, 2)  # [B, 2 J, T]
        x = encoder.dropout(F.leaky_relu(_batch_norm(encoder.bn_1, encoder.fc_1(x)), 0.2))
        for block in encoder.layers:
            y = block.dropout(F.leaky_relu(_batch_norm(block.batch_norm1, block.w1(x)), 0.2))
            x = x + block.dropout(F.leaky_relu(_batch_norm(block.batch_norm2, block.w2(y)), 0.2))
        out: Tensor = encoder.fc_2(x)
        return out.transpose(1, 2)

    def _layer(self, layer: EncoderLayer, x: Tensor) -> Tensor:
        attend, feed = layer.sublayer
        x = x + attend.dropout(self._attention(layer, _norm(attend.norm, x)))
        wide, y = layer.feed_forward, _norm(feed.norm, x)
        if isinstance(wide, StridedFeedForward):
            y = wide.w_2(wide.dropout(F.relu(wide.w_1(y.transpose(1, 2))))).transpose(1, 2)
            x = F.max_pool1d(x.transpose(1, 2), 1, layer.stride).transpose(1, 2)
        else:
            y = wide.w_2(wide.dropout(F.relu(wide.w_1(y))))
        out: Tensor = x + feed.dropout(y)
        return out

    def _attention(self, layer: EncoderLayer, x: Tensor) -> Tensor:
        attention = layer.self_attn
        query, key, value = (
            linear(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2) for linear in attention.linears[:3]
        )
        scores = torch.matmul(query, key.transpose(-2, -1)) / query.shape[-1] ** 0.5
        weights = F.dropout(F.softmax(scores, dim=-1), attention.dropout, self.training)
        mixed = torch.matmul(weights, value).transpose(1, 2).contiguous().flatten(-2)
        out: Tensor = attention.linears[3](mixed)
        return out

    def _head(self, head: Head, x: Tensor) -> Tensor:
        norm, linear = head
        out: Tensor = linear(_batch_norm(norm, x.transpose(1, 2)))
        return out.transpose(1, 2).unflatten(-1, head.shape)


def _batch_norm(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Torch's own, on (B, C, T)."""
    return nn.BatchNorm1d.forward(norm, x)


def _norm(norm: LayerNorm, x: Tensor) -> Tensor:
    mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    return norm.a_2 * (x - mean) / (deviation + norm.eps) + norm.b_2


def check(model: PSTMO, keypoints: Tensor, poses: Tensor) -> dict[str, float]:
    """The largest differences of the plain step and ours on one batch, without dropout; refused above LIMIT."""
    plain, ours = PlainStep(model), Finetune(model)
    rates = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    attention = {
        layer.self_attn: layer.self_attn.dropout for layer in model.modules() if isinstance(layer, EncoderLayer)
    }
    for module in rates:
        module.p = 0.0
    for part in attention:
        part.dropout = 0.0
    found = []
    for step in (plain, ours):
        model.zero_grad()
        step.train()
        step(keypoints, poses).backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append(gradients.double())
    model.eval()
    with torch.inference_mode():
        outputs = plain.poses(keypoints)[0], model(keypoints)
    differences = {
        "outputs_m": float((outputs[0] - outputs[1]).abs().max()),
        "gradients": float((found[0] - found[1]).abs().max() / found[0].abs().max()),
    }
    if max(differences.values()) > LIMIT:
        raise BackendError(f"the plain step and ours differ: {differences}")
    return differences


def loader_rates(sequences: Sequence[PoseSequence], spec: WindowSpec, batch: int, windows: int) -> dict[str, float]:
    """Windows a second in one process, ours and the published way, on the same windows in random order."""
    flat, plain = SequenceWindows(sequences, spec), PlainWindows(sequences, spec)
    rng = np.random.default_rng(0)
    loader = Loader(flat, batch, seed=1)
    few = rng.permutation(len(plain))[: windows // 10]
    for item in few[:50]:
        ours = flat.sample(np.array([item]), rng)
        theirs = plain[int(item)]
        if not (np.array_equal(ours.keypoints[0], theirs[0]) and np.allclose(ours.poses[0], theirs[1], atol=1e-6)):
            raise BackendError(f"the two loaders cut window {item} differently")
    started = time.perf_counter()
    for step in range(windows // batch):
        loader.make(0, step)
    rate = windows // batch * batch / (time.perf_counter() - started)
    started = time.perf_counter()
    for _ in DataLoader(plain, batch, sampler=few.tolist()):
        pass
    return {"ours": rate, "published way": len(few) / (time.perf_counter() - started)}


def plain_steps(model: PSTMO, sequences: Sequence[PoseSequence], recipe: Recipe) -> Callable[[], None]:
    """The plain eager fp32 step, fed by the published way of cutting windows."""
    device = next(model.parameters()).device
    workers = _PUBLISHED_WORKERS if device.type == "cuda" else 0
    windows = PlainWindows(sequences, WindowSpec(recipe.frames, recipe.t_downsample))
    loader = DataLoader(
        windows, recipe.batch, shuffle=True, num_workers=workers, pin_memory=workers > 0, drop_last=True
    )
    batches = iter(loader)
    objective = PlainStep(model).to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=recipe.lr, amsgrad=True)

    def step() -> None:
        keypoints, poses = (tensor.to(device) for tensor in next(batches))
        optimizer.zero_grad()
        loss = objective(keypoints, poses)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def our_steps(model: PSTMO, sequences: Sequence[PoseSequence], recipe: Recipe, folder: Path) -> Callable[[], None]:
    """The trainer's own step."""
    windows = SequenceWindows(sequences, WindowSpec(recipe.frames, recipe.t_downsample))
    world = World(0, 1, next(model.parameters()).device)
    recipe = dataclasses.replace(recipe, steps_per_epoch=1 << 30)  # no epoch ends here: validation is not timed
    trainer = Trainer(recipe, Schedule(1, recipe.lr, 1.0), Finetune(model), windows, folder, lambda: 0.0, world)
    trainer.objective.train()
    numbers = itertools.count()

    def step() -> None:
        trainer.step(0, next(numbers))

    return step


ROWS = {
    "plain eager fp32": None,  # the published way; the others are (precision, compiled)
    "ours, eager fp32": ("fp32", False),
    "ours, compiled fp32": ("fp32", True),
    "ours, eager bf16": ("bf16", False),
    "ours, compiled bf16": ("bf16", True),
}


def time_row(name: str, batch: int, device: torch.device) -> dict[str, float]:
    """Seconds of one competitor's step, and of its first one, in this process."""
    recipe = _recipe(batch)
    sequences, model = load_sequences(split="train"), _model(recipe, device)
    settings = ROWS[name]
    with tempfile.TemporaryDirectory() as folder:
        if settings is None:
            step = plain_steps(model, sequences, recipe)
        else:
            recipe = dataclasses.replace(recipe, precision=settings[0], compile=settings[1])
            step = our_steps(model, sequences, recipe, Path(folder))
        first = _seconds(step, 1, device)
        warm_up, steps = (10, 50) if device.type == "cuda" else (1, 3)
        _seconds(step, warm_up, device)
        return {"first_seconds": first, "seconds": _seconds(step, steps, device) / steps}


def _seconds(step: Callable[[], None], times: int, device: torch.device) -> float:
    started = time.perf_counter()
    for _ in range(times):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _recipe(batch: int) -> Recipe:
    return Recipe("p-stmo-s", 243, t_downsample=2, batch=batch, lr=1e-4)


def _model(recipe: Recipe, device: torch.device) -> PSTMO:
    torch.manual_seed(0)
    model: PSTMO = create_model(recipe.model, recipe.frames, t_downsample=2, dropout=recipe.dropout)
    return model.to(device).train()


def measure(batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """All competitors in turn, `rounds` times, each in a process of its own; returns the rows."""
    recipe = _recipe(batch)
    sequences = load_sequences(split="train")
    spec = WindowSpec(recipe.frames, recipe.t_downsample)
    few = SequenceWindows(sequences, spec).sample(np.arange(0, 2000, 125), np.random.default_rng(0))
    arrays = (torch.from_numpy(array).to(device) for array in (few.keypoints, few.poses))
    differences = check(_model(dataclasses.replace(recipe, dropout=0.0), device), *arrays)
    rates = loader_rates(sequences, spec, batch, 100 * batch)
    names = [name for name in ROWS if device.type == "cuda" or "bf16" not in name]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            command = [sys.executable, "-m", "pstmo_edge.benchmarks.training", "--batch", str(batch), "--row", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout))
            print(f"round {number + 1}, {name}: {found[name][-1]}", flush=True)
    return {
        "model": f"p-stmo-s, {recipe.frames} frames, batch {batch}, dropout {recipe.dropout}",
        "checked": differences,
        "loader_windows_per_second": rates,
        "steps": {
            name: {
                "seconds": statistics.median(run["seconds"] for run in runs),
                "all": [run["seconds"] for run in runs],
                "first_seconds": [run["first_seconds"] for run in runs],
            }
            for name, runs in found.items()
        },
        "torch_threads": torch.get_num_threads(),
    }


def text(results: dict[str, Any]) -> str:
    """The rows as a person reads them; a ratio's range is that of the rounds."""
    steps = results["steps"]
    base = next(iter(steps.values()))
    lines = [
        f"training {results['model']}, {results['torch_threads']} threads; differences {results['checked']}",
        *(f"  loader, {n}: {rate:,.0f} windows/s" for n, rate in results["loader_windows_per_second"].items()),
    ]
    for name, row in steps.items():
        ratios = sorted(plain / ours for plain, ours in zip(base["all"], row["all"], strict=True))
        lines.append(
            f"  step, {name}: {row['seconds']:.3g} s, x{base['seconds'] / row['seconds']:.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}); the first one {row['first_seconds'][0]:.0f} s"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", choices=ROWS, help="time this one alone and print JSON")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.row:
        print(json.dumps(time_row(options.row, options.batch, device)))
        return
    results = {**measure(options.batch, options.rounds, device), "provenance": collect(Settings())}
    print(text(results))
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = "training-cuda.json" if device.type == "cuda" else "training.json"
    write_atomic(RESULTS / name, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

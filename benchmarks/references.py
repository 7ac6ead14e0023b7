"""The fp32 torch models that every engine is compared with, found by the digest of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pstmo_edge.arrays import FloatArray
from pstmo_edge.backends import installed_version
from pstmo_edge.benchmarks.checks import HeldOut, predict
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.evaluation import Evaluation, evaluate
from pstmo_edge.manifest import Manifest
from pstmo_edge.windows import WindowSpec


class References:
    """Torch models by the SHA-256 of their weights, and their poses, computed once for each set of windows."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}
        self._poses: dict[tuple[str, int], tuple[HeldOut, FloatArray]] = {}
        self._flipped: dict[tuple[str, WindowSpec], Evaluation] = {}

    def add(self, model: Any) -> None:
        """Remember a model of the zoo."""
        self._models[model.lifter.weights_sha256] = model

    def poses(self, manifest: Manifest, data: HeldOut) -> FloatArray | None:
        """The raw poses, (N, 17, 3) or (N, K, 17, 3), of the model an engine was built from; None if not at hand."""
        digest = manifest.model.weights_sha256
        if digest not in self._models:
            self._add_bundled(manifest)
        if digest not in self._models:
            return None
        key = digest, id(data)
        if key not in self._poses:  # the data is kept beside its poses, so that its id stays its own
            self._poses[key] = data, predict(self._session(manifest), data.windows)
        return self._poses[key][1]

    def flipped(self, manifest: Manifest, sequences: Sequence[PoseSequence], spec: WindowSpec) -> Evaluation | None:
        """The errors of that model, averaged with the mirrored input; None where it is not at hand."""
        digest = manifest.model.weights_sha256
        if digest not in self._models:
            return None
        if (digest, spec) not in self._flipped:
            self._flipped[digest, spec] = evaluate(self._session(manifest), sequences, spec, flip=True)
        return self._flipped[digest, spec]

    def _session(self, manifest: Manifest) -> Any:
        """The model as the engine uses it: with the same head, for the same frames of the window."""
        from pstmo_edge.backends.torch import TorchSession
        from pstmo_edge.models.emission import with_emitted

        return TorchSession(with_emitted(self._models[manifest.model.weights_sha256], manifest.emitted)).run

    def _add_bundled(self, manifest: Manifest) -> None:
        """Weights in the box may be those the engine was built from: `poses` compares the digest."""
        if installed_version("torch") is None:
            return
        from pstmo_edge.models.zoo import bundled_weights, load_model

        name, frames = manifest.model.name, manifest.input.frames
        for boxed in bundled_weights():
            if boxed == f"{name}-{frames}" or boxed.startswith(f"{name}-{frames}-"):
                self.add(load_model(checkpoint=boxed))

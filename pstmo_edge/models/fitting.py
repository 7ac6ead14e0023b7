"""Does a state dict fit a model: all missing, unknown and misshapen entries in one sentence, and the likely cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from pstmo_edge.errors import CheckpointError

COUNTER = "num_batches_tracked"  # BatchNorm's counter: no part of inference, and absent from old checkpoints

# A parameter that one architecture has and its look-alikes lack.
_SIGNATURES = {
    "dec_pos_embedding": "the pre-training model of P-STMO (p-stmo-s-pretrain or p-stmo-pretrain)",
    "Temporal_pos_embed": "poseformer",
    "shrink_js_1.weight": "anatomy3d",
    "expand_conv.weight": "videopose3d",
    "post_refine.0.weight": "refine",
    "encoder.layers.0.w1.weight": "p-stmo-s or p-stmo",
    "Transformer_reduce.model.pos_embedding_1": "strided-transformer",
}


def fit_state(
    state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], source: str, model: str
) -> dict[str, np.ndarray]:
    """Return the entries of `expected`, in its order: weights as float32, BatchNorm's counters as int64.

    `source` (the file) and `model` (what it was meant for) only name the two in the message. Missing counters become
    zero. Raises CheckpointError that lists all missing names, all unknown names and all wrong shapes.
    """
    missing = [name for name in expected if name not in state and not name.endswith(COUNTER)]
    unknown = [name for name in state if name not in expected]
    wrong = [name for name in expected if name in state and state[name].shape != tuple(expected[name])]
    integers = [name for name in expected if name in state and not _right_kind(name, state[name])]
    if missing or unknown or wrong or integers:
        guess = _guess(state, expected, missing, wrong)
        parts = [guess] if guess else []
        parts += [f"wrong shapes: {_shapes(wrong, state, expected)}"] if wrong else []
        parts += [
            f"{len(names)} {what}: {compact(names)}" for what, names in _lists(missing, unknown, integers) if names
        ]
        raise CheckpointError(f"{source} does not fit {model}: " + "; ".join(parts))
    return {name: _converted(name, state, shape, source) for name, shape in expected.items()}


def compact(names: Iterable[str]) -> str:
    """Dotted names in one line, braces holding what differs: `a.{0..2}.{weight,bias}` stands for six."""
    tree: dict = {}
    for name in names:
        node = tree
        for part in name.split("."):
            node = node.setdefault(part, {})
        node[""] = {}  # a name ends here, even where a longer one goes on
    return ", ".join(_merged(tree))


def _merged(tree: dict) -> list[str]:
    """The names of a tree of parts, children with the same names below them written as one."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for part, below in tree.items():
        if part:
            groups.setdefault(tuple(_merged(below)), []).append(part)
    lines = [_braces(parts) + _braces([f".{e}" if e else "" for e in ends]) for ends, parts in groups.items()]
    return ([""] if "" in tree else []) + lines


def _braces(parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    if all(part.startswith(".") for part in parts):
        return "." + _braces([part[1:] for part in parts])
    if len(parts) > 2 and [str(number) for number in range(len(parts))] == parts:
        return "{0.." + parts[-1] + "}"
    return "{" + ",".join(parts) + "}"


def _lists(missing: list[str], unknown: list[str], integers: list[str]) -> list[tuple[str, list[str]]]:
    return [("missing", missing), ("unknown", unknown), ("not of the right type", integers)]


def _shapes(wrong: list[str], state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Names grouped by the two shapes they have in common."""
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for name in wrong:
        groups.setdefault((state[name].shape, tuple(expected[name])), []).append(name)
    return ", ".join(f"{compact(names)} is {have} and must be {want}" for (have, want), names in groups.items())


def _guess(
    state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], missing: list[str], wrong: list[str]
) -> str:
    """The likely cause in words, or nothing."""
    theirs, ours = _signature(state), _signature(expected)
    if theirs and theirs != ours:
        return f"the checkpoint looks like {theirs}: choose that with --model"
    guesses = []
    have, want = _depth(state), _depth(expected)
    if have != want and have and want:
        name = {3: "p-stmo-s", 4: "p-stmo"}.get(have, "another model") if "p-stmo" in theirs else "another model"
        guesses.append(f"the checkpoint has {have} temporal layers and the model {want}: choose {name} with --model")
    frames = {state[name].shape[1] for name in wrong if _is_table(state[name].shape, tuple(expected[name]), name)}
    if len(frames) == 1:
        guesses.append("the checkpoint is for {0} frames: use --frames {0}".format(*frames))
    if missing and not state.keys() & expected.keys():
        guesses.append("the checkpoint is for another architecture")
    return "; ".join(guesses)


def _is_table(have: tuple[int, ...], want: tuple[int, ...], name: str) -> bool:
    """Whether the two differ as position tables (1, frames, channels) of two window lengths do."""
    return "pos_embed" in name and len(have) == len(want) == 3 and have[::2] == want[::2]


def _signature(names: Mapping[str, object]) -> str:
    return next((model for name, model in _SIGNATURES.items() if name in names), "")


def _depth(names: Mapping[str, object]) -> int:
    start = "Transformer.model.layers."
    return len({name[len(start) :].split(".")[0] for name in names if name.startswith(start)})


def _right_kind(name: str, array: np.ndarray) -> bool:
    return array.dtype.kind in ("iu" if name.endswith(COUNTER) else "f")


def _converted(name: str, state: Mapping[str, np.ndarray], shape: tuple[int, ...], source: str) -> np.ndarray:
    if name.endswith(COUNTER):
        return np.asarray(state.get(name, np.zeros(shape)), np.int64)
    with np.errstate(over="ignore"):
        array = np.asarray(state[name], np.float32)
    if not np.isfinite(array).all():
        raise CheckpointError(f"{source}: {name} holds values beyond float32, NaN or infinity; use another checkpoint")
    return array

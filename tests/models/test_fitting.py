"""Whether a state dict fits: everything wrong in one message, and the likely cause first."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pstmo_edge.errors import CheckpointError
from pstmo_edge.models.fitting import compact, fit_state


def p_stmo(frames: int = 27, temporal: int = 3, strided: int = 3) -> dict[str, tuple[int, ...]]:
    """Some names and shapes of the published P-STMO."""
    shapes = {
        "encoder.layers.0.w1.weight": (8, 8, 1),
        "encoder.bn_1.num_batches_tracked": (),
        "Transformer.pos_embedding": (1, frames, 4),
        "Transformer_reduce.model.pos_embedding_1": (1, frames, 4),
    }
    shapes |= {f"Transformer.model.layers.{layer}.w.{kind}": (4,) for layer in range(temporal) for kind in "ab"}
    return shapes | {f"Transformer_reduce.model.layers.{layer}.w": (4,) for layer in range(strided)}


def state_of(shapes) -> dict[str, np.ndarray]:
    return {
        name: np.zeros(shape, np.int64 if name.endswith("tracked") else np.float64) for name, shape in shapes.items()
    }


def complaint(state, expected) -> str:
    with pytest.raises(CheckpointError) as caught:
        fit_state(state, expected, "x.pth", "p-stmo-s with 27 frames")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_fits_comes_back_in_order_as_float32():
    expected = p_stmo()
    state = dict(reversed(state_of(expected).items()))
    fitted = fit_state(state, expected, "x.pth", "m")
    assert list(fitted) == list(expected)
    assert {str(array.dtype) for array in fitted.values()} == {"float32", "int64"}


def test_missing_counters_are_no_fault():
    expected = p_stmo()
    state = state_of(expected)
    del state["encoder.bn_1.num_batches_tracked"]
    assert fit_state(state, expected, "x", "m")["encoder.bn_1.num_batches_tracked"] == 0


def test_everything_wrong_is_in_one_message():
    expected = p_stmo()
    state = state_of(expected)
    del state["Transformer.model.layers.1.w.a"], state["Transformer.model.layers.2.w.a"]
    state["surprise"] = np.zeros(1)
    state["encoder.layers.0.w1.weight"] = np.zeros((8, 9, 1))
    state["Transformer_reduce.model.layers.0.w"] = np.zeros(4, np.int64)
    assert complaint(state, expected) == (
        "x.pth does not fit p-stmo-s with 27 frames: "
        "wrong shapes: encoder.layers.0.w1.weight is (8, 9, 1) and must be (8, 8, 1); "
        "2 missing: Transformer.model.layers.{1,2}.w.a; 1 unknown: surprise; "
        "1 not of the right type: Transformer_reduce.model.layers.0.w"
    )


def test_the_likely_cause_comes_first():
    ours = p_stmo()
    assert "27 frames: the checkpoint is for 243 frames: use --frames 243; wrong" in complaint(
        state_of(p_stmo(243, strided=5)), ours
    )
    deeper = complaint(state_of(p_stmo(243, temporal=4)), ours)
    assert "the checkpoint has 4 temporal layers and the model 3: choose p-stmo with --model" in deeper
    assert "use --frames 243" in deeper
    assert "looks like videopose3d: choose that" in complaint({"expand_conv.weight": np.zeros(1)}, ours)
    assert "for another architecture" in complaint({"conv.weight": np.zeros(1)}, ours)
    pretrained = {**state_of(p_stmo()), "dec_pos_embedding": np.zeros((1, 27, 4))}
    assert "looks like the pre-training model of P-STMO" in complaint(pretrained, ours)


def test_values_beyond_float32_are_refused():
    with pytest.raises(CheckpointError, match="a holds values beyond float32"):
        fit_state({"a": np.array([1e300])}, {"a": (1,)}, "x", "m")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a"], "a"),
        (["a.w", "a.b"], "a.{w,b}"),
        (["a", "a.b"], "a{,.b}"),
        ([f"l.{i}.w" for i in range(4)], "l.{0..3}.w"),
        (["l.1.w", "l.3.w"], "l.{1,3}.w"),
        (["a.x.w", "a.x.b", "a.y.w", "a.y.b", "c"], "a.{x,y}.{w,b}, c"),
    ],
)
def test_compact(names, text):
    assert compact(names) == text


@given(st.sets(st.lists(st.sampled_from(["a", "b", "0", "1", "2", "w"]), min_size=1, max_size=4).map(".".join)))
def test_compact_lists_every_name(names):
    groups = split_outside_braces(compact(sorted(names)))
    found = [name for group in groups for name in expand_nested(group)]
    assert sorted(found) == sorted(names)


def split_outside_braces(text: str, mark: str = ", ") -> list[str]:
    depth, start, parts = 0, 0, []
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0 and text.startswith(mark, index):
            parts.append(text[start:index])
            start = index + len(mark)
    return [*parts, text[start:]] if text else []


def expand_nested(text: str) -> list[str]:
    """All names that nested braces stand for, as a shell would write them out."""
    start = text.find("{")
    if start < 0:
        return [text]
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            break
    inner = text[start + 1 : end]
    numbers = re.fullmatch(r"0\.\.(\d+)", inner)
    options = [str(n) for n in range(int(numbers[1]) + 1)] if numbers else split_outside_braces(inner, ",") or [""]
    return [
        name
        for option in options
        for middle in expand_nested(option)
        for name in prefixed(text[:start] + middle, text[end + 1 :])
    ]


def prefixed(start: str, rest: str) -> list[str]:
    return [start + name for name in expand_nested(rest)]

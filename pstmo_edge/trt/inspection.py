"""The precision each layer really got, read back from a compiled engine's inspector."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pstmo_edge.errors import BackendError
from pstmo_edge.manifest import LayerPrecision, Precision

# As the inspector writes them ("Int8 NC/32HW32", "Row major linear INT8 format"), the narrowest first.
_TYPES: tuple[tuple[str, Precision], ...] = (
    (r"fp8|float8", "fp8"), (r"int8", "int8"), (r"bf16|bfloat16", "bf16"), (r"fp16|half|float16", "fp16"),
)  # fmt: skip


def executed(layers: Sequence[LayerPrecision], information: str) -> tuple[LayerPrecision, ...]:
    """The layers of a graph with the precision that the engine's layers of the same name read.

    A fused layer of the engine names all that went into it, in its name or its metadata. Raises BackendError for an
    engine built without detailed information.
    """
    try:
        found = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise BackendError("the engine's inspector gives no layers as JSON, so its precision is unknown") from None
    if not found or not all(isinstance(each, dict) for each in found):
        raise BackendError("the engine holds names of layers alone, so its precision is unknown: compile it again")
    return tuple(layer.model_copy(update={"precision": _precision(layer, found)}) for layer in layers)


def check_precision(wanted: Sequence[LayerPrecision], got: Sequence[LayerPrecision], requested: str) -> None:
    """Raise BackendError where layers that the graph has in `requested` (int8 or fp8) are not in the engine."""
    if requested not in ("int8", "fp8"):
        return
    asked = [layer for layer in wanted if layer.precision == requested]
    given = {layer.name: layer for layer in got}
    missing = [layer for layer in asked if given[layer.name].precision != requested]
    total = sum(layer.multiply_adds for layer in asked)
    if not asked or missing:
        share = sum(layer.multiply_adds for layer in missing) / total if total else 1.0
        names = ", ".join(f"{each.name} ({given[each.name].precision})" for each in missing[:5])
        raise BackendError(
            f"the engine is not what was asked for: {share:.1%} of the multiply-adds that should be {requested} are "
            f"not: {names or 'no layer is'}{' ...' if len(missing) > 5 else ''}; compile with --allow-float to keep it"
        )


def _precision(layer: LayerPrecision, found: Sequence[dict[str, Any]]) -> Precision:
    mine = [each for each in found if layer.name in set(_names(each))]
    # The product itself, where a layer that only changes the type or the shape has the name as well.
    products = [each for each in mine if re.search("gemm|matrix|conv|myelin|fc", str(each.get("LayerType")), re.I)]
    types = [_type(each) for each in products or mine]
    return next((kind for _, kind in _TYPES if kind in types), "fp32")


def _names(layer: dict[str, Any]) -> Iterator[str]:
    text = f"{layer.get('Name', '')} {layer.get('Metadata', '')}"
    yield from re.findall(r"[\w./-]+", text)


def _type(layer: dict[str, Any]) -> Precision:
    formats = " ".join(str(each.get("Format/Datatype", each.get("Format", ""))) for each in layer.get("Inputs", []))
    return next((kind for pattern, kind in _TYPES if re.search(pattern, formats, re.I)), "fp32")

"""Presets by instruction set: how many bits INT8 weights may use so that a CPU's integer sums never overflow."""

import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pstmo_edge.errors import BackendError
from pstmo_edge.kernels import native
from pstmo_edge.naming import unknown


@dataclass(frozen=True)
class Target:
    """One preset: `weight_bits` is safe wherever all of `requires` is there, for the reason in `why`.

    `symmetric_activations` are signed and without a zero point. `speedup` is how many times as many INT8 as fp32
    multiply-adds the device does in the same time, `wide_speedup` the same with 16-bit activations: they rank layers
    by what INT8 saves, and are no promise.
    """

    name: str
    weight_bits: int
    requires: frozenset[str]
    why: str
    symmetric_activations: bool = False
    speedup: float = 2.0
    wide_speedup: float = 1.0


_PAIR_SUMS = "VPMADDUBSW adds two U8 x S8 products in 16 bits and saturates: 2 x 255 x 127 overflows, 2 x 255 x 64 fits"

# Best first: detection takes the first one whose features are all present.
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "arm64-dotprod", 8, frozenset({"neon", "dotprod"}), "SDOT and UDOT add four products in 32 bits",
            speedup=4.0,
        ),
        Target(
            "x86-vnni", 8, frozenset({"avx2", "vnni"}), "VPDPBUSD adds four products in 32 bits",
            speedup=4.0, wide_speedup=2.0,
        ),
        # VPMADDUBSW needs a VPMADDWD behind it; 16-bit activations need the latter alone, for half as many products.
        Target("x86-avx2", 7, frozenset({"avx2"}), _PAIR_SUMS, speedup=2.0, wide_speedup=1.6),
        Target("generic", 7, frozenset(), "7-bit weights keep a 16-bit sum of two products safe on every CPU"),
        Target(
            "tensorrt", 8, frozenset({"tensorrt"}),
            "tensor cores add in 32 bits; TensorRT takes signed activations without a zero point only",
            symmetric_activations=True, speedup=2.0,
        ),
    )
}  # fmt: skip

# Linux names Arm features its own way in /proc/cpuinfo; x86 flags are the C ABI's names.
_X86_NAMES = frozenset({"sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "amx_int8"}) | {
    f"avx512{suffix}" for suffix in ("f", "bw", "vl", "_vnni", "_bf16")
}
_ARM_NAMES = {"asimd": "neon", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve"}
_CPUINFO = Path("/proc/cpuinfo")


def detect_target() -> str:
    """Return the name of the best preset for this machine's CPU."""
    present = machine_features()
    return next(target.name for target in TARGETS.values() if target.requires <= present)


def resolve_target(name: str = "auto") -> Target:
    """Return the preset of that name, or of this machine for "auto"; UsageError for an unknown name."""
    if name == "auto":
        name = detect_target()
    if name not in TARGETS:
        raise unknown("target", name, ["auto", *TARGETS])
    return TARGETS[name]


def runs_here(target: Target) -> bool:
    """Whether INT8 weights made for `target` stay within this machine's integer sums.

    Fewer bits than the CPU could take are always right, only coarser, so a 7-bit bundle runs everywhere.
    """
    return target.weight_bits <= TARGETS[detect_target()].weight_bits


def check_runs_here(target: Target | str) -> None:
    """Raise BackendError where INT8 weights made for `target` would overflow in this machine's integer sums."""
    wanted = resolve_target(target) if isinstance(target, str) else target
    if runs_here(wanted):
        return
    here = TARGETS[detect_target()]
    missing = ", ".join(sorted(wanted.requires - machine_features()))
    raise BackendError(
        f"this bundle was built for {wanted.name} and this CPU has no {missing}: its {wanted.weight_bits}-bit weights "
        f"would overflow here; rebuild it with `pstmo-edge build --target {here.name}`"
    )


@lru_cache(maxsize=1)
def machine_features() -> frozenset[str]:
    """Return this CPU's features, from the native library or else /proc/cpuinfo, with "vnni" for either form of it."""
    found = native.cpu_features() or features_from_cpuinfo(_read_cpuinfo(), platform.machine())
    return found | {"vnni"} if found & {"avx512_vnni", "avx_vnni"} else found


def features_from_cpuinfo(text: str, machine: str) -> frozenset[str]:
    """Return the features that Linux's /proc/cpuinfo lists, by the C ABI's names, for a `platform.machine()`."""
    words = set(next((line.partition(":")[2] for line in text.splitlines() if _lists_features(line)), "").split())
    if machine.lower() in {"aarch64", "arm64"}:
        return frozenset(_ARM_NAMES[word] for word in words & _ARM_NAMES.keys()) | {"neon"}
    return frozenset(words & _X86_NAMES) if machine.lower() in {"x86_64", "amd64", "i686"} else frozenset()


def _lists_features(line: str) -> bool:
    return line.partition(":")[0].strip() in {"flags", "Features"}


def _read_cpuinfo() -> str:
    try:
        return _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

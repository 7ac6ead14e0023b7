"""Instruction-set presets: which one a CPU gets, and which bundles it must refuse."""

import pytest

from pstmo_edge import targets
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.naming import nearest, unknown

ZEN3 = {"sse4_2", "avx", "avx2", "fma", "f16c"}
MACHINES = [
    (set(), "generic"),
    ({"sse4_2"}, "generic"),
    (ZEN3, "x86-avx2"),
    (ZEN3 | {"avx512f", "avx512bw", "avx512vl"}, "x86-avx2"),
    (ZEN3 | {"avx512f", "avx512_vnni"}, "x86-vnni"),
    (ZEN3 | {"avx_vnni"}, "x86-vnni"),
    ({"neon"}, "generic"),
    ({"neon", "dotprod", "i8mm"}, "arm64-dotprod"),
]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Pretend that the CPU has the parametrized features."""
    monkeypatch.setattr(targets.native, "cpu_features", lambda: frozenset(request.param))
    monkeypatch.setattr(targets, "_read_cpuinfo", str)
    monkeypatch.setattr(targets, "machine_features", targets.machine_features.__wrapped__)


@pytest.mark.parametrize(("machine", "expected"), MACHINES, indirect=["machine"])
@pytest.mark.usefixtures("machine")
def test_the_best_preset_is_detected(expected: str) -> None:
    assert targets.detect_target() == expected
    assert targets.resolve_target("auto").name == expected
    targets.check_runs_here(expected)


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("activation", [0, 255])
def test_the_bits_of_a_preset_keep_16_bit_pair_sums_exact(bits: int, activation: int) -> None:
    largest = 2 ** (bits - 1) - 1
    fits = 2 * activation * largest <= 2**15 - 1
    assert fits == (bits == 7 or activation == 0)


def test_only_32_bit_sums_get_8_bit_weights() -> None:
    wide = {target.name for target in targets.TARGETS.values() if target.weight_bits == 8}
    assert wide == {
        target.name for target in targets.TARGETS.values() if target.requires & {"vnni", "dotprod", "tensorrt"}
    }


@pytest.mark.parametrize("machine", [ZEN3], indirect=True)
@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("built_for", ["x86-vnni", "arm64-dotprod"])
def test_eight_bit_weights_are_refused_where_they_overflow(built_for: str) -> None:
    with pytest.raises(BackendError, match=r"overflow here; .* `pstmo-edge build --target x86-avx2`") as caught:
        targets.check_runs_here(targets.resolve_target(built_for))
    assert "\n" not in str(caught.value)
    assert ("vnni" if built_for == "x86-vnni" else "dotprod") in str(caught.value)


@pytest.mark.parametrize("machine", [features for features, _ in MACHINES], indirect=True)
@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("built_for", ["x86-avx2", "generic"])
def test_seven_bit_weights_run_everywhere(built_for: str) -> None:
    targets.check_runs_here(built_for)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'x86-vni': did you mean 'x86-vnni'\?") as caught:
        targets.resolve_target("x86-vni")
    assert caught.value.exit_status == 2


def test_cpuinfo_is_read_where_the_library_is_missing() -> None:
    x86 = "processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 avx512_vnni erms\n"
    arm = "processor\t: 0\nFeatures\t: fp asimd aes asimddp i8mm\n"
    assert targets.features_from_cpuinfo(x86, "x86_64") == {"sse4_2", "avx", "avx2", "avx512_vnni"}
    assert targets.features_from_cpuinfo(arm, "aarch64") == {"neon", "dotprod", "i8mm"}
    assert targets.features_from_cpuinfo("", "aarch64") == {"neon"}
    assert targets.features_from_cpuinfo("", "x86_64") == set()
    assert targets.features_from_cpuinfo(x86, "riscv64") == set()


def test_nearest_ignores_case_and_gives_up_on_nonsense() -> None:
    assert nearest("P-STMO-X", ["p-stmo", "p-stmo-s"]) == "p-stmo-s"
    assert nearest("zzz", ["p-stmo", "p-stmo-s"]) is None
    assert str(unknown("model", "zzz", ["p-stmo", "p-stmo-s"])) == "unknown model 'zzz'. Known: p-stmo, p-stmo-s"

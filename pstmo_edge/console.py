"""What commands show on a terminal: one progress bar on standard error, tables on standard output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from pstmo_edge.evaluation import Evaluation
from pstmo_edge.manifest import Manifest

if TYPE_CHECKING:
    from pstmo_edge.evaluation_3dhp import Evaluation3DHP

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


class Bar:
    """A progress bar that follows sentences; `__call__` is the `Progress` of build and bench."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def __call__(self, text: str, done: int, total: int) -> None:
        """Show what is being done; a total of 0 is unknown."""
        self._progress.update(self._task, description=text, completed=done, total=total or None)


class Counted:
    """A bar as the `advance` of an evaluation: told how many windows more are done."""

    def __init__(self, bar: Bar, text: str, total: int) -> None:
        self.bar, self.text, self.total, self.done = bar, text, total, 0

    def __call__(self, count: int) -> None:
        """Move on by `count`."""
        self.done += count
        self.bar(self.text, self.done, self.total)


@contextmanager
def progress_bar() -> Iterator[Bar]:
    """A bar on standard error while the body runs, gone afterwards; nothing where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        yield Bar(progress)


def evaluation_table(found: Evaluation) -> Table:
    """Errors by action and their mean, millimetres."""
    table = Table()
    table.add_column("action")
    table.add_column("MPJPE mm", justify="right")
    table.add_column("P-MPJPE mm", justify="right")
    for action, errors in found.actions.items():
        table.add_row(action, f"{errors['mpjpe_mm']:.1f}", f"{errors['p_mpjpe_mm']:.1f}")
    table.add_section()
    table.add_row("mean over actions", f"{found.mpjpe_mm:.1f}", f"{found.p_mpjpe_mm:.1f}", style="bold")
    return table


def table_3dhp(found: Evaluation3DHP) -> Table:
    """Errors on MPI-INF-3DHP by sequence and by activity."""
    table = Table()
    for name, justify in (("", "left"), ("MPJPE mm", "right"), ("PCK 150 mm %", "right"), ("AUC %", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    groups = {"sequence": found.sequences, "activity": found.activities}
    for rows in groups.values():
        for name, row in rows.items():
            table.add_row(name, f"{row['mpjpe_mm']:.1f}", f"{row['pck']:.1f}", f"{row['auc']:.1f}")
        table.add_section()
    table.add_row("all frames", f"{found.mpjpe_mm:.1f}", f"{found.pck:.1f}", f"{found.auc:.1f}", style="bold")
    return table


def recipes_table(recipes: Mapping[str, Any]) -> Table:
    """The recipes' main settings, one a line."""
    table = Table()
    for name in ("recipe", "model", "window", "keypoints in", "data", "batch", "epochs I, II", "rates I, II"):
        table.add_column(name)
    for name, recipe in recipes.items():
        after = "centre" if recipe.lookahead < 0 else f"{recipe.lookahead} after"
        table.add_row(
            name,
            recipe.model,
            f"{recipe.frames} x {recipe.t_downsample}, {after}",
            f"{recipe.keypoints}, {recipe.skeleton}",
            recipe.data or "--data",
            str(recipe.batch),
            f"{recipe.pretrain_epochs}, {recipe.epochs}",
            f"{recipe.pretrain_lr:g}, {recipe.lr:g}",
        )
    return table


def data_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What is in each split of a dataset."""
    table = Table()
    table.add_column("")
    for split in found:
        table.add_column(split)
    for name in next(iter(found.values())):
        table.add_row(name, *(str(summary[name]) for summary in found.values()))
    return table


def transfer_text(source: str, transferred: Sequence[str], fresh: Sequence[str], left_out: Sequence[str]) -> str:
    """Which tensors were taken over from other weights, by name."""
    from pstmo_edge.models.fitting import compact

    lines = [f"from {source}: {len(transferred)} tensors transferred, {len(fresh)} fresh, {len(left_out)} left out"]
    for title, names in (("transferred", transferred), ("fresh", fresh), ("left out", left_out)):
        if names:
            lines.append(f"  {title}: {compact(list(names))}")
    return "\n".join(lines)


def manifest_table(manifest: Manifest) -> Table:
    """A bundle's manifest for people."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in _manifest_rows(manifest):
        table.add_row(name, value)
    return table


def _manifest_rows(manifest: Manifest) -> Iterator[tuple[str, str]]:
    given, result = manifest.input, manifest.output
    yield "model", f"{manifest.model.name}, {given.frames} frames, {manifest.model.parameters:,} parameters"
    yield "backend", f"{manifest.backend.name} {manifest.backend.version}"
    yield "precision", precision_text(manifest)
    if manifest.precision.requested == "int8":
        yield "target", f"{manifest.target.name}, {manifest.target.weight_bits}-bit weights"
    yield "input", f"(B, {given.frames}, {len(given.joints)}, 2) {given.skeleton}, {given.normalisation}"
    several = "" if result.frames is None else f"{result.frames.count}, "
    yield "output", f"(B, {several}{len(result.joints)}, 3) {result.units}, {result.frame}; {result.camera_convention}"
    yield "window", f"every {ordinal(given.t_downsample)} frame of {given.frame_rate:g} a second; {_emitted(manifest)}"
    if manifest.accuracy is not None:
        yield "accuracy", accuracy_text(manifest)
        if manifest.accuracy.lookahead:
            yield "look-ahead", lookahead_text(manifest)
    if manifest.calibration is not None:
        used = manifest.calibration
        yield "calibration", f"{used.method}; {used.windows} windows of {used.source} (key {used.key[:12]})"
    for entry in manifest.files:
        size = f"{entry.size / 1e6:.2f} MB" if entry.size >= 1e5 else f"{entry.size / 1e3:.1f} kB"
        yield "file", f"{entry.path}, {size}, sha256 {entry.sha256[:12]}"
    yield "built", f"{manifest.created:%Y-%m-%d %H:%M} UTC by pstmo-edge {manifest.pstmo_edge_version}"


def _emitted(manifest: Manifest) -> str:
    """Whose poses come out, and how long they wait."""
    given, frames = manifest.input, manifest.output.frames
    if frames is None:
        return (
            f"the pose is frame {given.target_index}'s, so it waits {given.lookahead_ms:.0f} ms for the "
            f"{given.lookahead_frames} after it"
        )
    return (
        f"the poses are those of the {frames.count} frames from {frames.first} on, which wait "
        f"{manifest.least_lookahead_ms:.0f} (the last) to {given.lookahead_ms:.0f} ms (the first)"
    )


def precision_text(manifest: Manifest) -> str:
    """The precision asked for and really given."""
    precision = manifest.precision
    if precision.requested == "fp32":
        return precision.requested
    if precision.requested != "int8":
        kept = f"; layers left in float: {', '.join(precision.left_in_float)}" if precision.left_in_float else ""
        stored = "weights, computed in fp32, of" if precision.weights_only else "in"
        return f"{precision.requested} {stored} {precision.requested_share:.1%} of the multiply-adds{kept}"
    left = ", ".join(precision.left_in_float) or "none"
    wide = f", with 16-bit activations in {precision.wide_share:.1%}" if precision.wide_share else ""
    return f"int8 in {precision.int8_share:.1%} of the multiply-adds{wide}; layers left in float: {left}"


def accuracy_text(manifest: Manifest) -> str:
    """The error before and after."""
    found = manifest.accuracy
    if found is None:
        return "not measured"
    jitter = "" if found.jitter_percent is None else f"; jitter with a detector's {found.jitter_percent:+.1f} %"
    return (
        f"MPJPE {found.after.mpjpe_mm:.2f} mm ({found.drop_mm:+.2f} against the fp32 model), P-MPJPE "
        f"{found.after.p_mpjpe_mm:.2f} mm, MPJVE {found.after.mpjve_mm:.2f} mm a frame; {found.data}, "
        f"{found.keypoints} keypoints, without mirroring{jitter}"
    )


def lookahead_text(manifest: Manifest) -> str:
    """What a stream's error is by look-ahead."""
    assert manifest.accuracy is not None
    step = 1000.0 * manifest.input.t_downsample / manifest.input.frame_rate
    rows = [f"{each.frames} ({each.frames * step:.0f} ms) {each.mpjpe_mm:.1f}" for each in manifest.accuracy.lookahead]
    return f"MPJPE in mm by --lookahead, with a detector's errors: {', '.join(rows)}"


def ordinal(number: int) -> str:
    """1 to "", 2 to "2nd": as in "every 2nd frame"."""
    return {1: "", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")

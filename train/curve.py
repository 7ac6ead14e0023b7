"""A picture of a run: losses on the training windows and errors on held-out motion, by epoch."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from pathlib import Path

from pstmo_edge.files import write_atomic

CURVE = "curve.png"


def draw(log: Path, title: str) -> Path | None:
    """Draw the log of a run beside it; returns the picture's path, or None where matplotlib is not installed."""
    with suppress(ImportError):
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        rows = list(csv.DictReader(log.read_text().splitlines()))
        if not rows:
            return None
        unit = next(name for name in rows[0] if name.startswith("val_")).removeprefix("val_")
        epochs = [int(row["epoch"]) for row in rows]
        held_out = [float(row[f"val_{unit}"]) for row in rows]
        best = min(range(len(rows)), key=held_out.__getitem__)
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(epochs, [float(row[f"train_{unit}"]) for row in rows], label="training windows", color="#8a8f98")
        axes.plot(epochs, held_out, label="held-out motion", color="#0b6e99", marker="o", markersize=3)
        axes.annotate(
            f"{held_out[best]:.1f} {unit}", (epochs[best], held_out[best]), xytext=(0, 8), textcoords="offset points",
            ha="center", color="#0b6e99",
        )  # fmt: skip
        axes.set(xlabel="epoch", ylabel=f"error, {unit}", title=title, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=140)
        path = log.with_name(CURVE)
        write_atomic(path, picture.getvalue())
        return path
    return None

"""Draws the results of the last `make bench`: `python -m bench.plot`; writes docs/bench.svg and docs/bench.png.

Every row that has a bar is one line: how many times better than its bar it is, on a scale of factors.
"""

from __future__ import annotations

import json
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

from bench.__main__ import BENCHES
from bench.harness import RESULTS

PAGE: Final = RESULTS.parent.parent / "docs"
PASS, SHORT = "#2a7f62", "#b4552d"
MOST: Final = 100.0  # times better: further right says nothing more


def times_better(row: dict[str, Any]) -> float:
    """Above 1 where the bar is reached, whichever way it is meant."""
    value, bar = max(row["value"], 1e-9), row["bar"]
    return float(value / bar if row["better"] == ">=" else bar / value)


def draw(found: dict[str, Any]) -> None:
    """Both files, the same picture."""
    rows = [row for row in found["rows"] if row["bar"] is not None]
    rows.sort(key=lambda row: BENCHES.index(row["bench"]), reverse=True)
    shown = [min(MOST, max(1 / MOST, times_better(row))) for row in rows]
    mpl.rcParams["svg.hashsalt"] = "leasehold"  # the same results give the same file
    figure, axes = plt.subplots(figsize=(10, 0.8 + 0.28 * len(rows)))
    axes.barh(
        range(len(rows)),
        [one - 1 for one in shown],
        left=1,
        color=[PASS if row["passes"] else SHORT for row in rows],
        height=0.62,
    )
    for at, (row, one) in enumerate(zip(rows, shown, strict=True)):
        unit = row["unit"] and f" {row['unit']}"
        label = f" {row['value']:.3g}{unit}  (bar {row['better']} {row['bar']:g}) "
        axes.text(one, at, label, va="center", ha="left" if one >= 1 else "right", fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(0.2, *shown) / 3, max(2.0, *shown) * 9)
    axes.set_yticks(
        range(len(rows)), [f"{row['bench']}: {row['what']}" for row in rows], fontsize=7
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("times better than its bar (1: the bar)", fontsize=8)
    machine = found["machine"]
    title = f"{machine['processors']} processors, Python {machine['python']}"
    axes.set_title(f"make bench: measured against its bar; {title}", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(PAGE / "bench.svg", metadata={"Date": None})
    figure.savefig(PAGE / "bench.png", dpi=150)


if __name__ == "__main__":
    draw(json.loads(RESULTS.read_text()))

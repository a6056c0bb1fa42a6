"""Draws the README's chart from the results of one run: messages per second against PyPI's picows.

    python benchmarks/plot.py benchmarks/results/20261120-160000.json docs/_static/benchmark.svg

One group of bars for each kind of work, one bar for each contestant: the geometric mean over the
cells of that kind of the median ratio that run.py has computed. Nothing is computed anew here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

WORKS = {
    "echo-client, up to 8 KiB": "client, round trips\n32 B to 8 KiB",
    "echo-client, 100 KB and more": "client, round trips\n100 KB and 1 MB",
    "echo-server, up to 8 KiB": "server, round trips\n32 B to 8 KiB",
    "echo-server, 100 KB and more": "server, round trips\n100 KB and 1 MB",
    "inflight, 100 connection(s)": "server, 16 in flight on\neach of 100 connections",
    "feed, python listener": "client, feed of 200 B\ninto a Python listener",
}
CONTESTANTS = {
    "ours": ("picows", "#1f77b4"),
    "pypi": ("picows 2.3.1 of PyPI", "#9aa5b1"),
    "websockets": ("websockets", "#c7a26b"),
    "aiohttp": ("aiohttp", "#a97b9a"),
    "floor": ("the least that C needs", "#d9d9d9"),
}


def ratios(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for summary in results["summaries"]:
        if summary["to_pypi"] is not None:
            found.setdefault(summary["cells"], {})[summary["contestant"]] = summary["to_pypi"]
    return found


def draw(results: dict[str, Any], target: Path) -> None:
    found = ratios(results)
    works = [work for work in WORKS if work in found]
    names = [name for name in CONTESTANTS if any(name in found[work] for work in works)]
    # Readable on a light page and on a dark one.
    ink = "#7a7a7a"
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "picows", "font.size": 9})
    figure = Figure(figsize=(9, 0.28 * len(works) * (len(names) + 1) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    height = 1 / (len(names) + 1)
    for row, name in enumerate(names):
        label, colour = CONTESTANTS[name]
        values = [found[work].get(name, 0.0) for work in works]
        places = [index + row * height for index in range(len(works))]
        axes.barh(places, values, height * 0.92, label=label, color=colour)
        for place, value in zip(places, values, strict=True):
            if value:
                axes.text(value, place, f" {value:.2f}", va="center", color=ink)
    axes.set_yticks(
        [index + (len(names) - 1) * height / 2 for index in range(len(works))],
        [WORKS[work] for work in works],
    )
    axes.invert_yaxis()
    axes.axvline(1, color=ink, linewidth=0.8, linestyle=":")
    axes.set_xlabel("messages per second, picows 2.3.1 of PyPI = 1")
    axes.legend(frameon=False, labelcolor=ink, loc="lower right")
    axes.tick_params(colors=ink)
    axes.xaxis.label.set_color(ink)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.savefig(target, transparent=True, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="the JSON file of run.py")
    parser.add_argument("target", type=Path, help="an SVG file")
    args = parser.parse_args()
    draw(json.loads(args.results.read_text(encoding="utf-8")), args.target)


if __name__ == "__main__":
    main()

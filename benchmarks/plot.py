"""Draws the charts of the README and the docs from the results of one run of run.py.

    python benchmarks/plot.py benchmarks/results/20261120-160000.json docs/_static

One SVG for each kind of work that was measured: ``benchmark.svg``, the README's, and
``benchmark-<kind>.svg``; ``charts.inc`` shows all of them on the page of the docs. Most compare
with PyPI's picows: a bar is the geometric mean over the cells of its kind of the median ratio that
run.py has computed. Memory and many connections are absolute. Nothing is computed anew here.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

CONTESTANTS = {
    "ours": ("picows", "#1f77b4"),
    "ours-send-loop": ("picows, a loop over send", "#8fbbe0"),
    "ours-zlib-ng": ("picows with zlib-ng", "#8fbbe0"),
    "pypi": ("picows {picows} of PyPI", "#9aa5b1"),
    "websockets": ("websockets {websockets}", "#c7a26b"),
    "aiohttp": ("aiohttp {aiohttp}", "#a97b9a"),
    "socketify": ("socketify {socketify}", "#7fae8c"),
    "floor": ("the least that C needs", "#d9d9d9"),
}
INK = "#7a7a7a"  # readable on a light page and on a dark one
RATE = ("to_pypi", "messages a second, {baseline} = 1; longer is better")
CPU = ("cpu_to_pypi", "work in a second of CPU time, {baseline} = 1; longer is better")


@dataclass(frozen=True)
class Comparison:
    """Groups of bars: summaries of run.py by their name, and what they are called here."""

    title: str
    value: tuple[str, str]  # field of a summary, what the axis says
    works: dict[str, str]


COMPARISONS = {
    "benchmark": Comparison(
        "Messages a second",
        RATE,
        {
            "echo-client, up to 8 KiB": "client, round trips\n32 B to 8 KiB",
            "echo-client, 100 KB and more": "client, round trips\n100 KB and 1 MB",
            "echo-server, up to 8 KiB": "server, round trips\n32 B to 8 KiB",
            "echo-server, 100 KB and more": "server, round trips\n100 KB and 1 MB",
            "inflight, 100 connection(s)": "server, 16 in flight on\neach of 100 connections",
            "feed, 200 B, python listener": "client, feed of 200 B\ninto a Python listener",
            "broadcast, 1 message(s) together": "server, broadcast of 200 B\nto 1,000 connections",
        },
    ),
    "benchmark-server": Comparison(
        "A server with many messages",
        CPU,
        {
            "server, 256 B": "100 connections, 256 B\none in flight on each",
            "server, 8192 B": "100 connections, 8 KiB\none in flight on each",
            "inflight, 1 connection(s)": "1 connection, 256 B\n16 in flight",
            "inflight, 100 connection(s)": "100 connections, 256 B\n16 in flight on each",
        },
    ),
    "benchmark-feed": Comparison(
        "A client that reads a feed",
        CPU,
        {
            f"feed, {what}, {listener} listener": f"{what}\n{listener.capitalize()} listener"
            for listener in ("python", "cython")
            for what in ("64 B", "200 B", "1000 B", "200 B over TLS")
        },
    ),
    "benchmark-handshakes": Comparison(
        "Opening handshakes",
        CPU,
        {
            "handshake": "server\n16 at a time",
            "connect, plain": "client: connect,\nupgrade, close",
            "connect, TLS": "the same over TLS",
        },
    ),
    "benchmark-broadcast": Comparison(
        "A broadcast of 200 B to 1,000 connections",
        CPU,
        {
            "broadcast, 1 message(s) together": "one message",
            "broadcast, 4 message(s) together": "four that came together",
        },
    ),
    "benchmark-compression": Comparison(
        "Compressed JSON ticks of 300 B",
        CPU,
        {
            "inflate": "to take them",
            "inflate-alike": "to take what is nearly\nthe one before",
            "deflate": "to send them",
        },
    ),
}


class Results:
    """What run.py has written, and what the contestants are called."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        found = content["contestants"]
        versions: dict[str, str] = {}
        for name in ("socketify", "pypi"):
            versions |= found.get(name, {}).get("versions", {})
        self.versions = {name: versions.get(name, "") for name in ("picows", *CONTESTANTS)}
        self.baseline = self.label("pypi")

    def label(self, name: str) -> str:
        return CONTESTANTS[name][0].format(**self.versions).strip()

    def summaries(self, field: str) -> dict[str, dict[str, float]]:
        """By work and contestant."""
        found: dict[str, dict[str, float]] = {}
        for summary in self.content["summaries"]:
            if summary[field] is not None:
                found.setdefault(summary["cells"], {})[summary["contestant"]] = summary[field]
        return found

    def figures(self, row: str) -> list[tuple[list[str], dict[str, Any]]]:
        """The figures of a row, each with the parts of its cell's name behind the row's."""
        split = [(figure["cell"].split("/"), figure) for figure in self.content["figures"]]
        return [(parts[1:], figure) for parts, figure in split if parts[0] == row]

    def caption(self) -> str:
        machine, settings = self.content["machine"], self.content["settings"]
        found = self.content["contestants"]
        ours = found.get("ours") or found.get("pypi") or {}
        system = machine["system"].split("-x86")[0]
        uvloop = ours.get("versions", {}).get("uvloop", "")
        return (
            f"{machine['cpu']}, {system}, Python {ours.get('python', '')}, uvloop {uvloop}; "
            f"{self.content['date'][:10]}, {settings['rounds']} interleaved rounds of "
            f"{settings['seconds']:g} s"
        )


def new_figure(height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "picows", "font.size": 9})
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = [figure.add_subplot(1, columns, 1 + i) for i in range(columns)]
    for each in axes:
        each.tick_params(colors=INK, which="both")
        each.xaxis.label.set_color(INK)
        each.yaxis.label.set_color(INK)
        for side in each.spines.values():
            side.set_visible(False)
    return figure, axes


def save(figure: Figure, results: Results, target: Path) -> None:
    figure.supxlabel(results.caption(), fontsize=6.5, color=INK)
    figure.savefig(target, transparent=True, metadata={"Date": None})


def bars(
    results: Results, found: dict[str, dict[str, float]], labels: dict[str, str], form: str
) -> tuple[Figure, Axes]:
    """A group of horizontal bars for each work, one bar for each contestant."""
    works = [work for work in labels if work in found]
    rows = [(work, name) for work in works for name in CONTESTANTS if name in found[work]]
    # A bar is one high, and so is the gap between groups.
    places = {row: index + works.index(row[0]) for index, row in enumerate(rows)}
    figure, (axes,) = new_figure(0.18 * (len(rows) + len(works)) + 1.2)
    for name, (_, colour) in CONTESTANTS.items():
        own = {places[row]: found[row[0]][name] for row in rows if row[1] == name}
        if own:
            axes.barh(list(own), list(own.values()), 0.92, label=results.label(name), color=colour)
        for place, value in own.items():
            axes.text(value, place, f" {value:{form}}", va="center", color=INK)
    middles = [mean(places[row] for row in rows if row[0] == work) for work in works]
    axes.set_yticks(middles, [labels[work] for work in works])
    axes.invert_yaxis()
    figure.legend(frameon=False, labelcolor=INK, loc="outside upper center", ncols=4)
    return figure, axes


def draw_comparison(results: Results, comparison: Comparison, target: Path) -> bool:
    field, axis = comparison.value
    found = results.summaries(field)
    if not any("pypi" in found.get(work, {}) for work in comparison.works):
        return False
    figure, axes = bars(results, found, comparison.works, ".2f")
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel(axis.format(baseline=results.baseline))
    save(figure, results, target)
    return True


def draw_memory(results: Results, target: Path) -> bool:
    found: dict[str, dict[str, float]] = {}
    for (loop, security, what), measured in results.figures("memory"):
        if what == "rss":
            work = f"{'TLS' if security == 'tls' else 'plain'}, {loop}"
            found.setdefault(work, {})[measured["contestant"]] = measured["amount"] / 1024
    if not found:
        return False
    figure, axes = bars(results, found, {work: work for work in sorted(found)}, ".1f")
    axes.set_xlabel("KiB of resident memory that a server takes for an idle connection")
    save(figure, results, target)
    return True


def draw_connections(results: Results, target: Path) -> bool:
    """CPU time of a message over the number of connections."""
    found: dict[str, dict[tuple[str, str], dict[int, float]]] = {"turn": {}, "all": {}}
    for (loop, _, how, connections), measured in results.figures("flat"):
        line = found[how].setdefault((measured["contestant"], loop), {})
        line[int(connections)] = measured["cpu"] * 1e6
    if not any(found.values()):
        return False
    titles = {"turn": "one message in flight in all", "all": "one in flight on each connection"}
    figure, panels = new_figure(3.6, columns=2)
    for axes, (how, lines) in zip(panels, found.items(), strict=True):
        for (name, loop), points in lines.items():
            numbers = sorted(points)
            # The floor knows no loops: it has been measured beside each.
            label = results.label(name) + ("" if name == "floor" else f", {loop}")
            axes.plot(
                numbers,
                [points[number] for number in numbers],
                "o-" if loop == "uvloop" else "o:",
                color=CONTESTANTS[name][1],
                markersize=3,
                label=label if name != "floor" or loop == "uvloop" else None,
            )
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(titles[how], color=INK, fontsize=9)
        axes.set_xlabel("connections")
    panels[0].set_ylabel("CPU µs a message of 256 B")
    handles, labels = panels[0].get_legend_handles_labels()
    if not handles:
        handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, labelcolor=INK, loc="outside upper center", ncols=3
    )
    save(figure, results, target)
    return True


def draw_all(results: Results, target: Path) -> dict[str, str]:
    """The names of the charts that could be drawn, with what they show."""
    drawn = {
        name: f"{comparison.title}, compared with PyPI's picows"
        for name, comparison in COMPARISONS.items()
        if draw_comparison(results, comparison, target / f"{name}.svg")
    }
    if draw_memory(results, target / "benchmark-memory.svg"):
        drawn["benchmark-memory"] = "Memory of an idle connection, by library"
    if draw_connections(results, target / "benchmark-connections.svg"):
        drawn["benchmark-connections"] = "CPU time of a message with 1 to 10,000 connections"
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="the JSON file of run.py")
    parser.add_argument("target", type=Path, help="a directory")
    args = parser.parse_args()
    drawn = draw_all(Results(json.loads(args.results.read_text(encoding="utf-8"))), args.target)
    shown = "\n".join(
        f".. figure:: _static/{name}.svg\n    :alt: {what}\n\n    {what}.\n"
        for name, what in drawn.items()
    )
    (args.target / "charts.inc").write_text(f".. Written by benchmarks/plot.py.\n\n{shown}")
    print(f"{len(drawn)} charts in {args.target}")


if __name__ == "__main__":
    main()

# ruff: noqa: INP001 - a neighbour of the notebooks, and no package
"""The pictures of the notebooks. Ours is always blue, and what was refused is red."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

__all__ = [
    "bars",
    "billed",
    "dots",
    "pools",
    "quota",
    "refusals",
    "requests",
    "shared",
    "stacked",
]

OURS, OTHERS, REFUSED = "#1f6feb", "#98a2b3", "#d1495b"
PALE = {OURS: "#a9c8fb", OTHERS: "#d0d5dd"}
NOTE, GRID = "#667085", "#e4e7ec"

plt.rcParams.update({"figure.dpi": 110, "font.size": 11, "axes.titlelocation": "left"})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})


def bars(values: Mapping[str, float], title: str, unit: str, *, log: bool = False) -> None:
    """Draw one bar a name; names with "(ours)" or of one colour alone are blue."""
    ours = [name for name in values if "(ours)" in name] or list(values)
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(values) + 1.1), layout="constrained")
    drawn = axes.barh(
        list(values), list(values.values()), color=[OURS if n in ours else OTHERS for n in values]
    )
    axes.bar_label(
        drawn, [f"{v:,.0f}" if v >= 100 else f"{v:.1f}" for v in values.values()], padding=4
    )
    for tick, name in zip(axes.get_yticklabels(), values, strict=True):
        if len(ours) < len(values) and name in ours:
            tick.set(color=OURS, fontweight="bold")
    least, most = min(values.values()), max(values.values())
    if log:
        axes.set_xscale("log")
        axes.set_xlim(least / 3, most * 2.5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
    else:
        axes.set_xlim(0, most * 1.12)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.set_title(title)
    plt.show()


def requests(alone: Sequence[Any], batched: Sequence[Any]) -> None:
    """Draw a line a request, from its start to its answer, for both ways."""
    figure, (above, below) = plt.subplots(
        2, sharex=True, figsize=(8, 4), height_ratios=[1, 2.5], layout="constrained"
    )
    ways = [
        (above, alone, OTHERS, f"OpenAIEmbeddings alone: {len(alone)} requests in turn"),
        (below, batched, OURS, f"BatchEmbeddings (ours): {len(batched)} requests at once"),
    ]
    for axes, log, colour, title in ways:
        for row, (start, end, *_) in enumerate(sorted(log)):
            axes.plot([start, end], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        axes.set_title(title, color=colour, fontweight="bold")
        axes.set_ylim(len(log) + 0.5, -1.5)
        axes.set_yticks([])
    below.set_xlabel("seconds since the first request")
    above.set_xlim(left=0)
    plt.show()


def quota(log: Sequence[Any], limit: int, title: str) -> None:
    """Draw the tokens that were sent beside the most that a quota allows, and the requests."""
    passed = sorted((start, charge) for start, _, _, _, charge, *_ in log)
    times = np.array([time for time, _ in passed])
    tokens = np.cumsum([charge for _, charge in passed])
    end = max(row[1] for row in log)
    figure, (above, below) = plt.subplots(
        2, sharex=True, figsize=(8, 6), height_ratios=[3, 2], layout="constrained"
    )
    above.plot([0, end], [limit / 1e6, limit * (1 + end / 60) / 1e6], color=OTHERS, linestyle="--")
    above.step([0, *times, end], np.array([0, *tokens, tokens[-1]]) / 1e6, where="post", color=OURS)
    at = {"textcoords": "offset points", "ha": "center"}
    most = (end * 0.4, limit * (1 + end * 0.4 / 60) / 1e6)
    above.annotate("most that the quota allows", most, (0, 8), color=NOTE, va="bottom", **at)
    sent = (end * 0.62, np.interp(end * 0.62, times, tokens) / 1e6)
    above.annotate(
        "sent by BatchEmbeddings", sent, (0, -14), color=OURS, va="top", fontweight="bold", **at
    )
    above.set_ylabel("million tokens so far")
    above.set_ylim(0, tokens[-1] * 1.12 / 1e6)
    above.set_title(title)
    for row, (start, stop, *_) in enumerate(sorted(log)):
        below.plot([start, stop], [row, row], color=OURS, linewidth=1.5, solid_capstyle="butt")
    below.set_ylim(len(log), -1)
    below.set_ylabel("requests, in the order sent")
    below.set_xlabel("seconds since the first request")
    below.set_xlim(0, end * 1.01)
    plt.show()


def dots(log: Sequence[Any], names: Mapping[str, str], title: str) -> None:
    """Draw a dot a request, in a row for each kind of accident that befell it."""
    good = "good answer"
    kinds = [good, *dict.fromkeys(names.values())]
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for row, kind in enumerate(kinds):
        sent = [start for start, *_, fault in log if names.get(fault, good) == kind]
        colour = OURS if kind == good else REFUSED
        axes.plot(sent, [row] * len(sent), "o", color=colour, alpha=0.6, markersize=7)
        kinds[row] += f": {len(sent)}"
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.set_xlabel("sent, in seconds since the first request")
    axes.set_title(title)
    plt.show()


def refusals(sizes: Sequence[int], title: str) -> None:
    """Draw how many texts each refused request held."""
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    drawn = axes.bar(range(1, len(sizes) + 1), sizes, color=REFUSED)
    axes.bar_label(drawn, padding=2)
    axes.set_xticks(range(1, len(sizes) + 1))
    axes.set_xlabel("refused requests, in order")
    axes.set_ylabel("texts in the request")
    axes.set_ylim(top=max(sizes) * 1.15)
    axes.set_title(title)
    plt.show()


def billed(before: int, again: int, everything: int) -> None:
    """Draw the tokens billed before and after a kill, with a journal and without one."""
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    names = ["with a journal\n(ours)", "without one"]
    axes.barh(names, [before / 1e6] * 2, color=OTHERS)
    axes.barh(names, [again / 1e6, everything / 1e6], left=before / 1e6, color=[OURS, REFUSED])
    white = {"ha": "center", "va": "center", "color": "white"}
    for row, amount in enumerate([again, everything]):
        axes.text(before / 2e6, row, "before the kill", **white)
        axes.text((before + amount / 2) / 1e6, row, "rerun", **white)
        axes.text((before + amount) / 1e6, row, f"  {(before + amount) / 1e6:.2f}", va="center")
    axes.axvline(everything / 1e6, color="black", linewidth=1, linestyle=":")
    axes.text(everything / 1e6, -0.5, f"each text once: {everything / 1e6:.2f}", ha="right")
    axes.invert_yaxis()
    axes.set_xlim(right=(before + everything) * 1.1 / 1e6)
    axes.set_xlabel("million tokens billed")
    plt.show()


def stacked(ways: Mapping[str, tuple[float, float]], title: str) -> None:
    """Draw seconds of embedding and of writing behind each other; the last way is ours."""
    colours = [OTHERS] * (len(ways) - 1) + [OURS]
    first, second = (list(part) for part in zip(*ways.values(), strict=True))
    figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
    axes.barh(list(ways), first, height=0.6, color=colours)
    axes.barh(list(ways), second, height=0.6, left=first, color=[PALE[c] for c in colours])
    for row, (embedding, writing) in enumerate(ways.values()):
        label = f"  {embedding:.1f} s embedding (dark)\n  {writing:.1f} s writing (pale)"
        axes.text(embedding + writing, row, label, va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, max(map(sum, ways.values())) * 1.45)
    axes.set_xlabel("seconds")
    axes.set_title(title)
    plt.show()


def pools(seen: Sequence[tuple[float, int, int]], finish_by: float, title: str) -> None:
    """Draw texts done over time: in the Batch API at half price, and by ordinary requests."""
    seconds, half, full = zip(*seen, strict=True)
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    labels = ["Batch API, half price", "ordinary requests, full price"]
    axes.stackplot(seconds, half, full, labels=labels, colors=[OURS, OTHERS], step="post")
    axes.set_ylim(0, (half[-1] + full[-1]) * 1.2)
    axes.axvline(finish_by, color="black", linewidth=1, linestyle=":")
    axes.text(finish_by, axes.get_ylim()[1], "finish_by ", ha="right", va="top")
    axes.set_xlim(0, finish_by * 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("seconds")
    axes.set_ylabel("texts done")
    axes.legend(loc="upper left", frameon=False)
    axes.set_title(title)
    plt.show()


def shared(logs: Mapping[str, Sequence[Any]], rate: float, title: str) -> None:
    """Draw what a quota of `rate` tokens a second let through and refused, a panel a way."""
    step = 0.25
    figure, panels = plt.subplots(
        len(logs), sharex=True, sharey=True, figsize=(8, 4.6), layout="constrained"
    )
    for axes, (name, log) in zip(panels, logs.items(), strict=True):
        colour = OURS if "(ours)" in name else OTHERS
        edges = np.arange(0, max(row[0] for row in log) + step, step)
        bottom = np.zeros(len(edges) - 1)
        for is_refused, drawn in ((False, colour), (True, REFUSED)):
            rows = [row for row in log if (row[5] == 429) == is_refused]
            tokens, _ = np.histogram(
                [row[0] for row in rows], edges, weights=[row[4] for row in rows]
            )
            heights = tokens / step / 1e3
            axes.bar(edges[:-1], heights, step * 0.9, bottom, align="edge", color=drawn)
            bottom += heights
        axes.axhline(rate / 1e3, color=NOTE, linewidth=1, linestyle="--")
        refused = sum(row[5] == 429 for row in log)
        axes.set_title(f"{name}: {refused} of {len(log)} requests refused", color=colour)
    end = panels[-1].get_xlim()[1]
    panels[-1].text(end, rate / 1e3, "the quota", color=NOTE, ha="right", va="bottom")
    panels[-1].set_xlabel("seconds since the first request; red: refused")
    figure.supylabel("thousand tokens a second", fontsize="medium")
    figure.suptitle(title)
    plt.show()

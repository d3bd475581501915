"""Pictures of results: how rounds are spread, where the time goes, how it grows. With matplotlib, which is optional.

Draws whatever a scenario gives as JSON (Contest.as_json): every contest has rounds, some have "steps", "stepwise" or
"growth". Refuses to know any scenario.
"""

import math
import os
import textwrap
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from bench.measure import quartiles

FLOOR, OURS = "floor", "nsnet"
# The floor is grey in all pictures, nsnet is the one strong colour, and a peer has the same in all.
COLOURS = {FLOOR: "#8a8a8a", OURS: "#c8442e", "pyroute2": "#3b6ea5", "ip": "#5a9bd4", "hooks": "#7fb069",
           "cni": "#b58db6", "netavark": "#e0a458", "unshare": "#4f9d9d"}
OTHER = "#6f8f72"
WIDE = 9.0              # inches
DPI = 100
LOGARITHMIC = 8         # from that ratio of the slowest to the quickest on
LONG, WRAPPED = 58, 68  # characters: of a label, and of a title's line


class NoPlots(Exception):
    """matplotlib is not here."""


def draw(results: Mapping[str, Dict[str, Any]], directory: str) -> Dict[str, List[str]]:
    """The names of the PNG files in `directory` by scenario. Raises NoPlots."""
    plt = load()
    os.makedirs(directory, exist_ok=True)
    made: Dict[str, List[str]] = {}
    for name, result in results.items():
        pictures = [("rounds", _rounds(plt, result))]
        if result.get("steps"):
            pictures.append(("steps", _steps(plt, result)))
        if result.get("growth"):
            pictures.append(("growth", _growth(plt, result)))
        for kind, figure in pictures:
            file = f"{name}-{kind}.png"
            figure.savefig(os.path.join(directory, file), dpi=DPI, metadata={"Software": None})
            plt.close(figure)
            made.setdefault(name, []).append(file)
    return made


def load() -> Any:
    """matplotlib's pyplot, which needs no display."""
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise NoPlots(f"plots need matplotlib: pip install '.[bench]' ({error})") from None
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
                         "axes.grid": True, "grid.color": "#e4e4e4", "axes.titlesize": 9, "axes.titleweight": "bold",
                         "axes.titlelocation": "left", "figure.constrained_layout.use": True})
    return plt


def colour(label: str) -> str:
    return COLOURS.get(label.partition(":")[0], OTHER)


def _short(label: str) -> str:
    return label if len(label) <= LONG else label[:LONG - 1] + "…"


# --- how rounds are spread ---

def _rounds(plt: Any, result: Mapping[str, Any]) -> Any:
    """A box for each contestant: quartiles, and a line from the quickest round to nine tenths; a panel a task."""
    tasks = [(task, labels) for task, labels in _tasks(result)]
    slowest = max(line["median"] for line in result["lines"])
    divisor, unit = 1, result["unit"]
    if unit == "microseconds" and slowest > 2000:
        divisor, unit = 1000, "milliseconds"
    heights = [len(labels) + 1.2 + 0.4 * (len(task) // WRAPPED) for task, labels in tasks]
    figure, panels = plt.subplots(len(tasks), 1, figsize=(WIDE, 0.9 + 0.29 * sum(heights)), squeeze=False,
                                  gridspec_kw={"height_ratios": heights})
    figure.suptitle(result["title"], x=0.01, ha="left", fontsize=11)
    for (task, labels), axes in zip(tasks, panels[:, 0]):
        rounds = [[taken / divisor for taken in result["rounds"][f"{task}: {label}"]] for label in labels]
        places = list(range(len(labels), 0, -1))
        for place, label, one in zip(places, labels, rounds):
            _box(axes, place, sorted(one), colour(label))
        axes.set_yticks(places, [_short(label) for label in labels])
        axes.set_title(textwrap.fill(task, WRAPPED))
        axes.grid(axis="y", visible=False)
        if max(map(_high, rounds)) > LOGARITHMIC * min(map(min, rounds)):
            _logarithmic(axes.xaxis)
        else:
            axes.set_xlim(left=0)
    panels[-1, 0].set_xlabel(f"{unit} (boxes: quartiles; lines: from the quickest round to nine tenths of them)")
    return figure


def _tasks(result: Mapping[str, Any]) -> List[Tuple[str, List[str]]]:
    found: Dict[str, List[str]] = {}
    for line in result["lines"]:
        found.setdefault(line["task"], []).append(line["name"])
    return list(found.items())


def _high(rounds: Sequence[float]) -> float:
    """What nine tenths stay below: the rest is somebody else's doing."""
    return sorted(rounds)[math.ceil(0.9 * (len(rounds) - 1))]


def _box(axes: Any, place: int, ordered: Sequence[float], filled: str) -> None:
    """Drawn by hand: boxplot() changes its words from version to version."""
    spread = quartiles(ordered)
    axes.plot((ordered[0], _high(ordered)), (place, place), color="#404040", linewidth=0.9, zorder=2)
    axes.barh(place, spread.high - spread.low, left=spread.low, height=0.62, color=filled, edgecolor="#404040",
              linewidth=0.8, zorder=3)
    axes.plot((spread.median, spread.median), (place - 0.31, place + 0.31), color="black", linewidth=1.4, zorder=4)


def _logarithmic(axis: Any) -> None:
    """With plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


# --- where the time goes ---

def _steps(plt: Any, result: Mapping[str, Any]) -> Any:
    """Bars of medians, one on the other: those that share their steps' names; below, one step at a time."""
    alone = result.get("stepwise") or {}
    counts = [len(result["steps"]), *(1 for _ in alone)]
    figure, panels = plt.subplots(len(counts), 1, figsize=(WIDE, 1.6 + 0.62 * sum(counts) + 0.9 * len(alone)),
                                  squeeze=False, gridspec_kw={"height_ratios": [count + 0.6 for count in counts]})
    figure.suptitle(result["title"] + ": where the time goes, microseconds, medians of each step", x=0.01, ha="left",
                    fontsize=11)
    _bars(plt, panels[0, 0], result["steps"], "tab10")
    for axes, (label, steps) in zip(panels[1:, 0], alone.items()):
        _bars(plt, axes, {label: steps}, "tab20")
    return figure


def _bars(plt: Any, axes: Any, steps: Mapping[str, Mapping[str, Sequence[float]]], palette: str) -> None:
    names = list(dict.fromkeys(name for taken in sorted(steps.values(), key=len, reverse=True) for name in taken))
    labels = list(steps)
    starts = [0.0] * len(labels)
    for number, name in enumerate(names):
        widths = [_median(steps[label].get(name, [0.0])) for label in labels]
        bars = axes.barh(range(len(labels)), widths, left=starts, height=0.62, label=name, edgecolor="white",
                         linewidth=0.6, color=plt.get_cmap(palette)(number))
        whole = max(sum(_median(taken) for taken in steps[label].values()) for label in labels)
        axes.bar_label(bars, [f"{width:.0f}" if width > 0.028 * whole else "" for width in widths], label_type="center",
                       fontsize=7.5)
        starts = [start + width for start, width in zip(starts, widths)]
    axes.set_yticks(range(len(labels)), [_short(label).replace(": ", ":\n", 1) for label in labels])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.42, -0.12 if len(labels) > 1 else -0.28), ncol=8, frameon=False,
                fontsize=7.5, handlelength=1, columnspacing=1.0)


def _median(values: Sequence[float]) -> float:
    return quartiles(values).median


# --- how it grows ---

def _growth(plt: Any, result: Mapping[str, Any]) -> Any:
    """Microseconds for one of n, medians with quartiles."""
    figure, axes = plt.subplots(figsize=(WIDE, 4.2))
    axes.set_title(result["title"] + ": how it grows")
    numbers = set()
    for side, points in result["growth"].items():
        ordered = sorted((int(number), values) for number, values in points.items())
        numbers.update(number for number, _ in ordered)
        axes.plot([number for number, _ in ordered], [_median(values) for _, values in ordered], marker="o",
                  markersize=4, color=colour(side), label=side)
        axes.fill_between([number for number, _ in ordered], [quartiles(values).low for _, values in ordered],
                          [quartiles(values).high for _, values in ordered], color=colour(side), alpha=0.18,
                          linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(sorted(numbers), [str(number) for number in sorted(numbers)])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    if high > LOGARITHMIC * max(low, 1e-9):
        _logarithmic(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("how many")
    axes.set_ylabel("microseconds for one of them")
    axes.legend(frameon=False)
    return figure

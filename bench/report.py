"""RESULTS.md: everything that one run measured, as a document. Made of the same JSON that `--json` writes.

Knows Markdown, and the parts that a result can have (see contest.Contest). Refuses to know any scenario: what nsnet
must show, they say themselves, or shown.py.
"""

from typing import Any, List, Mapping, Sequence

from bench import shown
from bench.measure import Spread, brief, quartiles

COMMAND = "unshare -n python -m bench all --peers all --report bench/RESULTS.md"
SHOWN = 14              # system calls by name; the others are added up


def document(content: Mapping[str, Any], pictures: Mapping[str, Sequence[str]], directory: str) -> str:
    """`content`: of --json; `pictures`: file names by scenario, in `directory`, as the document links them."""
    results = content["results"]
    parts = ["# What network namespaces cost", _preface(content), "## What nsnet must show", _musts(results),
             "## The machine", _table(["", ""], [[topic, said] for topic, said in content["machine"].items()])]
    parts += [f"- **not measured**: {name}: {why}" for name, why in content.get("failed", {}).items()]
    for name, result in results.items():
        parts += [f"## {result['title']}", *_result(result),
                  *(f"![{name}]({directory}/{file})" for file in pictures.get(name, ()))]
    return "\n\n".join(filter(None, parts)) + "\n"


def _preface(content: Mapping[str, Any]) -> str:
    seconds = sum(content["seconds"].values())
    return (f"nsnet {content['nsnet']}, {content['date']}, in {seconds / 60:.0f} minutes. Written by"
            f" `{content['command']}`; the full one is `{COMMAND}`.\n\n"
            "All of one table was measured in turns, in the same minutes, so its ratios are what to believe; figures are"
            " medians with quartiles. *To floor* is how many times as long"
            " as the floor it took: C over raw netlink, compiled on the spot, the first line of each group.")


def _musts(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[one["what"], one["wanted"], one["measured"], "yes" if one["met"] else "**no**"]
            for one in shown.lines(results)]
    return _table(["what", "wanted", "measured", "met?"], rows) if rows else ""


def _result(result: Mapping[str, Any]) -> List[str]:
    counts = sorted({len(rounds) for rounds in result["rounds"].values()})
    return [f"{result['unit'].capitalize() if result['unit'].islower() else result['unit']}, medians of"
            f" {' or '.join(map(str, counts))} rounds.", _places(result["lines"]),
            _steps("Where the time goes, step by step:", result.get("steps") or {}),
            _steps("The same, one request at a time:", result.get("stepwise") or {}),
            _growth(result.get("growth") or {}), _calls(result.get("system_calls") or {}), _missing(result["missing"]),
            "\n".join(f"- {note}" for note in result["notes"])]


def _places(lines: Sequence[Mapping[str, Any]]) -> str:
    rows, task = [], None
    for line in lines:
        if line["task"] != task:
            task = line["task"]
            rows.append(["", "", "", "", f"**{task}**"])
        spread = Spread(line["low"], line["median"], line["high"])
        rows.append([_ratio(line["ratio_to_floor"]), _ratio(line["ratio_to_nsnet"]), brief(spread.median),
                     f"{brief(spread.low)}–{brief(spread.high)}", line["name"]])
    return _table(["to floor", "to nsnet", "median", "quartiles", ""], rows, numbers=4)


def _steps(heading: str, steps: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A column for each contestant."""
    if not steps:
        return ""
    names = list(dict.fromkeys(name for taken in sorted(steps.values(), key=len, reverse=True) for name in taken))
    rows = [[name, *(brief(quartiles(taken[name]).median) if name in taken else "" for taken in steps.values())]
            for name in names]
    return f"{heading}\n\n" + _table(["step", *steps], rows)


def _growth(growth: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A row for each n."""
    if not growth:
        return ""
    numbers = sorted({int(number) for points in growth.values() for number in points})
    rows = [[str(number), *(str(quartiles(points[str(number)])) if str(number) in points else ""
                            for points in growth.values())] for number in numbers]
    return "Microseconds for one of n:\n\n" + _table(["n", *growth], rows)


def _calls(calls: Mapping[str, Mapping[str, Any]]) -> str:
    """By side, and by name of those that nsnet makes most often."""
    if not calls:
        return ""
    names = sorted({name for side in calls.values() for name in side["by_name"]},
                   key=lambda name: (-max(side["by_name"].get(name, 0) for side in calls.values()), name))
    rows = [["parent's", *(str(side["parent"]) for side in calls.values())],
            ["child's", *(str(side["children"]) for side in calls.values())]]
    rows += [[f"`{name}`", *(str(side["by_name"].get(name, "")) for side in calls.values())] for name in names[:SHOWN]]
    others = [str(sum(side["by_name"].get(name, 0) for name in names[SHOWN:])) for side in calls.values()]
    if names[SHOWN:]:
        rows.append([f"{len(names) - SHOWN} others", *others])
    return "System calls of one round, counted by strace:\n\n" + _table(["", *calls], rows)


def _missing(missing: Mapping[str, str]) -> str:
    return "\n".join(f"- missing: {name}: {why}" for name, why in missing.items())


def _ratio(ratio: Any) -> str:
    return "" if ratio is None else brief(ratio) if ratio >= 10 else f"{ratio:.2f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """`numbers`: so many columns are right-aligned."""
    lines = [heads, ["---:" if at < numbers else "---" for at in range(len(heads))], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

#!/usr/bin/env python3
"""Gathers the drivers' lines into results.json, a Markdown table and one plot.

    report.py add JSON LINES     adds a driver's lines to the others; ROUND, PEER, VERSION ... are told in the environment
    report.py write LINES DIR    writes results.json, results.md and results.svg
"""

import json
import os
import pathlib
import statistics
import sys
import time
from html import escape

# Of these the median of all runs counts; the rest is as the first run says it.
MEASURED = ("tasks_per_s", "p50_ms", "p99_ms")
# Where more foreign processes than this ran meanwhile, on average, the figure says little.
OTHERS_MAX = 0.2


def add(source, lines):
    """Adds what a driver printed: one line, or two from Jetlane's."""
    told = [json.loads(line) for line in pathlib.Path(source).read_text().splitlines() if line.startswith("{")]
    if not told:
        sys.exit("the driver printed no line of JSON")
    known = {name: os.environ[name.upper()] for name in ("peer", "version", "store", "power_cut")}
    known |= {"round": int(os.environ["ROUND"]), "position": os.environ["POSITION"]}
    known |= {"others": float(os.environ["OTHERS"]), "nice": int(os.environ["NICE"])}
    with open(lines, "a", encoding="utf-8") as out:
        for line in told:
            out.write(json.dumps(known | line) + "\n")
            print("  {peer}: {tasks_per_s:.0f} tasks/s, p50 {p50_ms:.3f} ms, p99 {p99_ms:.3f} ms, {lost} lost, {doubled} "
                  "doubled".format(**(known | line)), file=sys.stderr)


def medians(lines):
    """One row a peer: medians over its runs, sums of what was lost; fastest first, skipped ones last."""
    runs = {}
    for line in lines:
        runs.setdefault(line["peer"], []).append(line)
    rows = []
    for peer, told in runs.items():
        measured = [line for line in told if "skipped" not in line]
        failed = [line["skipped"] for line in told if "skipped" in line]
        if not measured:
            rows.append({"peer": peer, "skipped": failed[0]})
            continue
        row = dict(measured[0])
        for name in MEASURED:
            row[name] = round(statistics.median(line[name] for line in measured), 3)
        row |= {name: sum(line[name] for line in measured) for name in ("lost", "doubled")}
        row["runs"] = [{name: line[name] for name in ("round", "position", "others", "nice", *MEASURED)}
                       for line in measured]
        row["failed_runs"] = failed
        for name in ("round", "position", "others", "nice"):
            row.pop(name)
        rows.append(row)
    return sorted(rows, key=lambda row: -row.get("tasks_per_s", 0))


def ms(value):
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def machine():
    """What the figures hold for."""
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} cores, {memory:.0f} GiB, {time.strftime('%Y-%m-%d')}. Compare only within one run."


def table(rows):
    """The Markdown table, and below it what was skipped."""
    head = ("peer", "version", "tasks/s", "range", "p50 ms", "p99 ms", "latency until", "client hears", "lost", "doubled",
            "store", "a power cut may take", "settings")
    counts = sorted({row["tasks"] for row in rows if "skipped" not in row}, reverse=True)
    text = [f"No-op tasks of 200 bytes, {' or '.join(f'{count:,}' for count in counts) or 'no'} a run; {machine()}", ""]
    text += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        if "skipped" in row:
            continue
        rates = [run["tasks_per_s"] for run in row["runs"]]
        spread = f"{min(rates):,.0f}–{max(rates):,.0f}" if len(rates) > 1 else ""
        cells = (row["peer"], row["version"], f"{row['tasks_per_s']:,.0f}", spread, ms(row["p50_ms"]), ms(row["p99_ms"]),
                 row["latency_until"], "yes" if row["hears_result"] else "no", row["lost"], row["doubled"], row["store"],
                 row["power_cut"], row["settings"])
        text.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    text.append("")
    for row in rows:
        for why in [row["skipped"]] if "skipped" in row else row["failed_runs"]:
            text.append(f"- {row['peer']}: skipped: {why}")
        runs = row.get("runs", [])
        others = max((run["others"] for run in runs), default=0)
        if others > OTHERS_MAX:
            text.append(f"- {row['peer']}: disturbed: {others:.1f} foreign processes ran meanwhile, on average")
    return "\n".join(text).rstrip() + "\n"


def bars(rows, left, title, value, text, shade):
    """One column of horizontal bars as SVG elements."""
    width, top, step, most = 300, 70, 26, max(value(row) for row in rows)
    yield f'<text x="{left}" y="46" font-weight="bold">{escape(title)}</text>'
    for at, row in enumerate(rows):
        y, long = top + at * step, max(1, width * value(row) / most)
        yield f'<rect x="{left}" y="{y}" width="{long:.1f}" height="16" fill="{shade(row)}"/>'
        yield f'<text x="{left + long + 5:.1f}" y="{y + 12}" font-size="11">{escape(text(row))}</text>'


def plot(rows):
    """Bars of tasks a second, and of latency: p50, with p99 in words."""
    rows = [row for row in rows if "skipped" not in row]
    height = 100 + 26 * len(rows)
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="1060" height="{height}" font-family="sans-serif" font-size="12">'
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield '<text x="10" y="22" font-size="15" font-weight="bold">No-op tasks of 200 bytes: one producer, one worker</text>'
    if rows:
        def shade(row):
            ours = row["peer"] in ("jetlane", "bare-broker")
            return "#1f6feb" if ours else "#57ab5a" if row["hears_result"] else "#b0b8c1"

        for at, row in enumerate(rows):
            yield f'<text x="190" y="{82 + at * 26}" text-anchor="end">{escape(row["peer"])}</text>'
        yield from bars(rows, 200, "tasks/s", lambda row: row["tasks_per_s"], lambda row: f"{row['tasks_per_s']:,.0f}", shade)
        # A root, so that 0.2 ms and 200 ms are both seen.
        yield from bars(rows, 600, "one at a time, p50 / p99 ms (bar: cube root of p50)", lambda row: row["p50_ms"] ** (1 / 3),
                        lambda row: f"{ms(row['p50_ms'])} / {ms(row['p99_ms'])}, until {row['latency_until']}", shade)
    y = height - 12
    legend = (("#1f6feb", "Jetlane, bare broker"), ("#57ab5a", "client hears the result"), ("#b0b8c1", "client hears nothing"))
    for at, (fill, words) in enumerate(legend):
        yield f'<rect x="{200 + at * 190}" y="{y - 11}" width="12" height="12" fill="{fill}"/>'
        yield f'<text x="{217 + at * 190}" y="{y}">{words}</text>'
    yield "</svg>"


def write(source, folder):
    lines = [json.loads(line) for line in pathlib.Path(source).read_text().splitlines()]
    rows = medians(lines)
    folder = pathlib.Path(folder)
    (folder / "results.json").write_text(json.dumps({"rows": rows, "lines": lines}, indent=1) + "\n")
    (folder / "results.md").write_text(table(rows))
    (folder / "results.svg").write_text("\n".join(plot(rows)) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in ("add", "write"):
        {"add": add, "write": write}[sys.argv[1]](*sys.argv[2:])
    else:
        sys.exit(__doc__)

"""The report of a recipe, trained with several seeds: report.html, report.md and the terminal's summary.

`write_seeds_report` takes the verdict that `decision.decide_seeds` made and writes the files at the top
of the folder, or beside the judgements for a further judge; each run's own report is linked, not
repeated. Decides nothing: all figures come from verdict.json.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gemma_lora.report import worth
from gemma_lora.report.charts import forest_reach
from gemma_lora.report.checks import differences, holm_note, power_sentence
from gemma_lora.report.gathering import facts
from gemma_lora.report.markdown import grid, inline, listed, worth_of_the_judge
from gemma_lora.report.terminal import screen
from gemma_lora.report.wording import (
    clean,
    headline,
    interval,
    p_value,
    points,
    score,
    sentence,
    tally,
    warnings,
    whisker,
)
from gemma_lora.report.writing import is_primary, still_page
from gemma_lora.rundir import RunDir, read_saved, write_json, write_text

__all__ = ["recipe_sentence", "seeds_summary", "write_seeds_report"]

_WIDTH = 25
IN_THE_RUNS = (
    "In the runs' own reports, which the names link to: answers side by side, other estimators, stronger baselines, "
    "the judge against itself, general knowledge by category, loss curves and the data check"
)
"""What is told of each run and not of all together."""


@dataclass(frozen=True)
class _Line:
    """One row of the forest plot: a run, or the recipe."""

    name: str
    difference: float
    ci95: Sequence[float] | None
    verdict: str
    base: float | None
    tuned: float | None
    n: int
    lost: str = ""
    """The word on general knowledge."""
    seconds: float | None = None
    link: str | None = None

    @property
    def primary(self) -> bool:
        return self.name == "recipe"


def write_seeds_report(parent: RunDir, verdict: Mapping[str, Any]) -> dict[str, str]:
    """Write report.html, report.md and verdict.json; returns their paths by name."""
    slug, primary = str(verdict["judge"]["slug"]), is_primary(parent, verdict)
    folder = parent.root if primary else parent.judgements(slug)
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = _lines(verdict, folder, parent, slug=None if primary else slug)
    origin = read_saved(parent.provenance) if parent.provenance.exists() else {}
    html, text = folder / "report.html", folder / "report.md"
    rows = differences(verdict)
    ends = [end for row in rows for end in (*(row.ci95 or ()), row.difference or 0.0)]
    ends += [end for line in lines for end in (*(line.ci95 or ()), line.difference)]
    data_name = Path(str(origin.get("data", {}).get("file") or "")).name
    page = still_page(
        "seeds.html.j2",
        v=verdict,
        lines=lines,
        headline=headline(verdict),
        recipe=recipe_sentence(verdict),
        sentence=sentence(verdict),
        tally=tally(verdict),
        components=component_sentences(verdict),
        in_the_runs=IN_THE_RUNS,
        warnings=warnings(verdict),
        differences=rows,
        reach=forest_reach(ends),
        holm_note=holm_note(verdict),
        power=power_sentence(verdict),
        worth=worth,
        provenance=origin,
        data_name=data_name,
        written=written,
    )
    write_text(html, page)
    write_text(text, _markdown(verdict, lines, origin, written))
    write_json(folder / "verdict.json", dict(verdict))
    return {
        "report": str(html),
        "report_md": str(text),
        "verdict_file": str(folder / "verdict.json"),
    }


def _line(run: Mapping[str, Any], seconds: float | None = None, link: str | None = None) -> _Line:
    return _Line(
        f"seed {run['seed']}",
        run["difference"],
        run["ci95"],
        run["verdict"],
        run["base_mean"],
        run["tuned_mean"],
        run["n"],
        (run["forgetting"] or {}).get("verdict", "not measured"),
        seconds,
        link,
    )


def _lines(
    verdict: Mapping[str, Any], folder: Path, parent: RunDir, *, slug: str | None
) -> list[_Line]:
    found: list[_Line] = []
    for run in verdict["seeds"]["runs"]:
        own = parent.root / run["folder"]
        report = (own if slug is None else own / "judgements" / slug) / "report.html"
        found.append(
            _line(run, run["training_seconds"], Path(os.path.relpath(report, folder)).as_posix())
        )
    return [*found, _recipe_line(verdict)]


def _recipe_line(verdict: Mapping[str, Any]) -> _Line:
    p = verdict["primary"]
    return _Line(
        "recipe",
        p["difference"],
        p["ci95"],
        verdict["verdict"],
        p["base_mean"],
        p["tuned_mean"],
        p["n"],
    )


# ---------------------------------------------------------------------- words


def recipe_sentence(verdict: Mapping[str, Any]) -> str:
    """The result on one line: mean difference with its interval, and how far seeds differ."""
    primary, seeds = verdict["primary"], verdict["seeds"]
    return (
        f"The recipe, over {seeds['count']} training seeds: {points(primary['difference'])} "
        f"({interval(primary['ci95']) if primary['ci95'] else 'no interval'}); "
        f"seeds differ by {seeds['seed_deviation']:.2f}."
    )


def component_sentences(verdict: Mapping[str, Any]) -> list[str]:
    """Where the spread and the uncertainty come from."""
    seeds, parts = verdict["seeds"], verdict["seeds"]["components"]
    lines: list[str] = []
    if parts["question"]["share"] is None:
        lines.append("All differences are equal, so there is no spread to divide.")
    else:
        lines.append(
            f"Of the spread between single differences, {parts['question']['share']:.0%} is the question, "
            f"{parts['seed']['share']:.0%} the training seed, and {parts['residual']['share']:.0%} what a "
            "seed does to a single question, with the judge's own noise."
        )
    judge = parts["judge"]
    if judge is not None:
        lines.append(
            f"One judgement of a tuned answer varies by {judge['variance_of_one_judgement'] ** 0.5:.2f} "
            f"(standard deviation over {judge['repeats']} repeats)."
        )
    lines.append(
        f"The recipe's difference varies by {seeds['seed_deviation']:.2f} points from seed to seed "
        "(standard deviation, less what the questions alone make of it)."
    )
    if seeds["share_of_uncertainty"] is not None:
        lines.append(
            f"Of the uncertainty of the mean, {seeds['share_of_uncertainty']:.0%} comes from which seeds "
            f"were drawn; for these {seeds['count']} checkpoints alone the interval would be "
            f"{interval(seeds['ci95_these_seeds'])}."
        )
    return lines


# ---------------------------------------------------------------------- report.md


def _markdown(
    verdict: Mapping[str, Any], lines: Sequence[_Line], origin: Mapping[str, Any], written: str
) -> str:
    parts = [
        f"# Verdict on the recipe: {verdict['verdict']}",
        f"{inline(headline(verdict))}. {inline(recipe_sentence(verdict))}",
        f"{inline(sentence(verdict))} {tally(verdict)}",
        "## What to know before relying on this",
        "\n".join(f"- {inline(text)}" for text in warnings(verdict)) or "Nothing.",
        "## The runs",
        _runs(lines),
        f"{IN_THE_RUNS}.",
        "## Where the spread comes from",
        " ".join(inline(text) for text in component_sentences(verdict)),
        "## Scores of the recipe",
        _scores(verdict),
        inline(holm_note(verdict)),
        inline(power_sentence(verdict)),
        f"Rule: {verdict['rule']}",
        f"Method: {inline(verdict['primary']['method'])}.",
        worth_of_the_judge(verdict),
        "## Where this comes from",
        listed(facts({"judge": verdict["judge"], "model": verdict["model"]})),
        listed(facts(origin)),
        f"Written {written}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _runs(lines: Sequence[_Line]) -> str:
    reach = max([1.0, *(abs(end) for line in lines for end in line.ci95 or ())])
    rows = [
        ["run", "verdict", "base", "tuned", "base better · tuned better", "difference", "95 % interval", "general knowledge"],
        ["---", "---", "--:", "--:", ":-:", "--:", "--:", "---"],
    ]  # fmt: skip
    for line in lines:
        name = f"[{line.name}]({line.link})" if line.link else f"**{line.name}**"
        drawn = f"`{whisker(line.difference, line.ci95, reach, _WIDTH)}`"
        figures = [points(line.difference), interval(line.ci95), line.lost]
        rows.append([name, line.verdict, score(line.base), score(line.tuned), drawn, *figures])
    return grid(rows)


def _scores(verdict: Mapping[str, Any]) -> str:
    rows = [
        ["", "base", "tuned", "difference", "95 % interval", "p", "questions"],
        ["---", "--:", "--:", "--:", "--:", "--:", "--:"],
    ]
    for row in differences(verdict):
        found = verdict["primary"] if row.primary else verdict["dimensions"][row.name]
        name = f"**{row.name}**" if row.primary else row.name
        if found is None:
            rows.append([name, "not measured", "", "", "", "", ""])
            continue
        means = [score(found["base_mean"]), score(found["tuned_mean"])]
        effect = [points(row.difference), interval(row.ci95), inline(p_value(row.p))]
        rows.append([name, *means, *effect, str(found["n"])])
    return grid(rows)


# ---------------------------------------------------------------------- the terminal


def seeds_summary(verdict: Mapping[str, Any], *, width: int = 100, colour: bool = False) -> str:
    """The runs, the recipe's verdict and the warnings, at most about 30 lines."""
    stream = io.StringIO()
    console = screen(stream, width=width, colour=colour)
    console.print(_terminal_table(verdict, plot=width >= 90))
    console.print()
    word = verdict["verdict"]
    style = {"better": "bold green", "worse": "bold red"}.get(word, "bold yellow")
    console.print(
        Text.assemble("verdict on the recipe: ", (word, style), f". {headline(verdict)}.")
    )
    console.print(recipe_sentence(verdict))
    for line in component_sentences(verdict):
        console.print(line)
    lost = verdict["pairs_lost"]
    left = f"; {lost} more lack a score in some run" if lost else ""
    console.print(f"{verdict['primary']['n']} questions compared in every run{left}")
    console.print(power_sentence(verdict, brief=True))
    judge = verdict["judge"]
    note = " (not a language model)" if judge["is_llm"] is False else ""
    beside = worth.attacks_in_brief(verdict)
    console.print(Text(str(clean(f"judge: {judge['name']}{note}; {beside}"))))
    told = [str(clean(text)).replace("\n", " ") for text in warnings(verdict)]
    for text in told[:4]:
        for place, line in enumerate(Text(text).wrap(console, console.width - 2)):
            console.print(Text("  " if place else "! ") + line)
    if len(told) > 4:
        console.print(f"! {len(told) - 4} more warnings are in the report")
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n"))


def _terminal_table(verdict: Mapping[str, Any], *, plot: bool) -> Table:
    lines = [*map(_line, verdict["seeds"]["runs"]), _recipe_line(verdict)]
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("", "verdict", "base", "tuned", "difference", "95 % interval"):
        left = name in ("", "verdict")
        shown.add_column(name, justify="left" if left else "right", no_wrap=True)
    if plot:
        shown.add_column("worse 0 better", justify="center", no_wrap=True)
    reach = max([1.0, *(abs(end) for line in lines for end in line.ci95 or ())])
    for line in lines:
        cells = [line.name, line.verdict, score(line.base), score(line.tuned)]
        cells += [points(line.difference), interval(line.ci95)]
        if plot:
            cells.append(whisker(line.difference, line.ci95, reach, _WIDTH))
        shown.add_row(*cells, style="bold" if line.primary else None)
    return shown

"""docs/statistics.md and its charts, made from the figures of tools/simulate_verdict.py.

The same figures give the same text; no figure in the document is typed by hand. Settings that miss
what is promised are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simulate_verdict import DESIGNS, DISTRIBUTIONS, EQUIVALENT, INNER, LIKE, QUESTIONS, RARE

from gemma_lora.verdict import FEWEST_EQUIVALENT

__all__ = ["COVERAGE", "FALSE", "charts", "most_false", "ordinary", "render"]

COVERAGE = (0.93, 0.97)
FALSE = 0.055

Row = Mapping[str, Any]

_TOP = """# Statistics

How the verdict is computed, what stands beside it, and whether it keeps its promises. The figures from
[there](#does-it-keep-its-promises) on are made by a simulation, none is typed by hand. The rule itself is in
[judging.md](judging.md).

## The interval that decides

Per question, tuned minus base in overall, repeats averaged first. The mean of these differences, with the standard
error CR2 (Bell & McCaffrey 2002) over clusters of near-duplicate questions, and t with Satterthwaite degrees of freedom
under the working model of Imbens & Kolesár (2016), in which questions of a cluster correlate alike. Where all clusters
have one size this is the usual CR1 error with clusters - 1 degrees of freedom, and where every question is alone the
paired t-test. Where all differences are equal there is no spread to estimate from: the interval is the bound of the rule
of three. One question or one cluster: no interval. Fewer than six clusters: `inconclusive` whatever the interval. Where three
differences happen to be 3.0, 3.1 and 3.0, t claims near-certainty from next to nothing, while the exact sign-flip test, which
assumes least, cannot go below 2 / 2^5 = 6.25 % with five. `equivalent` takes 30 ([why](#equivalent-where-it-is-not)).

## What stands beside it

Shown so that the verdict can be checked; none of it decides. Where one does not see what the interval sees, the report
warns. scipy's, unless said otherwise; drawn with the seed of the run, 9,999 times (1,999 above 2,000 clusters).

| in verdict.json, `robustness` | what |
|---|---|
| `bootstrap` | BCa interval (Efron 1987); whole clusters are drawn |
| `sign_flip` | base and tuned of whole clusters swapped at random (Fisher 1935); all swaps where they are 10,000 or fewer |
| `wilcoxon` | signed-rank test of the cluster means, zeros ranked and dropped (Pratt 1959) |
| `win_tie_loss` | exact binomial test of clusters won against lost; share won with Wilson's interval |
| `length_adjusted` | our own: the differences regressed on the difference of log length; the intercept is the difference at equal length, its interval draws clusters and fits anew (BCa) |
| `dimensions` | per dimension: `p_holm`, the p-value after Holm's correction (1979, our own) over the measured ones; `not_worse`, whether the interval lies above -0.5, and the one-sided p-value of it |
| `disagree` | names of those above that do not see what the interval sees |

Length is a result of tuning, not a nuisance apart from it: an answer may be better because it says more. The adjusted
difference describes; it is no correction.

An example of the three objects; what was not measured or has no interval is null, and `note` says why:

```json
{"robustness": {"seed": 0,
  "bootstrap": {"method": "...", "ci95": [2.30, 3.04], "resamples": 9999, "note": null},
  "sign_flip": {"p_value": 0.0002, "resamples": 9999, "exact": false, "note": null},
  "wilcoxon": {"method": "...", "p_value": 1e-12, "n": 74, "zeros": 5, "exact": false, "note": null},
  "win_tie_loss": {"unit": "cluster", "win": 68, "tie": 5, "loss": 1, "p_value": 1e-19, "win_share": 0.99, "win_share_ci95": [0.92, 1.0]},
  "length_adjusted": {"difference": 2.93, "ci95": [2.30, 3.50], "points_per_doubling": -0.13, "points_per_doubling_ci95": [-0.4, 0.2], "n": 77, "note": null},
  "dimensions": {"accuracy": {"p_holm": 1e-18, "not_worse": true, "not_worse_p": 1e-24, "lower": 2.25, "margin": 0.5}, "fluency": null},
  "disagree": []},
 "missing": {"questions": 80, "pairs_lost": 3, "share": 0.0375, "base_only": 1, "tuned_only": 2, "both": 0, "test": "...", "p_value": 1.0,
  "bounds": [2.42, 2.76], "bounds_ci95": [1.96, 3.15], "must_agree": false, "verdict_without": "better", "verdict_at_bounds": "better"},
 "power": {"basis": "observed", "n": 77, "clusters": 74, "alpha": 0.05, "power": 0.8, "deviation": 1.69, "minimum_detectable": 0.55,
  "margin": 0.5, "questions_for_margin": 92, "note": null}}
```

## Judgements that are missing

A failed judgement is missing, never a low score. Two things are looked at. *Do the arms fail alike?* The exact McNemar test
compares the questions where only one arm failed. (Fisher's test takes the arms for independent; but they answer the same
questions, and what makes a judgement fail is often the question.) *What could the missing scores hide?* Manski's bounds: the
mean difference over all questions, had every missing score been the worst, or the best, for the tuned model; with the
outer ends of the intervals at both.

Where judgements failed in more than 5 % of the questions, or the test gives p < 0.05, the rule has to give the same word for
the interval over both bounds. With `--repeats` a question with one failed repeat counts there, too, and only that repeat is
filled in: what made it fail may be what it would have said. If it does not, the verdict is `inconclusive`, and the first warning says so. This holds for
`better`, `worse` and `equivalent`: the last one passes `--require not-worse`. Else the bounds are only reported.

## Power

Before judging, one line says which differences the test questions can show: those noticed four times in five by the t-test at
5 % (noncentral t). The standard deviation of the differences is that of an earlier verdict of this judge in this run, else
the largest that other language models gave, else 2.0 is assumed; the line says which. Near-duplicates are taken to differ
alike, as one question would, unless the spread was seen on these very questions. One group of near-duplicates can show nothing; from two
to five the verdict is `inconclusive` whatever the scores, and the line says so; where one group outweighs the others, it says what the
questions are worth (n² / sum of squared sizes, Kish 1965). Afterwards `power` holds the same from the error that was observed, near-duplicates and all.

## Over several training seeds

`run --seeds 3` trains the recipe three times and asks all three the same questions: a table of tuned-minus-base
differences, questions by seeds, of which only full rows count. The mean has two errors. *Over questions*: the interval
above, of the rows' means. *Over seeds*: the columns' means share the questions, so what they differ by is the seed and the
interplay; t with seeds - 1 degrees of freedom. Both distances are squared and added (MOVER, Zou & Donner 2008, after Howe
1974); the interplay is counted in both, as in Clark's min F' (1973). The rule is applied to this interval, and each run keeps its own
verdict, which is on its checkpoint. Where scores are missing, the bounds and the test of unequal failure are taken over all
cells; the bounds have to agree where they would in one run, and where they had to in one of these.

`verdict.json` has `seeds`: the runs with their differences and verdicts; `components`, the variances of one question's
difference by question, training seed, and the rest with the judge's noise (method of moments for two crossed random
factors, Searle, Casella & McCulloch 1992; the judge's own from its repeats); `seed_deviation`, what seeds differ by; and
`share_of_uncertainty`, the seed's part in the squared error of the mean. With three seeds the spread between them is
known badly, and t says so with 4.3 standard errors: where seeds differ, the interval is wide, and more seeds narrow it
more than more questions do. The number of seeds is best fixed beforehand; adding runs later is allowed, and a warning
then says that it was done.

`power` of a recipe is the true difference that this interval tells from 0 four times in five, put together as the interval is:
what the questions alone and the seeds alone would notice, squared and added. In a test with three seeds that differ by 0.05 or 0.3 it
is noticed at least about so often. `deviation` and `questions_for_margin` are null there, since more questions do not
take away what seeds differ by.

`compare` uses the same estimators for tuned minus tuned of two runs, paired by question, with both recipes' seed errors
added where there are several seeds, also to the bounds where scores are missing, and Holm's correction over all pairs.
Questions that are near-duplicates in either run share a cluster.
"""

_METHOD = """## How it is simulated

`tools/simulate_verdict.py` draws data sets whose truth is known and puts them through the functions of the verdict:

<!-- not run: make -->
```bash
make simulation            # all figures, page and charts anew
make simulation SIMULATION=--quick
```
"""


def render(found: Mapping[str, Any]) -> str:
    """The whole document."""
    parts = [
        _TOP,
        "## Does it keep its promises?\n",
        _promises(found["intervals"]),
        _intervals(found["intervals"]),
        _checks(found["checks"]),
        _missing(found["missing"]),
        _repeats(found["repeats"]),
        _equivalence(found["equivalence"]),
        _power(found["power"]),
        _seeds(found["seeds"]),
        _METHOD,
        _settings(found),
    ]
    return "\n".join(parts)


def charts(found: Mapping[str, Any]) -> dict[str, str]:
    """File name to SVG."""
    curves = {
        f"{n} questions": [
            (row["difference"], row["better"]) for row in found["power"] if row["n"] == n
        ]
        for n in QUESTIONS
    }
    lost = {
        "without the bounds": [(r["share"], r["naive"]) for r in found["missing"] if r["n"] == 200],
        "with them": [(r["share"], r["guarded"]) for r in found["missing"] if r["n"] == 200],
    }
    return {
        "statistics-power.svg": curve_chart(
            curves, "How often a true difference is called better", "true difference in points"
        ),
        "statistics-missing.svg": curve_chart(
            lost,
            "better is called though it is false (200 questions)",
            "share of the worst answers lost",
        ),
    }


def ordinary(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["distribution"] not in RARE]


def most_false(row: Row) -> float:
    """5.5 %, and what chance adds among so many data sets (two standard errors)."""
    return FALSE + 2 * (FALSE * (1 - FALSE) / row["draws"]) ** 0.5


def _promises(rows: Sequence[Row]) -> str:
    low, high = COVERAGE
    usual = ordinary(rows)
    below = [row for row in usual if row["coverage"] < low]
    above = [row for row in usual if row["coverage"] > high]
    silent = [row for row in usual if row["false"] is not None]
    loud = [row for row in silent if row["false"] > most_false(row)]
    noise = max(1.96 * (0.05 * 0.95 / row["draws"]) ** 0.5 for row in usual)
    within = len(usual) - len(below) - len(above)
    worst = max(row["false"] for row in silent)
    mean = sum(row["false"] for row in silent) / len(silent)
    lines = [
        f"Promised: 95 % intervals that hold the truth in 93 to 97 % of cases, and `better` or `worse` claimed "
        f"in at most 5.5 % where there is no difference. {len(usual)} settings of ordinary scores, "
        f"{min(row['draws'] for row in usual):,} data sets each (chance moves a share by ±{noise:.1%}):",
        "",
        f"- Coverage is within 93 to 97 % in {within} of {len(usual)} settings, from "
        f"{min(row['coverage'] for row in usual):.1%} to {max(row['coverage'] for row in usual):.1%}.",
        f"- Below 93 %: {_named(below, 'coverage')}.",
        f"- Above 97 %, so more careful than promised: {_named(above, 'coverage')}.",
        f"- Claims without a difference: {mean:.1%} on average, {worst:.1%} at the most. Above 5.5 % by more than "
        f"chance (two standard errors): {_named(loud, 'false')}.",
        "",
        _rare(rows),
        "",
    ]
    return "\n".join(lines)


def _rare(rows: Sequence[Row]) -> str:
    """What no interval can do."""
    plain = [r for r in rows if r["design"] == "alone" and not r["lost"]]
    held = [f"{r['coverage']:.0%} with {r['n']}" for r in plain if r["distribution"] == "disasters"]
    false = [
        f"{r['false_better']:.0%} with {r['n']}" for r in plain if r["distribution"] == "ruined"
    ]
    return (
        "**Where it fails.** If tuning helps a little nearly everywhere and ruins one answer in fifty, a small sample "
        "may hold no ruined answer at all, and no interval can know of it: the truth is held in "
        f"{_and(held)} questions (`disasters` below), and where the ruined answers just undo what the others "
        f"gain, `better` is claimed in {_and(false)} (`ruined`). More questions are the only remedy; the list of "
        "answers with the greatest loss is where to look."
    )


def _and(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _named(rows: Sequence[Row], figure: str) -> str:
    if not rows:
        return "none"
    told: dict[str, list[str]] = {}
    for row in rows:
        lost = f", {row['lost']:.0%} lost" if row["lost"] else ""
        effect = ", with a difference" if row["effect"] else ""
        place = f"{row['distribution']}, {row['design']}"
        told.setdefault(place, []).append(f"n = {row['n']}{lost}{effect}: {row[figure]:.1%}")
    return "; ".join(f"{place} ({', '.join(each)})" for place, each in told.items())


def _intervals(rows: Sequence[Row]) -> str:
    blocks: list[str] = []
    for name, words in DISTRIBUTIONS.items():
        mine = [row for row in rows if row["distribution"] == name]
        table = [
            ["clusters", "questions", "lost", "true difference", "coverage", "CR1 would", "claims"],
            ["---", "--:", "--:", "--:", "--:", "--:", "--:"],
        ]
        for row in mine:
            false = row["false"] if row["truth"] == 0 else None
            table.append(
                [
                    row["design"],
                    str(row["n"]),
                    f"{row['lost']:.0%}" if row["lost"] else "–",
                    f"{row['truth']:+.2f}" if row["truth"] else "0",
                    f"{row['coverage']:.1%}",
                    f"{row['cr1']:.1%}",
                    "" if false is None else f"{false:.1%}",
                ]
            )
        blocks.append(f"### {name.capitalize()}: {words}\n\n{_table(table)}\n")
    first = (
        "Coverage of the interval; “CR1 would” is that of the CR1 error with clusters - 1 degrees of freedom, which is "
        "common and claims too much where clusters differ in size; “claims” is how often 0 lies outside where the truth is 0. “Lost” "
        "judgements are missing at random, in each arm apart.\n"
    )
    return "\n".join([first, *blocks])


def _checks(rows: Sequence[Row]) -> str:
    names = {
        "bootstrap": "bootstrap",
        "sign_flip": "sign flips",
        "wilcoxon": "Wilcoxon",
        "sign_test": "sign test",
        "length": "equal length",
    }
    table = [
        ["scores", "clusters", "questions", *names.values()],
        ["---", "---", "--:", *["--:"] * len(names)],
    ]
    for row in rows:
        shares = [f"{row[name]:.1%}" for name in names]
        table.append([row["distribution"], row["design"], str(row["n"]), *shares])
    worst = {name: max(row[name] for row in rows) for name in names}
    loud = [f"{names[name]} up to {share:.1%}" for name, share in worst.items() if share > 0.07]
    said = (
        f"More than chance explains: {', '.join(loud)}. "
        "This is mostly with few questions or clusters, for which their theory is not made; they do not decide."
        if loud
        else "None claims more than chance explains."
    )
    return (
        "## The other estimators\n\nHow often each claims a difference at 5 % where there is none "
        f"({rows[0]['draws']:,} data sets each, {INNER} draws inside). {said}\n\n{_table(table)}\n"
    )


def _missing(rows: Sequence[Row]) -> str:
    table = [
        ["questions", "lost", "`better` without bounds", "`better` with them", "bounds had to agree", "they hold the truth"],
        ["--:", "--:", "--:", "--:", "--:", "--:"],
    ]  # fmt: skip
    for row in rows:
        table.append(
            [str(row["n"]), f"{row['share']:.0%}"]
            + [f"{row[name]:.1%}" for name in ("naive", "guarded", "must_agree", "held")]
        )
    worst = max(rows, key=lambda row: row["naive"])
    most = max(row["guarded"] for row in rows if row["must_agree"] == 1)
    quiet = max(row["guarded"] for row in rows if row["must_agree"] < 1 and row["share"])
    return (
        "## Judgements missing for a reason\n\nBoth models are equally good, but the tuned model's worst answers make the "
        "judge fail. `better` is false here, and 2.5 % would be usual. Without bounds it is called up to "
        f"{worst['naive']:.0%} of the time ({worst['n']} questions, {worst['share']:.0%} lost), with them at most "
        f"{most:.1%}; where so few are lost that the bounds are only reported, up to {quiet:.1%}.\n\n{_table(table)}\n\n"
        "![How often better is called though it is false](statistics-missing.svg)\n"
    )


def _repeats(rows: Sequence[Row]) -> str:
    table = [
        ["questions", "repeats", "questions without a score", "`better` without bounds", "`better` with them", "bounds had to agree"],
        ["--:", "--:", "--:", "--:", "--:", "--:"],
    ]  # fmt: skip
    for row in rows:
        shares = [f"{row[name]:.1%}" for name in ("lost", "naive", "guarded", "must_agree")]
        table.append([str(row["n"]), str(row["repeats"]), *shares])
    worst = max(rows, key=lambda row: row["naive"])
    most = max(row["guarded"] for row in rows)
    return (
        "## Repeats that fail for a reason\n\nBoth models are equally good; a judgement fails that would give a tuned answer 3 "
        "or less. With `--repeats` most questions keep a judgement, and with it a score, but too good a one: so a failed "
        "repeat counts as missing like any other, and the bounds put the worst and the best in its place. Without them `better` is "
        f"called up to {worst['naive']:.0%} of the time, with them at most {most:.1%}.\n\n{_table(table)}\n"
    )


def _equivalence(rows: Sequence[Row]) -> str:
    head = [
        ["differences", "questions", "by the interval alone", "by the rule"],
        ["---", "--:", "--:", "--:"],
    ]
    table = [
        [row["differences"], str(row["n"]), f"{row['interval']:.1%}", f"{row['rule']:.1%}"]
        for row in rows
    ]
    few = max(row["interval"] for row in rows if row["n"] < FEWEST_EQUIVALENT)
    most = max(row["rule"] for row in rows)
    kinds = "; ".join(f"{name}: {words}" for name, words in EQUIVALENT.items())
    return (
        "## `equivalent` where it is not\n\nThe tuned model is worse by 0.5 points, just the margin, so `equivalent` is false and 2.5 % "
        f"would be usual ({kinds}). By the interval alone it would be said up to {few:.0%} of the time with fewer than "
        f"{FEWEST_EQUIVALENT} questions: a few questions hold none of the rare ones, and take the rest for all. The rule takes "
        f"{FEWEST_EQUIVALENT}, and says it {most:.1%} of the time at the most.\n\n{_table([*head, *table])}\n"
    )


def _power(rows: Sequence[Row]) -> str:
    table = [
        ["questions", "true difference", "called `better`", "formula"],
        ["--:", "--:", "--:", "--:"],
    ]
    for row in rows:
        if row["effect"]:
            table.append(
                [
                    str(row["n"]),
                    f"{row['difference']:+.2f}",
                    f"{row['better']:.1%}",
                    f"{row['formula']:.1%}",
                ]
            )
    gap = max(abs(row["better"] - row["formula"]) for row in rows if row["effect"])
    spread = sum(row["deviation"] for row in rows) / len(rows)
    return (
        "## Power as foretold and as found\n\n"
        f"Ordinal scores, every question alone, differences with a standard deviation of {spread:.1f}. The formula that "
        f"the report uses is off by {gap:.1%} at the most.\n\n"
        f"![How often a true difference is called better](statistics-power.svg)\n\n{_table(table)}\n"
    )


def _seeds(rows: Sequence[Row]) -> str:
    """The interval over questions and training seeds."""
    least, most = (pick(row["coverage"] for row in rows) for pick in (min, max))
    old = min(row["min_f"] for row in rows)
    apart = [row for row in rows if row["deviation"] >= 0.3]
    equal = [row for row in rows if row["deviation"] == 0]
    draws, wide = rows[0]["draws"], [row["wider"] for row in equal]
    head = [
        ["clusters", "questions", "seeds", "seeds differ by", "coverage", "min F' would", "questions only", "width"],
        ["---", "--:", "--:", "--:", "--:", "--:", "--:", "--:"],
    ]  # fmt: skip
    table = [
        [
            row["design"],
            str(row["n"]),
            str(row["seeds"]),
            f"{row['deviation']:g}",
            *(f"{row[key]:.1%}" for key in ("coverage", "min_f", "alone")),
            f"x {row['wider']:.2f}",
        ]
        for row in rows
    ]
    return "\n".join(
        [
            "## Over training seeds\n",
            f"Whole scores of one base model and of 3 or 5 training seeds, {draws:,} tables for each setting; no "
            f"seed is better in truth. The interval holds the truth in {least:.1%} to {most:.1%} of them: it errs on the "
            f"careful side, most where seeds do not differ, where it is {min(wide):.2f} to {max(wide):.2f} times as wide as one "
            f"that knows of questions only. Satterthwaite's degrees of freedom for the sum (“min F'”) would "
            f"fall to {old:.1%}. An interval that knows of questions only, as every single run has, holds the recipe in "
            f"{min(row['alone'] for row in apart):.1%} to {max(row['alone'] for row in apart):.1%} where seeds differ by "
            "0.3 points or more: that is why one run is a verdict on a checkpoint.\n",
            _table([*head, *table]),
            "",
        ]
    )


def _settings(found: Mapping[str, Any]) -> str:
    lines = [f"- **{name}**: {words}." for name, words in DISTRIBUTIONS.items()]
    lines += [f"- **{name}**: {words}." for name, words in DESIGNS.items()]
    return "\n".join(
        [
            *lines,
            f"- Questions of a cluster share {LIKE:.0%} of their variance before rounding. Seed {found['seed']}; "
            "the same seed gives the same figures.",
            "",
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#444}.g{stroke:#ddd}.c{fill:none;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#bbb}.g{stroke:#444}}"
)
_COLOURS = ("#b45309", "#0b72d0", "#5a7d2a")
_DASHES = ("", "7 4", "2 3")


def curve_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], title: str, across: str
) -> str:
    """Shares over a quantity, a line for each name; for a page, so with a style of its own."""
    left, right, top, floor = 46.0, 600.0, 30.0, 300.0
    far = max(x for points in series.values() for x, _ in points)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / far, floor - (floor - top) * y

    parts = [f"<title>{title}</title><style>{_STYLE}</style>"]
    for tenth in range(0, 11, 2):
        _, y = at(0, tenth / 10)
        parts.append(f'<line class="g" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tenth * 10} %</text>'
        )
    for step in range(5):
        x, _ = at(far * step / 4, 0)
        parts.append(
            f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{far * step / 4:.2g}</text>'
        )
    for number, (name, points) in enumerate(series.items()):
        ordered = sorted((max(x, 0.0), y) for x, y in points)
        line = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in ordered)
        colour, dash = _COLOURS[number % 3], _DASHES[number % 3]
        parts.append(
            f'<polyline class="c" points="{line}" stroke="{colour}" stroke-dasharray="{dash}"/>'
        )
        y = top + 18 * number
        parts.append(
            f'<line class="c" x1="{left + 12}" x2="{left + 44}" y1="{y}" y2="{y}" stroke="{colour}" stroke-dasharray="{dash}"/>'
            f'<text x="{left + 52}" y="{y + 4}">{name}</text>'
        )
    parts.append(
        f'<text x="{(left + right) / 2}" y="{floor + 38}" text-anchor="middle">{across}</text>'
    )
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 345" role="img">\n{body}\n</svg>\n'

"""report.md: the same findings as report.html, as Markdown that shows data as data.

Inline text is escaped, whole texts stand in fences longer than any run of backticks inside them.
The table lists every question; full answers are given for the worst and the best ones, and the
text says where the others are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gemma_lora.report import aa, baselines
from gemma_lora.report.checks import (
    agreement,
    differences,
    holm_note,
    missing_sentence,
    other_estimators,
    power_sentence,
)
from gemma_lora.report.datafacts import data_facts, training_facts
from gemma_lora.report.forgetting import lost
from gemma_lora.report.gathering import Material, Row, Side, facts
from gemma_lora.report.wording import (
    clean,
    headline,
    interval,
    measures,
    p_value,
    points,
    scope,
    score,
    sentence,
    tally,
    warnings,
    whisker,
)
from gemma_lora.report.worth import (
    agreement_sentence,
    attack_sentences,
    cost_sentence,
    other_rows,
    others_note,
)

__all__ = ["grid", "inline", "listed", "markdown", "worth_of_the_judge"]

_WORST, _BEST = 10, 5


def markdown(verdict: Mapping[str, Any], material: Material, *, written: str) -> str:
    """The whole document."""
    parts = [
        f"# Verdict: {verdict['verdict']}",
        _inline(headline(verdict)) + ".",
        _inline(sentence(verdict)) + " " + tally(verdict) + " " + _inline(scope(verdict)),
        "## What to know before relying on this",
        "\n".join(f"- {_inline(text)}" for text in warnings(verdict)) or "Nothing.",
        "## Scores",
        _scores(verdict),
        "### Differences",
        _differences(verdict),
        _inline(holm_note(verdict)),
        _inline(power_sentence(verdict)),
        _missing(verdict),
        _inline(missing_sentence(verdict) or ""),
        _baselines(verdict),
        _noise(verdict),
        "### Computed in other ways",
        _inline(agreement(verdict)) + " None of these decides.",
        _table(
            [["", "", ""], ["---", "---", "---"]]
            + [[_inline(text) for text in row] for row in other_estimators(verdict)]
        ),
        f"Rule: {verdict['rule']}",
        _inline(measures(verdict) or ""),
        _worth(verdict),
        "## What was lost",
        _lost(verdict),
        "## Answers",
        _answers(material.rows, material.digits),
        "## Training",
        _training(material),
        "## Data",
        _data(material),
        "## Where this comes from",
        _facts({"judge": verdict["judge"], "model": verdict["model"]}),
        _facts(material.provenance),
        "Configuration:\n\n" + _fence(material.config_text) if material.config_text else "",
        f"Written {written}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _scores(verdict: Mapping[str, Any]) -> str:
    rows = [
        ["", "base", "tuned", "difference", "95 % interval", "p", "questions"],
        ["---", "--:", "--:", "--:", "--:", "--:", "--:"],
    ]
    for name in ("overall", *verdict["dimensions"]):
        row = verdict["primary"] if name == "overall" else verdict["dimensions"].get(name)
        if row is None:
            rows.append([name, "not measured", "", "", "", "", ""])
            continue
        rows.append(
            [
                f"**{name}**" if name == "overall" else name,
                score(row["base_mean"]),
                score(row["tuned_mean"]),
                points(row["difference"]),
                interval(row["ci95"]),
                _inline(p_value(row["p_value"])),
                str(row["n"]),
            ]
        )
    return _table(rows)


_WIDTH = 25


def _differences(verdict: Mapping[str, Any]) -> str:
    """The forest plot in characters, with the figures beside it."""
    rows = differences(verdict)
    table = [
        ["", "base better · tuned better", "difference", "95 % interval", "p, Holm", "not worse"],
        ["---", ":-:", "--:", "--:", "--:", "---"],
    ]
    reach = max([1.0, *(abs(end) for row in rows for end in row.ci95 or ())])
    for row in rows:
        if row.difference is None:
            table.append([row.name, "", "not measured", "", "", ""])
            continue
        drawn = whisker(row.difference, row.ci95, reach, _WIDTH)
        p = _inline(p_value(row.p) + (" *" if row.marked else ""))
        name = f"**{row.name}**" if row.primary else row.name
        table.append([name, f"`{drawn}`", points(row.difference), interval(row.ci95), p, row.worth])
    return _table(table)


def _baselines(verdict: Mapping[str, Any]) -> str:
    lines = [f"- {_inline(row.sentence)}" for row in baselines.rows(verdict)]
    head = f"### Against stronger baselines\n\n{_inline(baselines.intro(verdict))}\n\n"
    return head + "\n".join(lines) if lines else ""


def _noise(verdict: Mapping[str, Any]) -> str:
    text = " ".join(aa.sentences(verdict))
    return f"### The judge against itself\n\n{_inline(text)}" if text else ""


def _worth(verdict: Mapping[str, Any]) -> str:
    """What the judge is worth, and what other judges said."""
    said = [agreement_sentence(verdict), *attack_sentences(verdict), cost_sentence(verdict)]
    parts = ["## What this judge is worth", *map(_inline, said)]
    others = other_rows(verdict)
    if others:
        head = ["judge", "verdict", "difference", "95 % interval", "questions", "tau", "kappa"]
        table = [head, ["---", "---", *["--:"] * 5]]
        table += [[_inline(cell) for cell in row] for row in others]
        parts += ["### What other judges said of the same answers", _table(table)]
        parts.append(_inline(others_note(verdict)))
    return "\n\n".join(parts)


def _missing(verdict: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for arm, count in verdict["unscored"].items():
        reasons = verdict["arms"][arm]["unscored_reasons"]
        why = "; ".join(f"{n} x {_inline(_short(reason))}" for reason, n in reasons.items())
        lines.append(f"- {arm}: {count}" + (f" ({why})" if why else ""))
    return "Without a score:\n\n" + "\n".join(lines)


def _lost(verdict: Mapping[str, Any]) -> str:
    """Forgetting by category, and the gap between training and validation loss."""
    found = lost(verdict)
    parts = [f"**{found.headline}.**", *(_inline(text) for text in found.sentences)]
    if found.rows:
        table = [
            ["", "questions", "right", "loss", "change of likelihood", "95 % interval", "KL"],
            ["---", "--:", "--:", "--:", "--:", "--:", "--:"],
        ]
        for row in found.rows:
            change = points(row.gain) + (" \\*" if row.marked else "")
            table.append(
                [
                    _inline(row.name),
                    str(row.questions),
                    row.right,
                    row.loss,
                    change,
                    interval(row.ci95),
                    row.kl,
                ]
            )
        parts += [_table(table), f"Rule: {found.rule}"]
    return "\n\n".join([*parts, _inline(found.gap or "")]).strip()


def _answers(rows: Sequence[Row], digits: int) -> str:
    table = [["#", "gain", "base", "tuned", "question"], ["--:", "--:", "--:", "--:", "---"]]
    table += [
        [
            str(row.number),
            points(row.gain, digits),
            score(row.base.overall, digits),
            score(row.tuned.overall, digits),
            _inline(_short(row.title)),
        ]
        for row in rows
    ]
    scored = [row for row in rows if row.gain is not None]
    shown = scored if len(scored) <= _WORST + _BEST else [*scored[:_WORST], *scored[-_BEST:]]
    full = "\n\n".join(_question(row, digits) for row in shown)
    note = (
        f"In full: the {_WORST} with the lowest and the {_BEST} with the highest gain. All others are in "
        "report.html and in answers/test."
        if len(shown) < len(rows)
        else "In full:"
    )
    return f"Sorted by gain, worst first.\n\n{_table(table)}\n\n{note}\n\n{full}"


def _question(row: Row, digits: int) -> str:
    parts = [f"### Question {row.number}: gain {points(row.gain, digits)}"]
    parts += [f"{role}:\n\n{_fence(text)}" for role, text in row.turns]
    if row.reference is not None:
        parts.append(f"reference:\n\n{_fence(row.reference)}")
    sides = (("base", row.base), ("tuned", row.tuned), *row.others)
    parts += [_side(_inline(name), side, digits) for name, side in sides]
    return "\n\n".join(parts)


def _side(name: str, side: Side, digits: int) -> str:
    marks = ["cut off at the token limit"] if side.cut_off else []
    marks += [_inline(flag) for flag in side.flags] + [_inline(reason) for reason in side.reasons]
    head = f"{name}, scored {score(side.overall, digits)}" + (
        f" ({'; '.join(marks)})" if marks else ""
    )
    text = _fence(side.answer) if side.answer is not None else "(no answer)"
    said = f"\n\njudge on {name}:\n\n{_fence(side.reasoning)}" if side.reasoning else ""
    return f"{head}:\n\n{text}{said}"


def _training(material: Material) -> str:
    curves = [["step", "validation loss"], ["--:", "--:"]]
    curves += [[str(step), f"{loss:.4f}"] for step, loss in material.validation_loss]
    table = _table(curves) if material.validation_loss else ""
    known = _listed(training_facts(material.training) or facts(material.training))
    return "\n\n".join(part for part in (known, table) if part) or "No training record was saved."


def _data(material: Material) -> str:
    return _listed(data_facts(material.audit) or facts(material.audit)) or "No audit was saved."


def _facts(tree: Mapping[str, Any]) -> str:
    return _listed(facts(tree))


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {_inline(name)}: {_inline(text)}" for name, text in pairs)


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:119] + "…"


def _inline(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would read as markup."""
    line = " ".join(str(clean(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_{}\[\]|~$#!])", r"\\\1", line)
    # bare addresses would become links
    return re.sub(r"(?i)\b(https?):", r"\1&#58;", re.sub(r"(?i)\b(www)\.", r"\1&#46;", line))


def _fence(text: str) -> str:
    body = str(clean(text))
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}text\n{body}\n{ticks}"


# for the other documents of this package
inline, listed, grid, worth_of_the_judge = _inline, _listed, _table, _worth

"""What the tuned model lost: the verdict on forgetting/, which stands beside the main one.

Reads forgetting/items.jsonl and forgetting/forgetting.json; writes nothing. Paired by question (questions
that are asked twice share a cluster), with `statistics`' intervals and non-inferiority test. `RULE` was
fixed before anything is measured. It never changes the main verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from gemma_lora.config import Config
from gemma_lora.decision.robustness import number, pair
from gemma_lora.records import ARMS, ProbeResult
from gemma_lora.rundir import RunDir, read_jsonl, read_saved
from gemma_lora.statistics import Estimate, clustered_mean, holm, non_inferiority, wilson
from gemma_lora.statistics.power import ALPHA
from gemma_lora.verdict import FEWEST

__all__ = [
    "ACCURACY_MARGIN",
    "LOSS_MARGIN",
    "RULE",
    "assess",
    "forgetting_caveats",
    "what_was_lost",
]

ACCURACY_MARGIN = 0.05
"""Share of the questions that may be answered worse and still count as kept."""
LOSS_MARGIN = 0.1
"""Nats a token that the loss may rise and still count as kept: perplexity up by a tenth. PEFT's method
comparison finds +0.03 to +0.05 on general text after plain LoRA of rank 10 to 32, +0.11 at rank 64."""
_LOSS_REACH = 5.0
"""Bound of a single difference in nats a token, used only where all are equal (rule of three)."""

RULE = (
    "Accuracy on the questions with options comes first, where the base model answers more of them than "
    f"guessing would (95 % Wilson interval). `lost`: the 95 % interval of the paired difference lies below 0 "
    f"and not above -{ACCURACY_MARGIN * 100:.0f} points. `kept`: that interval lies above "
    f"-{ACCURACY_MARGIN * 100:.0f} points, and that of the loss on the reference answers below "
    f"+{LOSS_MARGIN:g} nats a token. Else `unclear`. With options but a base model that only guesses: "
    "`not measurable`. Without options the loss alone decides, in the same way. Fewer than "
    f"{FEWEST} questions are `unclear`."
)


def what_was_lost(config: Config, run: RunDir) -> dict[str, Any] | None:
    """verdict.json's `forgetting`; None where nothing was measured, or `--probe none` says not to."""
    path = run.forgetting / "forgetting.json"
    if config.forgetting.probe == "none" or not path.exists():
        return None
    saved = read_saved(path)
    rows = read_jsonl(run.forgetting / "items.jsonl", ProbeResult)
    return (
        assess(rows) | {"probe": saved["probe"], "decisions": saved["decisions"]} if rows else None
    )


def assess(rows: Sequence[ProbeResult]) -> dict[str, Any]:
    """Word, figures and rule for the questions of a probe (at least one)."""
    chosen = [row for row in rows if row.right is not None]
    accuracy = _accuracy(chosen) if chosen else None
    gain = _by_token(rows, [row.base_nll - row.tuned_nll for row in rows], -_LOSS_REACH)
    loss = _loss(rows, gain)
    return {
        "verdict": _word(accuracy, loss["status"]),
        "questions": len(rows),
        "accuracy": accuracy,
        "loss": loss,
        "kl": _divergence(rows),
        "categories": _categories(rows),
        "rule": RULE,
    }


def _word(accuracy: Mapping[str, Any] | None, loss: str) -> str:
    if accuracy is None:
        return loss
    if not accuracy["measurable"]:
        return "not measurable"
    if accuracy["status"] == "lost":
        return "lost"
    return "kept" if accuracy["status"] == loss == "kept" else "unclear"


def _status(gain: Estimate, margin: float) -> str:
    """`kept`, `lost` or `unclear` for one measure, where more is better."""
    if gain.clusters < FEWEST:
        return "unclear"
    if non_inferiority(gain, margin).holds:
        return "kept"
    return "lost" if gain.ci95 is not None and gain.ci95[1] < 0 else "unclear"


def _accuracy(rows: Sequence[ProbeResult]) -> dict[str, Any]:
    right = {
        "base": [row.base_choice == row.right for row in rows],
        "tuned": [row.tuned_choice == row.right for row in rows],
    }
    gains = [float(tuned) - float(base) for base, tuned in zip(*right.values(), strict=True)]
    gain = clustered_mean(gains, [row.cluster for row in rows], low=-1.0, high=1.0)
    test = non_inferiority(gain, ACCURACY_MARGIN)
    chance = fmean(1 / (row.options or 1) for row in rows)
    shares = {arm: _share(sum(hits), len(hits)) for arm, hits in right.items()}
    return {
        "questions": len(rows),
        "base_right": sum(right["base"]),
        "tuned_right": sum(right["tuned"]),
        "no_longer_right": gains.count(-1.0),
        "newly_right": gains.count(1.0),
        "base": number(fmean(right["base"])),
        "tuned": number(fmean(right["tuned"])),
        "base_ci95": shares["base"],
        "tuned_ci95": shares["tuned"],
        "chance": number(chance),
        "measurable": shares["base"][0] > chance,
        "difference": number(gain.mean),
        "ci95": pair(gain.ci95),
        "margin": ACCURACY_MARGIN,
        "not_worse_p_value": test.p_value,
        "status": _status(gain, ACCURACY_MARGIN),
        "note": gain.note,
    }


def _share(hits: int, n: int) -> list[float]:
    ends = wilson(hits, n)
    assert ends is not None  # a probe with options has at least one question
    return [round(end, 6) for end in ends]


def _by_token(rows: Sequence[ProbeResult], sums: Sequence[float], low: float) -> Estimate:
    """Mean a token of sums over a row's tokens; the tokens of a question are one piece of evidence."""
    counts = [row.tokens for row in rows]
    values = np.repeat(np.asarray(sums, dtype=float) / np.asarray(counts), counts)
    clusters = [row.cluster for row in rows for _ in range(row.tokens)]
    return clustered_mean(values, clusters, low=low, high=_LOSS_REACH)


def _loss(rows: Sequence[ProbeResult], gain: Estimate) -> dict[str, Any]:
    tokens = sum(row.tokens for row in rows)
    test = non_inferiority(gain, LOSS_MARGIN)
    return {
        "tokens": tokens,
        "base": number(sum(row.base_nll for row in rows) / tokens),
        "tuned": number(sum(row.tuned_nll for row in rows) / tokens),
        "difference": number(-gain.mean),
        "ci95": None if gain.ci95 is None else pair((-gain.ci95[1], -gain.ci95[0])),
        "p_value": gain.p_value,
        "margin": LOSS_MARGIN,
        "not_worse_p_value": test.p_value,
        "status": _status(gain, LOSS_MARGIN),
        "note": gain.note,
    }


def _divergence(rows: Sequence[ProbeResult]) -> dict[str, Any]:
    found = _by_token(rows, [row.kl for row in rows], 0.0)
    return {"mean": number(found.mean), "ci95": pair(found.ci95)}


def _categories(rows: Sequence[ProbeResult]) -> dict[str, Any]:
    """Each category's figures, in the order of the probe; p-values after Holm's correction."""
    groups: dict[str, list[ProbeResult]] = {}
    for row in rows:
        groups.setdefault(row.category, []).append(row)
    found: dict[str, dict[str, Any]] = {}
    for name, members in groups.items():
        chosen = [row for row in members if row.right is not None]
        gain = _by_token(members, [row.base_nll - row.tuned_nll for row in members], -_LOSS_REACH)
        loss = _loss(members, gain)
        found[name] = {
            "questions": len(members),
            "with_options": len(chosen),
            **{
                f"{arm}_right": sum(
                    (row.base_choice if arm == "base" else row.tuned_choice) == row.right
                    for row in chosen
                )
                for arm in ARMS
            },
            "base_loss": loss["base"],
            "tuned_loss": loss["tuned"],
            "difference": loss["difference"],
            "ci95": loss["ci95"],
            "p_value": loss["p_value"],
            "kl": number(sum(row.kl for row in members) / loss["tokens"]),
        }
    for name, adjusted in holm({n: facts["p_value"] for n, facts in found.items()}).items():
        found[name]["p_holm"] = adjusted
    return found


# ---------------------------------------------------------------------- warnings

_TRY = (
    "try a lower `--learning-rate`, fewer `--epochs` or a lower `--rank`, or mix some general questions "
    "with good answers into your rows"
)


def forgetting_caveats(found: Mapping[str, Any] | None) -> list[str]:
    """Sentences for verdict.json's warnings: what is lost, what cannot be told, and what to try."""
    if found is None:
        return []
    lines: list[str] = []
    accuracy, loss = found["accuracy"], found["loss"]
    if accuracy is not None and not accuracy["measurable"]:
        lines.append(
            f"What was forgotten cannot be told from right and wrong: the base model picks the right option in "
            f"{accuracy['base_right']} of {accuracy['questions']} general questions, which is not more than "
            f"guessing gives ({100 * accuracy['chance']:.0f} %)."
        )
    elif found["verdict"] == "lost" and accuracy is not None:
        lines.append(
            f"General knowledge is lost: of {accuracy['questions']} general questions the tuned model answers "
            f"{accuracy['tuned_right']} correctly, the base model {accuracy['base_right']} "
            f"(difference {_points(accuracy['difference'])} points, 95 % interval "
            f"{_points(accuracy['ci95'][0])} to {_points(accuracy['ci95'][1])}); {_TRY}."
        )
    worse = [
        f"{name} (+{facts['difference']:.2f})"
        for name, facts in found["categories"].items()
        if facts["ci95"] is not None
        and facts["ci95"][0] > LOSS_MARGIN
        and facts["p_holm"] is not None
        and facts["p_holm"] < ALPHA
    ]
    if loss["status"] == "lost":
        where = f", surely so in {', '.join(worse)}" if worse else ""
        lines.append(
            f"The right answers to general questions became less likely: the loss on them rose by "
            f"{loss['difference']:.2f} nats a token (95 % interval {loss['ci95'][0]:+.2f} to "
            f"{loss['ci95'][1]:+.2f}){where}. Part of that may be the style of your answers; where it "
            f"is too much, {_TRY}."
        )
    elif worse:
        lines.append(
            f"The right answers became less likely in some categories of general questions: {', '.join(worse)} "
            f"nats a token. Part of that may be style; read some answers there, and {_TRY}."
        )
    return lines


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"

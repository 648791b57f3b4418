"""What was lost, in words and rows of text, for report.html, report.md and the terminal.

Pure: takes verdict.json's `forgetting` and `overfitting`, either of which may be null. Shares are said
as percentages, differences of shares in percentage points, losses in nats a token. In the rows by
category the sign is turned, so that left of 0 is what was lost, as in the other forest plots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma_lora.report.wording import points
from gemma_lora.statistics.power import ALPHA

__all__ = ["Category", "Lost", "brief", "line_of", "lost"]

_HEADLINES = {
    "kept": "General knowledge is kept",
    "lost": "General knowledge was lost",
    "unclear": "Whether general knowledge was lost is unclear",
    "not measurable": "What was forgotten cannot be told: the base model only guesses",
}


@dataclass(frozen=True)
class Category:
    """One row of the table; texts as shown."""

    name: str
    questions: int
    right: str
    """`base → tuned of n`; a dash where there are no options."""
    loss: str
    gain: float
    """Minus the rise of the loss."""
    ci95: Sequence[float] | None
    marked: bool
    kl: str


@dataclass(frozen=True)
class Lost:
    """The section; `word` None: nothing was measured."""

    word: str | None
    headline: str
    sentences: tuple[str, ...]
    rows: tuple[Category, ...]
    margin: float
    rule: str
    gap: str | None
    """On training and validation loss."""

    @property
    def ends(self) -> list[float]:
        """What the plot must have room for."""
        return [end for row in self.rows for end in (row.gain, *(row.ci95 or ()))]


def lost(verdict: Mapping[str, Any]) -> Lost:
    """The section's content."""
    found, gap = verdict.get("forgetting"), verdict.get("overfitting")
    reading = gap["sentence"] if gap else None
    if not found:
        return Lost(None, "Not measured", (), (), 0.0, "", reading)
    sentences = (_why(found), _accuracy(found), _loss(found), _divergence(found), _probe(found))
    return Lost(
        word=found["verdict"],
        headline=_HEADLINES[found["verdict"]],
        sentences=tuple(text for text in sentences if text),
        rows=tuple(_row(name, facts) for name, facts in found["categories"].items()),
        margin=found["loss"]["margin"],
        rule=found["rule"],
        gap=reading,
    )


def brief(verdict: Mapping[str, Any]) -> str | None:
    """One sentence for the top of the report; None where nothing was measured."""
    found = verdict.get("forgetting")
    if not found:
        return None
    accuracy, loss = found["accuracy"], found["loss"]
    text = f"loss {_signed(loss['difference'])} nats a token"
    if accuracy is not None:
        text = (
            f"{accuracy['tuned_right']} of {accuracy['questions']} general questions right, "
            f"{accuracy['base_right']} before; {text}"
        )
    return f"{_HEADLINES[found['verdict']]} ({text})."


def line_of(verdict: Mapping[str, Any]) -> str | None:
    """At most 80 columns for the terminal; None where nothing was measured."""
    found = verdict.get("forgetting")
    if not found:
        return None
    accuracy = found["accuracy"]
    right = ""
    if accuracy is not None:
        right = (
            f"{accuracy['tuned_right']} of {accuracy['questions']} right, "
            f"{accuracy['base_right']} before; "
        )
    return f"general knowledge: {found['verdict']} ({right}loss {_signed(found['loss']['difference'])})"


def _why(found: Mapping[str, Any]) -> str:
    """Why the word is `unclear`."""
    accuracy = found["accuracy"]
    if found["verdict"] != "unclear":
        return ""
    if accuracy is not None and accuracy["status"] == "kept":
        return (
            "The tuned model still picks the right options, but finds the reference answers less likely, or not "
            "surely as likely: that may be your answers' style, or the beginning of forgetting."
        )
    return (
        "The interval is too wide to tell; more questions tell more (`--probe` reads MMLU's files)."
    )


def _accuracy(found: Mapping[str, Any]) -> str:
    facts = found["accuracy"]
    if facts is None:
        return ""
    fewer = facts["base_right"] - facts["tuned_right"]
    answers = {True: f"{fewer} fewer", False: f"{-fewer} more"}[fewer >= 0] if fewer else "as many"
    text = (
        f"On {facts['questions']} questions with options the tuned model answers {answers} correctly "
        f"{'as' if not fewer else 'than'} the base model: {_percent(facts['tuned'])} "
        f"({_span(facts['tuned_ci95'])}) against {_percent(facts['base'])} ({_span(facts['base_ci95'])}). "
    )
    if facts["ci95"] is not None:
        low, high = (points(100 * end, 1) for end in facts["ci95"])
        text += (
            f"The difference is {points(100 * facts['difference'], 1)} percentage points, 95 % interval {low} to "
            f"{high}; kept is what lies above −{100 * facts['margin']:.0f} entirely. "
        )
    text += f"{facts['no_longer_right']} were right before and no longer are, {facts['newly_right']} are newly right."
    if not facts["measurable"]:
        text += (
            f" Guessing gives {_percent(facts['chance'])}, and the base model is not surely above that: these figures "
            "say nothing about what was forgotten."
        )
    return text


def _loss(found: Mapping[str, Any]) -> str:
    facts = found["loss"]
    change = f"{_signed(facts['difference'])} nats a token"
    if facts["ci95"] is not None:
        change += (
            f", 95 % interval {_signed(facts['ci95'][0])} to {_signed(facts['ci95'][1])}; kept is what lies "
            f"below +{facts['margin']:g} entirely"
        )
    if facts["difference"] > 0:
        likely = "are less likely than before"
    elif facts["difference"] < 0:
        likely = "are likelier than before"
    else:
        likely = "are as likely as before"
    return (
        f"The reference answers to all {found['questions']} questions {likely}: loss {facts['tuned']:.2f} "
        f"against {facts['base']:.2f} ({change}). The loss also rises "
        "where only the style changed, since the tuned model would say it in other words."
    )


def _divergence(found: Mapping[str, Any]) -> str:
    facts = found["kl"]
    span = (
        f" (95 % interval {facts['ci95'][0]:.3f} to {facts['ci95'][1]:.3f})"
        if facts["ci95"]
        else ""
    )
    return (
        f"On these answers the tuned model's predictions are {facts['mean']:.3f} nats a token away from the base "
        f"model's{span}: KL divergence, 0 where both predict the same."
    )


def _probe(found: Mapping[str, Any]) -> str:
    probe = found["probe"]
    return {
        "bundled": "The questions are those that come with gemma-lora; `--probe FILE` takes others.",
        "MMLU": f"The questions are MMLU's, from {probe['name']}.",
        "GSM8K": f"The questions are GSM8K's, from {probe['name']}; of the published solutions only the likelihood is measured.",
    }.get(probe["kind"], f"The questions are from {probe['name']}.")


def _row(name: str, facts: Mapping[str, Any]) -> Category:
    ci95 = facts["ci95"]
    return Category(
        name=name,
        questions=facts["questions"],
        right=f"{facts['base_right']} → {facts['tuned_right']} of {facts['with_options']}"
        if facts["with_options"]
        else "–",
        loss=f"{facts['base_loss']:.2f} → {facts['tuned_loss']:.2f}",
        gain=-facts["difference"],
        ci95=None if ci95 is None else (-ci95[1], -ci95[0]),
        marked=facts["p_holm"] is not None and facts["p_holm"] < ALPHA,
        kl=f"{facts['kl']:.3f}",
    )


def _span(ci95: Sequence[float]) -> str:
    return f"95 %: {100 * ci95[0]:.0f} to {_percent(ci95[1])}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _signed(value: float) -> str:
    return points(value)

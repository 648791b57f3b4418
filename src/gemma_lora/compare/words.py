"""Numbers and sentences of a comparison, the same in compare.html, compare.md and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from gemma_lora.compare.chart import clock
from gemma_lora.report.wording import interval, p_value, points, score

__all__ = [
    "cost",
    "figures",
    "forgetting",
    "memory",
    "pair_sentence",
    "size",
    "tally",
    "value_text",
]


def figures(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The rows of the table of runs: name and a text for each run."""
    rows: list[tuple[str, list[str]]] = [
        ("model", [run["model"] for run in runs]),
        ("data (sha256)", [(run["data_sha256"] or "–")[:12] for run in runs]),
        ("judge", [run["judge"] for run in runs]),
        ("verdict", [run["verdict"] for run in runs]),
        ("questions", [str(run["n"]) for run in runs]),
        ("base mean", [score(run["base_mean"]) for run in runs]),
        ("tuned mean", [score(run["tuned_mean"]) for run in runs]),
        ("difference", [points(run["difference"]) for run in runs]),
        ("95 % interval", [interval(run["ci95"]) for run in runs]),
        ("wins/ties/losses", [tally(run) for run in runs]),
        ("forgetting", [forgetting(run) for run in runs]),
        ("training time", [clock(run["training_seconds"]) for run in runs]),
        ("tokens trained", [_count(run["tokens_trained"]) for run in runs]),
        ("peak memory", [memory(run) for run in runs]),
        ("adapter", [size(run) for run in runs]),
        ("judge cost", [cost(run) for run in runs]),
    ]
    return rows


def tally(run: Mapping[str, Any]) -> str:
    counts = run["win_tie_loss"]
    return f"{counts['win']}/{counts['tie']}/{counts['loss']}"


def forgetting(run: Mapping[str, Any]) -> str:
    """The word, the change of the share answered rightly, and that of the loss in nats a token."""
    found = run["forgetting"]
    if found is None:
        return "not measured"
    accuracy, loss = found["figures"].get("accuracy"), found["figures"].get("loss")
    shown = [] if accuracy is None else [f"{points(100 * accuracy, 1)} points right"]
    shown += [] if loss is None else [f"loss {points(loss)}"]
    word = found["word"] or "measured"
    return f"{word} ({', '.join(shown)})" if shown else word


def memory(run: Mapping[str, Any]) -> str:
    value = run["peak_memory_mib"]
    if value is None:
        return "–"
    return f"{value:,.0f} MiB" if value < 10_000 else f"{value / 1024:.1f} GiB"


def size(run: Mapping[str, Any]) -> str:
    value = run["adapter_bytes"]
    if value is None:
        return "–"
    return f"{value / 1e6:.1f} MB" if value >= 100_000 else f"{value / 1e3:.1f} kB"


def cost(run: Mapping[str, Any]) -> str:
    value = run["judge_cost"]
    if value is None:
        return "not priced" if run["is_llm"] else "–"
    return f"${value:.4f}" if value < 1 else f"${value:,.2f}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def value_text(value: Any) -> str:
    """A setting as it is written in a file; None is `auto`."""
    if value is None:
        return "auto"
    if isinstance(value, list):
        return ",".join(str(part) for part in cast(list[Any], value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def pair_sentence(row: Mapping[str, Any]) -> str:
    """What is claimed between two runs, with its figures."""
    first, second = row["runs"]
    if row["difference"] is None:
        return f"{first}, {second}: no question is scored in both."
    said = {
        "higher": f"{second} scores higher than {first}",
        "lower": f"{second} scores lower than {first}",
        "equivalent": f"{second} and {first} are equivalent",
        "not told apart": f"{second} and {first} cannot be told apart",
    }[row["claim"]]
    counts = row["win_tie_loss"]
    return (
        f"{said}: {points(row['difference'])} ({interval(row['ci95'])}), p after Holm "
        f"{p_value(row['p_holm'])}, {row['n']} questions, {counts['win']} won, {counts['tie']} tied, "
        f"{counts['loss']} lost; as {row['scope']}."
    )

"""The data check and the training in the reader's words, from audit.json and training.json.

Pure: picks the figures that a reader asks about first; the complete file follows in the report.
A folder where a file is absent or of another shape gives fewer lines, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

__all__ = ["data_facts", "length_bars", "rendered_row", "training_facts"]


def data_facts(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) pairs on rows, columns, split, repeats, leaks and tokens."""
    found: list[tuple[str, str]] = []
    source, rows = _part(audit, "source"), _part(audit, "rows")
    if source:
        found.append(
            ("file", f"{source.get('file')}, {source.get('format')}, {source.get('encoding')}")
        )
    columns = _part(_part(audit, "columns"), "recognised")
    if columns:
        text = "; ".join(
            f"{part}: column “{_part(columns, part).get('name')}”, {_part(columns, part).get('how')}"
            for part in columns
        )
        found.append(("recognised", text))
    if "read" in rows and "used" in rows:
        text = f"{rows['read']:,} read, {rows['used']:,} used, {rows.get('dropped', 0):,} dropped"
        reasons = ", ".join(
            f"{r['count']} x {r['reason']}" for r in rows.get("dropped_by_reason", [])
        )
        found.append(("rows", text + (f" ({reasons})" if reasons else "")))
    split = _part(audit, "split")
    if {"train", "validation", "test"} <= split.keys():
        text = (
            f"{split['train']:,} for training, {split['validation']:,} for validation, {split['test']:,} "
            "for the test; near-duplicates stay on one side"
        )
        found.append(("split", text))
    repeats = _part(audit, "duplicates")
    if "near_duplicate_clusters" in repeats:
        text = (
            f"{repeats.get('repeated_rows', 0):,} rows repeat another word for word; "
            f"{repeats.get('rows_in_them', 0):,} rows in {repeats['near_duplicate_clusters']:,} groups "
            "of near-duplicate questions"
        )
        found.append(("repeats", text))
    leaks = _part(audit, "leaks")
    if leaks:
        text = f"{leaks.get('exact', 0)} exact and {leaks.get('near', 0)} near ones"
        found.append(("test questions that are also in the data", text))
    tokens = _part(audit, "tokens")
    if "median" in tokens:
        text = (
            f"{tokens.get('shortest')} to {tokens.get('longest')}, median {tokens['median']}, limit "
            f"{tokens.get('max_length')}; {rows.get('truncated', 0)} rows cut"
        )
        found.append(("tokens in a row", text))
    if "loss_share" in tokens:
        found.append(("tokens that are learned from", f"{tokens['loss_share']:.1%}"))
    return found


def training_facts(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) pairs on the checkpoint kept, the losses, time, size and precision."""
    found: list[tuple[str, str]] = []
    steps, kept = training.get("steps_done"), training.get("saved_step")
    if steps is not None and kept is not None:
        early = "; stopped early" if training.get("stopped_early") else ""
        found.append(("checkpoint kept", f"step {kept} of {steps}{early}"))
    for name, first, last in (
        ("validation loss", "validation_loss_before", "validation_loss_best"),
        ("training loss", "train_loss_first", "train_loss_last"),
    ):
        before, after = training.get(first), training.get(last)
        if before is not None and after is not None:
            words = "before, {:.3f} at the best" if "best" in last else "first, {:.3f} last"
            found.append((name, f"{before:.3f} " + words.format(after)))
    seconds, speed = training.get("seconds"), training.get("tokens_per_second")
    if seconds is not None:
        pace = f", {speed:,.0f} tokens a second" if speed is not None else ""
        spent = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.1f} minutes"
        found.append(("time", spent + pace))
    decided = _part(training, "decisions")
    if "trainable_parameters" in training:
        found.append(("adapter", f"{training['trainable_parameters']:,} trainable parameters"))
    if {"precision", "device", "learning_rate"} <= decided.keys():
        text = f"{decided['precision']} on {decided['device']}, learning rate {decided['learning_rate']:g}"
        found.append(("computed in", text))
    return found


def length_bars(audit: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The histogram of row lengths as (range of tokens, rows)."""
    bars = cast(list[dict[str, Any]], _part(audit, "tokens").get("histogram") or [])
    return [(f"{bar['from']}–{bar['to']}", int(bar["rows"])) for bar in bars]


def rendered_row(audit: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """One training row as (text, carries loss) runs."""
    runs = cast(list[list[Any]], _part(audit, "rendered").get("runs") or [])
    return [(str(text), bool(loss)) for text, loss in runs]


def _part(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = tree.get(name)
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}

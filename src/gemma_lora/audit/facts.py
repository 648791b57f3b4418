"""The figures of audit.json, each from rows already read and measured. Pure; reads only the data's hash and size."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gemma_lora.audit.lengths import Measured
from gemma_lora.data import Loaded, Questions, Row, Rows, place
from gemma_lora.data.source import source_bytes, source_digest, source_name

__all__ = [
    "answer_facts",
    "duplicate_facts",
    "leak_facts",
    "row_facts",
    "source_facts",
    "token_facts",
]

LISTED = 20
"""Lines and problems that are listed; the rest is counted."""
_LONGEST_SAMPLE = 600
_BARS = 10


def source_facts(path: Path, loaded: Loaded) -> dict[str, Any]:
    """File, how it was read, what was recognised, two example rows."""
    table, columns = loaded.table, loaded.columns
    used = set(columns.parts.values())
    return {
        "source": {
            "file": source_name(path),
            "sha256": source_digest(path),
            "bytes": source_bytes(path),
            "format": table.format,
            "encoding": table.encoding,
            "encoding_found": table.encoding_how,
            "delimiter": table.delimiter,
            "header_line": table.header_line,
            "notes": [*table.notes, *columns.notes],
        },
        "columns": {
            "recognised": {
                part: {"name": table.columns[index], "how": columns.how[part]}
                for part, index in columns.parts.items()
            },
            "unused": [n for i, n in enumerate(table.columns) if n and i not in used],
        },
        "example_rows": [
            {
                "line": row.line,
                "place": row.place,
                "messages": [
                    {"role": m.role, "content": _shortened(m.content)} for m in row.messages
                ],
            }
            for row in loaded.rows[:2]
        ],
    }


def row_facts(loaded: Loaded, measured: Measured) -> dict[str, Any]:
    """Rows read, used, dropped and why, with up to 20 lines for each reason."""
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for problem in [*loaded.problems, *measured.rejected]:
        places[problem.kind].append((problem.line, problem.item))
    if measured.too_long:
        places["too long"] = [(row.line, row.item) for row in measured.too_long]
    problems = [str(p) for p in sorted([*loaded.problems, *measured.rejected])]
    return {
        "read": loaded.table.rows_read,
        "blank": loaded.table.blank,
        "blank_places": [place(p.line, p.item) for p in loaded.table.empty[:LISTED]],
        "used": len(measured.rows),
        "dropped": loaded.table.rows_read - len(measured.rows),
        "dropped_by_reason": [
            {"reason": kind, "count": len(found), **_numbers(sorted(found)[:LISTED])}
            for kind, found in sorted(places.items())
        ],
        "bad_rows": problems[:LISTED],
        "empty_questions": len(places.get("empty question", [])),
        "empty_answers": len(places.get("empty answer", [])),
        "truncated": measured.truncated,
        "cells_trimmed": measured.cells_trimmed,
        "control_text": measured.control_text,
    }


def _numbers(places: list[tuple[int, int]]) -> dict[str, list[int]]:
    """Lines, and in a JSON list, which may be one line, the numbers of the items."""
    lines = {"lines": [line for line, _ in places]}
    items = [item for _, item in places]
    return {**lines, "items": items} if any(items) else lines


def duplicate_facts(rows: Rows, questions: Questions) -> dict[str, Any]:
    """Rows that repeat, questions that repeat, and clusters of near-duplicate questions.

    `questions` of these rows, and perhaps of further ones after them.
    """
    sizes = Counter(questions.clusters[: len(rows)])
    shared = [size for size in sizes.values() if size > 1]
    largest = max(sizes.values(), default=0)
    return {
        "repeated_rows": rows.repeats,
        "repeated_questions": len(rows) - questions.different(len(rows)),
        "near_duplicate_clusters": len(shared),
        "rows_in_them": sum(shared),
        "largest": largest,
        "largest_share": round(largest / len(rows), 4) if len(rows) else 0.0,
    }


def answer_facts(rows: Iterable[Row]) -> dict[str, Any]:
    """How varied the answers are."""
    counts = Counter(_short_digest(row.messages[-1].content.strip()) for row in rows)
    return {"different": len(counts), "most_common_count": max(counts.values(), default=0)}


def _short_digest(text: str) -> bytes:
    """Stands for an answer, which may be long."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def leak_facts(
    data: Rows, test: Rows, questions: Questions, *, data_file: str, test_file: str
) -> dict[str, Any]:
    """Questions of the user's test file that are also in the data; `questions`: of data, then test rows.

    All are counted, and up to 20 pairs named with the first such row of the data.
    """
    numbers, clusters = questions.number.tolist(), questions.clusters
    own = len(data)
    exact: dict[int, int] = {}  # a question, or a cluster, to the first row of the data with it
    near: dict[str, int] = {}
    for index in range(own):
        exact.setdefault(numbers[index], index)
        near.setdefault(clusters[index], index)
    counts = {"exact": 0, "near": 0}
    examples: list[dict[str, Any]] = []
    for row, number, cluster in zip(test, numbers[own:], clusters[own:], strict=True):
        kind = "exact" if number in exact else "near" if cluster in near else None
        if kind is None:
            continue
        counts[kind] += 1
        if len(examples) < LISTED:
            known = data[exact[number] if kind == "exact" else near[cluster]]
            pair = {"kind": kind, "test_line": row.line, "data_line": known.line}
            if row.item:
                pair["test_item"] = row.item
            if known.item:
                pair["data_item"] = known.item
            examples.append({**pair, "test_file": test_file, "data_file": data_file})
    return {**counts, "test_rows": len(test), "examples": examples}


def token_facts(measured: Measured, limit: int) -> dict[str, Any]:
    """Lengths in tokens of the rows as trained, their histogram, and the share that carries loss."""
    lengths = measured.lengths
    total, supervised = int(lengths.sum()), int(measured.supervised.sum())
    edges = np.linspace(int(lengths.min()) - 1, int(lengths.max()), _BARS + 1).round().astype(int)
    edges = np.unique(edges)
    counts, _ = np.histogram(lengths, bins=edges + 0.5)  # a bar holds low + 1 to high
    quantiles = np.percentile(lengths, [50, 95, 99], method="higher")
    return {
        "max_length": limit,
        "total": total,
        "carrying_loss": supervised,
        "loss_share": round(supervised / total, 4),
        "shortest": int(lengths.min()),
        "median": int(quantiles[0]),
        "mean": round(float(lengths.mean()), 1),
        "p95": int(quantiles[1]),
        "p99": int(quantiles[2]),
        "longest": int(lengths.max()),
        "histogram": [
            {"from": int(low) + 1, "to": int(high), "rows": int(count)}
            for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        ],
    }


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_SAMPLE else text[:_LONGEST_SAMPLE] + "…"

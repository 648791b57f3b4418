"""compare.html, compare.md and compare.json in a folder of their own.

Without `out` the folder is compare/<names>-<hash of what was compared>, so the same comparison is
written over itself and no other one is. Refuses a folder that holds another comparison or other files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gemma_lora.compare import words
from gemma_lora.compare.chart import clock, quality_against_cost
from gemma_lora.errors import ConfigError, GemmaLoraError
from gemma_lora.report.charts import forest_reach
from gemma_lora.report.markdown import grid, inline
from gemma_lora.report.writing import still_page
from gemma_lora.rundir import read_saved, write_json, write_text

__all__ = ["write"]

_OURS = ("compare.html", "compare.json", "compare.md")


def write(found: Mapping[str, Any], out: Path | None) -> dict[str, str]:
    """Write the three files; returns their paths by name."""
    folder = out or Path("compare") / _default_name(found)
    _refuse_other(folder, found["inputs"])
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    links = {
        run["label"]: quote(
            Path(
                os.path.relpath(Path(run["folder"]).resolve() / "report.html", folder.resolve())
            ).as_posix()
        )
        for run in found["runs"]
    }
    page, text, store = (folder / name for name in ("compare.html", "compare.md", "compare.json"))
    write_text(page, _page(found, links, written))
    write_text(text, _markdown(found, links, written))
    write_json(store, dict(found))
    return {"report": str(page), "report_md": str(text), "comparison": str(store)}


def _default_name(found: Mapping[str, Any]) -> str:
    names = "-".join(run["name"] for run in found["runs"][:3])
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", names).strip("-.")[:60]
    return f"{plain or 'runs'}-{found['inputs'][:8]}"


def _refuse_other(folder: Path, inputs: str) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(
            "is not a folder", where=str(folder), remedy="choose another folder with --out"
        )
    there = {path.name for path in folder.iterdir()}
    foreign = sorted(there - {*_OURS})
    try:
        other = "compare.json" in there and (
            read_saved(folder / "compare.json").get("inputs") != inputs
        )
    except GemmaLoraError:
        other = True
    if foreign or other or (there and "compare.json" not in there):
        found = "holds another comparison" if not foreign else f"holds {foreign[0]}"
        raise ConfigError(
            f"{found}, which is not written over",
            where=str(folder),
            expected="a new or empty folder",
            remedy="choose another folder with --out",
        )


def _page(found: Mapping[str, Any], links: Mapping[str, str], written: str) -> str:
    runs, pairs = found["runs"], [row for row in found["pairs"] if row["difference"] is not None]
    ends = [end for run in runs for end in (*(run["ci95"] or ()), run["difference"])]
    between = [end for row in pairs for end in (*(row["ci95"] or ()), row["difference"])]
    return still_page(
        "compare.html.j2",
        c=found,
        words=words,
        clock=clock,
        links=links,
        chart=quality_against_cost(runs, found["groups"]),
        loud=[text for text in found["warnings"] if text.startswith("NOT COMPARABLE")],
        calm=[text for text in found["warnings"] if not text.startswith("NOT COMPARABLE")],
        drawn=pairs,
        reach=forest_reach(ends),
        pair_reach=forest_reach(between),
        written=written,
    )


def _markdown(found: Mapping[str, Any], links: Mapping[str, str], written: str) -> str:
    runs = found["runs"]
    head = ["", *(run["label"] for run in runs)]
    rule = ["---", *("--:" for _ in runs)]
    figures = [[name, *map(inline, cells)] for name, cells in words.figures(runs)]
    settings = [
        [f"`{row['name']}`", *(inline(words.value_text(value)) for value in row["values"])]
        for row in found["settings"]
    ]
    parts = [
        f"# {len(runs)} runs side by side",
        "\n".join(f"- {inline(text)}" for text in found["warnings"]),
        "\n".join(
            f"- **{run['label']}**: [{inline(run['name'])}]({links[run['label']]})" for run in runs
        ),
        grid([head, rule, *figures]),
        "## The tuned models against each other",
        "\n".join(f"- {inline(words.pair_sentence(row))}" for row in found["pairs"])
        or "No two runs can be compared with each other.",
        "## Settings that differ",
        grid([head, rule, *settings]) if settings else "None.",
        f"Written {written}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"

"""Writes the report's files.

report.html is one template with its style sheet and script inside; a content security policy with
the hashes of these two, and nothing else allowed, stands in its head, so that even markup that
slipped through the escaping could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from gemma_lora import __version__
from gemma_lora.loading import load_config
from gemma_lora.report import aa, baselines, charts, checks, forgetting, wording, worth
from gemma_lora.report.datafacts import data_facts, length_bars, rendered_row, training_facts
from gemma_lora.report.gathering import Material, collect, facts
from gemma_lora.report.markdown import markdown
from gemma_lora.rundir import RunDir, read_saved, write_json, write_text

__all__ = ["is_primary", "still_page", "write_report"]


def write_report(run: RunDir, verdict: Mapping[str, Any]) -> dict[str, str]:
    """Write report.html, report.md and verdict.json; returns their paths by name.

    They go to the top of the run folder for the judge of config.yaml, and beside its judgements for
    any other judge, so that a second opinion never replaces the first.
    """
    folder = run.root if is_primary(run, verdict) else run.judgements(verdict["judge"]["slug"])
    material = collect(run, verdict)
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    html, text = folder / "report.html", folder / "report.md"
    write_text(html, render_html(verdict, material, written=written))
    write_text(text, markdown(verdict, material, written=written))
    write_json(folder / "verdict.json", dict(verdict))
    return {
        "report": str(html),
        "report_md": str(text),
        "verdict_file": str(folder / "verdict.json"),
    }


def render_html(verdict: Mapping[str, Any], material: Material, *, written: str) -> str:
    """The whole page as text."""
    style, script = _part("report.css"), _part("report.js")
    differences = checks.differences(verdict)
    opponents = baselines.rows(verdict)
    lost = forgetting.lost(verdict)
    page = _environment().get_template("report.html.j2")
    return page.render(
        v=verdict,
        m=material,
        charts=charts,
        digits=material.digits,
        dimensions=tuple(verdict["dimensions"]),
        headline=wording.headline(verdict),
        sentence=wording.sentence(verdict),
        scope=wording.scope(verdict),
        tally=wording.tally(verdict),
        warnings=wording.warnings(verdict),
        measures=wording.measures(verdict),
        worth=worth,
        differences=differences,
        reach=charts.forest_reach([e for row in differences for e in _ends(row)]),
        holm_note=checks.holm_note(verdict),
        power=checks.power_sentence(verdict),
        missing=checks.missing_sentence(verdict),
        agreement=checks.agreement(verdict),
        estimators=checks.other_estimators(verdict),
        lost=lost,
        lost_brief=forgetting.brief(verdict),
        lost_reach=charts.forest_reach(lost.ends),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        version=__version__,
        written=written,
        data_facts=data_facts(material.audit),
        training_facts=training_facts(material.training),
        length_bars=length_bars(material.audit),
        rendered_row=rendered_row(material.audit),
        baselines=opponents,
        baselines_intro=baselines.intro(verdict),
        baselines_reach=charts.forest_reach([e for row in opponents for e in _ends(row)]),
        aa=aa.sentences(verdict),
        data_name=Path(str(material.provenance.get("data", {}).get("file") or "")).name,
    )


def still_page(template: str, **values: Any) -> str:
    """A page without a script from `template`, with the style sheet and the policy of the report."""
    style = _part("report.css")
    page = _environment().from_string(_part(template))
    return page.render(
        **values,
        charts=charts,
        style=Markup(style),
        policy=_policy(style, None),
        version=__version__,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {  # pyright: ignore[reportAttributeAccessIssue]
        "score": wording.score,
        "points": wording.points,
        "interval": wording.interval,
        "p_value": wording.p_value,
        "facts": facts,
        "commands": _commands,
    }
    return environment


def _ends(row: checks.Difference | baselines.Row) -> list[float]:
    """What the forest plot must have room for."""
    return [*(row.ci95 or ()), *(() if row.difference is None else (row.difference,))]


def is_primary(run: RunDir, verdict: Mapping[str, Any]) -> bool:
    """Whether the verdict is that of the judge in config.yaml."""
    if not run.config.is_file():
        return True
    own, judge = load_config(run.config).judge, verdict["judge"]
    if (own.judge, own.rubric) != (judge["requested"], judge["requested_rubric"]):
        return False
    # the rubric's file may have been edited since the run was made by it
    marker = run.stamp_path("identity")
    made = read_saved(marker).get("judge", {}).get("rubric") if marker.exists() else None
    return made is None or made == judge["rubric_hash"]


def _part(name: str) -> str:
    return resources.files("gemma_lora.report").joinpath("templates", name).read_text("utf-8")


def _policy(style: str, script: str | None) -> str:
    def source(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    scripts = "" if script is None else f"script-src {source(script)}; "
    return (
        f"default-src 'none'; style-src {source(style)}; {scripts}"
        "base-uri 'none'; form-action 'none'"
    )


def _commands(text: str) -> Markup:
    """`like this` as code; everything is escaped first."""
    parts = [Markup.escape(wording.clean(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:  # an odd backtick is just a character
        return Markup("`").join(parts)
    pieces = [Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts)]
    return Markup("").join(pieces)


def _shown(value: Any) -> Any:
    """Every value that enters the page: markup of our own as it is, text made visible, then escaped."""
    return value if isinstance(value, Markup) else wording.clean(value)

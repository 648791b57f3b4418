"""What was lost, in report.html, report.md and the terminal: said, escaped, and absent where not measured."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.made_run import SLUG, make_run

from gemma_lora.console import Console
from gemma_lora.decision import decide
from gemma_lora.report import summary, write_report
from gemma_lora.report.forgetting import line_of, lost


@pytest.fixture
def made(tmp_path: Path):
    run, config = make_run(tmp_path)
    return run, config


def written(run, config) -> tuple[dict, str, str]:
    quiet = Console(quiet=True, stream=io.StringIO())
    verdict = decide(config, run, quiet, judge_slug=SLUG)
    write_report(run, verdict)
    return verdict, run.report_html.read_text("utf-8"), run.report_md.read_text("utf-8")


def test_every_form_says_it(made) -> None:
    verdict, html, markdown = written(*made)
    section = lost(verdict)
    assert section.word == "unclear"
    part = html.split('<h2 id="lost">')[1].split("</section>")[0]
    table = markdown.split("## What was lost")[1].split("## Answers")[0]
    for text in (part, table):
        assert "Whether general knowledge was lost is unclear." in text
        assert "2 more correctly than the base model: 61 % (95 %: 54 to 68 %)" in text
        assert "the model began to memorise" in text
        for row in section.rows:
            assert row.loss in text
            assert row.right in text
    assert "own &lt;b&gt;&amp;&lt;/b&gt; odd" in part
    assert "own <b>" not in html
    assert "own &lt;b&gt;" in table
    assert part.count('<tr role="row"><th role="rowheader"') == len(section.rows) == 8
    line = line_of(verdict)
    assert line == "general knowledge: unclear (101 of 165 right, 99 before; loss +0.09)"
    assert cell_len(line) <= 80
    assert line in summary(verdict)


def test_the_main_verdict_is_not_touched(made) -> None:
    run, config = made
    verdict, *_ = written(run, config)
    (run.forgetting / "forgetting.json").unlink()
    without, html, markdown = written(run, config)
    assert without["forgetting"] is None
    for name in ("verdict", "primary", "dimensions", "missing", "win_tie_loss", "robustness"):
        assert verdict[name] == without[name]
    assert "Not measured." in html.split('<h2 id="lost">')[1].split("</section>")[0]
    assert "**Not measured.**" in markdown
    assert "general knowledge" not in summary(without)

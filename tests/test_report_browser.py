"""report.html in a real browser: it works, loads nothing, runs nothing of the data's, fits the screen."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.made_run import SLUG, make_run
from support.made_seeds import conclude, make_seeds

from gemma_lora.compare import compare, write
from gemma_lora.console import Console
from gemma_lora.decision import decide
from gemma_lora.report import write_report
from gemma_lora.rundir import read_json, write_json

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("GEMMA_LORA_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = [
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no chromium on this machine"),
    pytest.mark.xdist_group("browser"),
]

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, config = make_run(tmp_path_factory.mktemp("run"))
    write_report(
        run, decide(config, run, Console(quiet=True, stream=io.StringIO()), judge_slug=SLUG)
    )
    return run.report_html


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


class Visit:
    """A page with everything that it complained about or asked for."""

    def __init__(self, browser: Any, report: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.noise: list[str] = []
        self.page.on("console", lambda message: self.noise.append(message.text))
        self.page.on("pageerror", lambda error: self.noise.append(str(error)))
        self.page.on("request", lambda request: self.noise.append(request.url))
        self.failed: dict[str, str | None] = {}
        self.page.on(
            "requestfailed", lambda request: self.failed.update({request.url: request.failure})
        )
        self.page.on("dialog", lambda dialog: self.noise.append("dialog"))
        self.url = report.as_uri()
        self.page.goto(self.url)

    def quiet(self) -> bool:
        return self.noise == [self.url]

    def overflow(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Visit]:
    with Visit(browser, report, viewport={"width": 1200, "height": 900}) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_fits_the_screen_in_both_schemes_without_a_complaint(browser, report, width, scheme):
    with Visit(
        browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme
    ) as opened:
        page = opened.page
        assert opened.overflow() <= 0
        page.get_by_role("button", name="Open all").click()
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert opened.overflow() <= 0
        assert page.evaluate("window.pwned") is None
        assert page.title() == "better · support.csv · gemma-lora report"
        # contrast of every text colour on the backgrounds it stands on, by the WCAG formula
        assert page.evaluate(CONTRAST) == []
        assert opened.quiet(), opened.noise


CONTRAST = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const [r, g, b] = parse(c).slice(0, 3).map((v) => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    const p = parse(c); if (p.length < 4 || p[3] > 0) return c; } return 'rgb(255,255,255)'; };
  const seen = new Map();
  for (const e of document.querySelectorAll('main *, header *, footer *')) {
    if (e.matches('title, desc') || !Array.from(e.childNodes).some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(e);
    const text = e instanceof SVGElement ? style.fill : style.color;
    const back = ground(e);
    const [a, b] = [light(text), light(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) seen.set(text + ' on ' + back, e.className.toString() + ' ' + ratio.toFixed(2));
  }
  return Array.from(seen.entries()).map(String);
}"""


def test_search_and_filter_narrow_the_rows(visit: Visit):
    page = visit.page
    rows = page.locator("#rows tbody tr:visible")
    assert rows.count() == 80
    page.get_by_label("Search in questions and answers").fill("rückerstattung BESTELLUNG")
    assert 0 < rows.count() < 20
    assert page.get_by_role("status").inner_text() == f"{rows.count()} of 80 questions"
    page.get_by_label("Search in questions and answers").fill("<script>window.pwned")
    assert rows.count() > 0
    page.get_by_label("Search in questions and answers").fill("")
    page.get_by_label("Show").select_option("worse")
    gains = [float(row.get_attribute("data-gain")) for row in rows.all()]
    assert gains
    assert max(gains) < 0
    page.get_by_label("Show").select_option("unscored")
    assert rows.count() == 3
    assert visit.quiet(), visit.noise


def test_sorting_by_keyboard(visit: Visit):
    page = visit.page
    head = page.get_by_role("columnheader", name="Gain")
    first = page.locator("#rows tbody tr").first
    last = page.locator("#rows tbody tr").last
    assert head.get_attribute("aria-sort") == "ascending"
    worst = first.get_attribute("id")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert float(first.get_attribute("data-gain")) > 5
    assert last.get_attribute("data-state") == "unscored"  # last in either direction
    page.keyboard.press("Space")
    assert first.get_attribute("id") == worst
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") is None
    assert page.locator("#rows th[data-key=base]").get_attribute("aria-sort") == "ascending"


def test_keyboard_reaches_verdict_and_opens_a_row(visit: Visit):
    page = visit.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(style) == "solid"
    summary = page.locator("#rows tbody tr summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("#rows tbody tr .sides").first.is_visible()


def test_what_a_screen_reader_finds(visit: Visit):
    page = visit.page
    for role in ("main", "banner", "contentinfo", "navigation"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("img", name="How often each overall score was given").count() == 1
    assert page.get_by_role("img", name="Loss during training").count() == 1
    assert page.get_by_role("img", name="overall: base").count() == 1
    assert page.get_by_role("table", name="Mean scores").get_by_role("row").count() == 7
    unnamed = """Array.from(document.querySelectorAll('input, select, button, table, svg[role=img], summary'))
        .filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel || e.querySelector('caption')))
        .length"""
    assert page.evaluate(unnamed) == 0
    twice = """(() => { const ids = Array.from(document.querySelectorAll('[id]'), (e) => e.id);
        return ids.filter((id, i) => ids.indexOf(id) !== i); })()"""
    assert page.evaluate(twice) == []
    missing = """Array.from(document.querySelectorAll('[aria-labelledby]'))
        .flatMap((e) => e.getAttribute('aria-labelledby').split(' ')).filter((id) => !document.getElementById(id))"""
    assert page.evaluate(missing) == []


def test_printing_shows_every_answer(visit: Visit):
    page = visit.page
    page.emulate_media(media="print")
    assert page.locator("#rows .sides").nth(40).is_visible()
    assert not page.locator("#tools").is_visible()
    assert len(page.pdf(format="A4")) > 50_000
    assert visit.quiet(), visit.noise


def test_readable_without_script(browser, report):
    with Visit(browser, report, java_script_enabled=False) as opened:
        page = opened.page
        assert page.locator("#rows tbody tr").count() == 80
        assert not page.locator("#tools").is_visible()
        page.locator("#rows tbody tr summary").first.click()
        assert page.locator("#rows tbody tr .sides").first.is_visible()


def test_the_policy_would_stop_what_slipped_through(browser, report, tmp_path):
    """The second line of defence: even unescaped markup in the page neither runs nor loads."""
    broken = tmp_path / "broken.html"
    attack = "<script>window.pwned = 1</script><img src='https://example.com/x' onerror='window.pwned = 2'>"
    html = report.read_text("utf-8")
    assert html.count("<footer>") == 1
    broken.write_text(html.replace("<footer>", attack + "<footer>"), "utf-8")
    with Visit(browser, broken) as opened:
        opened.page.wait_for_timeout(100)
        assert opened.page.evaluate("window.pwned") is None
        assert opened.failed == {"https://example.com/x": "csp"}
        assert any("Content Security Policy" in text for text in opened.noise)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page on a recipe of several seeds, and a comparison with what cannot be compared."""
    root = tmp_path_factory.mktemp("pages")
    parent, config = make_seeds(root / "recipe")
    conclude(parent, config)
    folders = [root / "recipe"]
    for name, gain in (("one", 1.0), ("a-rather-long-name-of-another-run-in-a-folder", 2.6)):
        run, own = make_run(root / name, gain=gain)
        if name != "one":
            facts = run.judgements(SLUG) / "judge.json"
            write_json(facts, {**read_json(facts), "snapshot": "another"})
        write_report(
            run, decide(own, run, Console(quiet=True, stream=io.StringIO()), judge_slug=SLUG)
        )
        folders.append(run.root)
    return {"recipe": parent.report_html, "compare": Path(write(compare(folders), root / "out")["report"])}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", ["recipe", "compare"])
def test_recipe_and_comparison_fit_the_screen_too(browser, others, name, width, scheme):
    with Visit(
        browser, others[name], viewport={"width": width, "height": 800}, color_scheme=scheme
    ) as opened:
        assert opened.overflow() <= 0
        assert opened.page.evaluate("window.pwned") is None
        assert opened.page.evaluate(CONTRAST) == []
        assert opened.quiet(), opened.noise
        opened.page.get_by_role("link", name="seed 8" if name == "recipe" else "one").click()
        assert opened.page.url.endswith("report.html"), "the runs' own reports are a click away"

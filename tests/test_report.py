"""The report's files: what they say, that data stays data, and where they are written."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.made_run import NASTY, SLUG, make_config, make_run

from gemma_lora.console import Console
from gemma_lora.decision import decide
from gemma_lora.records import Answer, Example
from gemma_lora.report import summary, write_report
from gemma_lora.report.charts import bins, loss_curves
from gemma_lora.report.wording import clean, headline, interval, points, sentence, warnings
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_json, write_jsonl

QUIET = Console(quiet=True, stream=io.StringIO())


class Page(HTMLParser):
    """Tags, attributes and visible text of a page, as a browser's parser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._raw = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    run, config = make_run(tmp_path_factory.mktemp("run"))
    verdict = decide(config, run, QUIET, judge_slug=SLUG)
    paths = write_report(run, verdict)
    return run, verdict, paths


@pytest.fixture(scope="module")
def html(made) -> str:
    return Path(made[2]["report"]).read_text("utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_files_and_the_copy_of_the_verdict(made):
    run, verdict, paths = made
    assert {Path(path).name for path in paths.values()} == {
        "report.html",
        "report.md",
        "verdict.json",
    }
    assert read_json(run.verdict) == verdict == read_json(run.judgements(SLUG) / "verdict.json")


def test_verdict_sentence_has_the_numbers_of_verdict_json(made, page):
    primary = made[1]["primary"]
    words = page.words()
    assert "The tuned model answers better than the base model" in words
    assert (
        f"On 77 unseen questions the tuned model scored {primary['tuned_mean']:.2f} "
        f"against {primary['base_mean']:.2f}" in words
    )
    assert f"95 % interval {interval(primary['ci95'])}" in words


def test_all_dimensions_warnings_and_questions_are_there(made, page):
    _, verdict, _ = made
    words = page.words()
    for name in ("relevance", "accuracy", "completeness", "fluency", "usefulness"):
        row = verdict["dimensions"][name]
        assert f"{name}: base {row['base_mean']:.2f}" in " ".join(
            a.get("aria-label") or "" for a in page.attributes("svg")
        )
    for text in warnings(verdict):
        assert " ".join(text.replace("`", "").split())[:60] in words
    assert len([a for a in page.attributes("tr") if "data-gain" in a]) == 80


def test_worst_regressions_come_first_and_the_unscored_last(page):
    gains = [a["data-gain"] for a in page.attributes("tr") if "data-gain" in a]
    known = [float(g) for g in gains if g]
    assert known == sorted(known)
    assert known[0] < 0
    assert gains[-3:] == ["", "", ""]


class TestDataStaysData:
    def test_only_our_own_script_and_style_and_nothing_that_loads(self, page):
        assert len(page.attributes("script")) == len(page.attributes("style")) == 1
        names = {tag for tag, _ in page.tags}
        assert not names & {"img", "iframe", "link", "object", "embed", "base", "form", "video"}
        for tag, attrs in page.tags:
            assert not [name for name in attrs if name.startswith("on") or name == "style"], tag
            assert "src" not in attrs
            if "href" in attrs:
                assert (attrs["href"] or "").startswith("#")

    @pytest.mark.parametrize("nasty", NASTY)
    def test_each_hostile_text_is_shown_as_it_is(self, nasty, page):
        shown = " ".join(str(clean(nasty)).split())
        assert shown[:80] in page.words()

    def test_no_tag_is_left_open_by_data(self, page, html):
        assert html.count("<main") == html.count("</main>") == 1
        assert html.rstrip().endswith("</html>")

    def test_policy_holds_the_hashes_of_what_is_inside(self, page, html):
        policy = next(
            a["content"]
            for a in page.attributes("meta")
            if a.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy is not None
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        for tag in ("style", "script"):
            found = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
            assert found is not None
            digest = base64.b64encode(hashlib.sha256(found.group(1).encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy

    def test_control_and_reversing_characters_become_visible(self, html):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
        assert "\\x00byte" in html
        assert "\\u202e" in html

    def test_lone_surrogates_do_not_break_the_writing(self):
        assert str(clean("a\ud800b")).encode("utf-8")

    def test_markdown_escapes_cells_and_fences_texts(self, made):
        text = Path(made[2]["report_md"]).read_text("utf-8")
        outside, fence = [], None
        for line in text.split("\n"):
            ticks = re.match(r"`{3,}", line)
            if fence is None and ticks:
                fence = ticks.group()
            elif fence is not None and line == fence:
                fence = None
            elif fence is None:
                outside.append(line)
        assert fence is None
        assert not [line for line in outside if re.search(r"<[a-zA-Z/!]", line)]
        table = outside[outside.index("## Answers") : outside.index("## Training")]
        rows = [line for line in table if re.match(r"\| \d+ \|", line)]
        assert len(rows) == 80
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {6}

    def test_markdown_renders_no_markup_of_the_data(self, made):
        markdown_it = pytest.importorskip("markdown_it")
        text = Path(made[2]["report_md"]).read_text("utf-8")
        rendered = Page(markdown_it.MarkdownIt("commonmark").enable("table").render(text))
        names = {tag for tag, _ in rendered.tags}
        assert not names & {"script", "style", "svg", "img", "a", "iframe", "b", "i"}
        assert len(rendered.attributes("tr")) > 80


@pytest.mark.parametrize("ticks", ["```", "````", "~~~"])
def test_markdown_fences_hold_whatever_the_answer_fences(ticks, tmp_path):
    markdown_it = pytest.importorskip("markdown_it")
    run, config = make_run(tmp_path, questions=12, unscored=False)
    rows = read_jsonl(run.answers("tuned"), Answer)
    text = f"{ticks}\n# broken out\n{ticks}"
    write_jsonl(run.answers("tuned"), [row.model_copy(update={"answer": text}) for row in rows])
    write_report(run, decide(config, run, QUIET, judge_slug=SLUG))
    tokens = markdown_it.MarkdownIt("commonmark").parse(run.report_md.read_text("utf-8"))
    headings = [after.content for tag, after in pairwise(tokens) if tag.type == "heading_open"]
    assert "broken out" not in headings
    assert len([t for t in tokens if t.type == "fence" and "# broken out" in t.content]) == 12


def test_markdown_says_the_same(made):
    text = Path(made[2]["report_md"]).read_text("utf-8")
    primary = made[1]["primary"]
    assert text.startswith("# Verdict: better\n")
    assert f"{primary['tuned_mean']:.2f} against {primary['base_mean']:.2f}" in text
    assert f"| {interval(primary['ci95'])} |" in text


class TestOtherVerdicts:
    @pytest.fixture
    def verdict(self, made) -> dict:
        return copy.deepcopy(made[1])

    @pytest.mark.parametrize("word", ["better", "worse", "equivalent", "inconclusive"])
    def test_each_word_has_its_sentence(self, word, verdict, made):
        verdict["verdict"] = word
        plain = headline(verdict)
        write_report(made[0], verdict)
        html = made[0].report_html.read_text("utf-8")
        assert plain in html
        verdict["judge"]["is_llm"] = False
        assert "reference answers" in headline(verdict)

    def test_no_interval_is_said(self, verdict, made):
        verdict["primary"] |= {"ci95": None, "p_value": None, "base_ci95": None, "tuned_ci95": None}
        verdict["verdict"] = "inconclusive"
        write_report(made[0], verdict)
        assert "no interval" in made[0].report_html.read_text("utf-8")
        assert "no interval possible" in made[0].report_md.read_text("utf-8")
        assert "verdict: inconclusive" in summary(verdict)


def test_demonstration_model_and_lexical_judge_are_labelled_everywhere(tmp_path):
    run, config = make_run(
        tmp_path, config=make_config(judge="lexical", model="starter"), lexical=True
    )
    verdict = decide(config, run, QUIET, judge_slug="lexical")
    write_report(run, verdict)
    page = Page(run.report_html.read_text("utf-8"))
    for text in (
        page.words(),
        run.report_md.read_text("utf-8").replace("\\", ""),
        summary(verdict),
    ):
        assert "Demonstration model" in text
        assert "--model google/gemma-2b-it" in text
        assert "not a language model" in text
        assert "not measured" in text


def test_a_second_judge_stands_beside_the_first(tmp_path):
    run, config = make_run(tmp_path)
    first = decide(config, run, QUIET, judge_slug=SLUG)
    write_report(run, first)
    before = run.report_html.read_bytes()
    make_run(run.root, lexical=True)
    other = config.model_copy(
        update={"judge": config.judge.model_copy(update={"judge": "lexical"})}
    )
    second = decide(other, run, QUIET, judge_slug="lexical")
    paths = write_report(run, second)
    assert Path(paths["report"]) == run.judgements("lexical") / "report.html"
    assert run.report_html.read_bytes() == before
    assert read_json(run.verdict) == first


def test_partial_folders_still_give_a_report(tmp_path):
    run, config = make_run(tmp_path)
    for path in (run.metrics, run.training, run.audit, run.provenance, run.config, run.test_rows):
        path.unlink()
    write_report(run, decide(config, run, QUIET, judge_slug=SLUG))
    words = Page(run.report_html.read_text("utf-8")).words()
    assert "No loss curve was saved" in words
    assert "Nothing was saved" in words


def test_audit_of_another_shape_is_listed_as_it_is(tmp_path):
    run, config = make_run(tmp_path)
    write_json(run.audit, {"rows": 7, "odd": [{"a": 1}, 2], "deep": {"x": {"y": None}}})
    write_report(run, decide(config, run, QUIET, judge_slug=SLUG))
    words = Page(run.report_html.read_text("utf-8")).words()
    assert "odd 1 › a" in words
    assert "deep › x › y" in words


def test_very_many_questions_and_very_long_texts_are_cut_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("gemma_lora.report.gathering.MOST_ROWS", 20)
    monkeypatch.setattr("gemma_lora.report.gathering.LONGEST_TEXT", 30)
    run, config = make_run(tmp_path)
    write_report(run, decide(config, run, QUIET, judge_slug=SLUG))
    page = Page(run.report_html.read_text("utf-8"))
    assert len([a for a in page.attributes("tr") if "data-gain" in a]) == 20
    assert "60 of 80 questions, in the middle by gain, are not listed here" in page.words()
    assert "more characters are in the file" in page.words()


@pytest.fixture
def leaked(tmp_path: Path):
    """Every test question stands among the training rows, too."""
    run, config = make_run(
        tmp_path, config=make_config(judge="lexical", model="starter"), lexical=True, questions=12
    )
    write_jsonl(run.train_rows, read_jsonl(run.test_rows, Example))
    verdict = decide(config, run, QUIET, judge_slug="lexical")
    write_report(run, verdict)
    return run, verdict


class TestQuestionsOfTheTraining:
    def test_are_never_called_unseen(self, leaked):
        run, verdict = leaked
        primary = verdict["primary"]["n"]
        page = Page(run.report_html.read_text("utf-8")).words()
        for text in (page, run.report_md.read_text("utf-8"), summary(verdict)):
            assert "unseen" not in text
        said = (
            f"On {primary} questions, {primary} of which are also in the training rows, the tuned"
        )
        assert said in page
        assert said in run.report_md.read_text("utf-8")
        assert f"compared ({primary} also in the training rows)" in summary(verdict)

    def test_one_of_them_is_singular(self, leaked):
        verdict = {**leaked[1], "compared_also_in_training": 1}
        assert "1 of which is also in the training rows" in sentence(verdict)
        verdict["primary"] = {**verdict["primary"], "n": 1}
        assert sentence(verdict).startswith(
            "On 1 question, which is also in the training rows, the"
        )

    def test_the_caveat_is_in_full_in_the_summary(self, leaked):
        _, verdict = leaked
        (caveat,) = [text for text in verdict["warnings"] if "by heart" in text]
        for width in (60, 80, 100):
            shown = " ".join(summary(verdict, width=width).split())
            assert f"! {caveat}" in shown


class TestSentences:
    def test_warnings_of_stages_are_shown_as_sentences(self, made, tmp_path):
        saved = [
            "the last validation was the best: train longer (--epochs)",
            "fp16 gradients overflowed",
            "split/test.jsonl is short.",
            "`lexical` is no model!",
            "éclair, 2 times",
            "don't; ever",
        ]
        shown = [
            "The last validation was the best: train longer (--epochs).",
            "fp16 gradients overflowed.",
            "split/test.jsonl is short.",
            "`lexical` is no model!",
            "Éclair, 2 times.",
            "Don't; ever.",
        ]
        verdict = {**made[1], "warnings": saved}
        assert warnings(verdict) == shown
        run, _ = make_run(tmp_path)
        write_report(run, verdict)
        html = Page(run.report_html.read_text("utf-8")).words()
        text = run.report_md.read_text("utf-8")
        for line in (shown[0], shown[1]):
            assert line in html
            assert line.partition(" (")[0] in text
            assert line in " ".join(summary(verdict).split())


def test_only_lexical_says_how_it_measures(tmp_path, made):
    assert "content words are" not in made[0].report_html.read_text("utf-8")
    run, config = make_run(tmp_path, config=make_config(judge="lexical"), lexical=True)
    write_report(run, decide(config, run, QUIET, judge_slug="lexical"))
    page = Page(run.report_html.read_text("utf-8")).words()
    for text in (page, run.report_md.read_text("utf-8")):
        assert "the share of the answer's content words that the question" in text


class TestSummary:
    @pytest.mark.parametrize("width", [60, 80, 100])
    @pytest.mark.parametrize("word", ["better", "worse", "equivalent", "inconclusive"])
    def test_nothing_is_cut_off(self, word, width, made):
        verdict = copy.deepcopy(made[1])
        verdict["verdict"] = word
        verdict["judge"] |= {"is_llm": False, "name": "replay:" + "a/long/name/" * 12}
        text = summary(verdict, width=width)
        assert f"verdict: {word}. {headline(verdict)}." in " ".join(text.split())
        assert verdict["judge"]["name"] in "".join(text.split())
        if width >= 80:  # the table needs so much
            assert "…" not in text
            assert max(map(len, text.splitlines())) <= width

    def test_warnings_of_wide_characters_stay_inside_the_width(self, made):
        text = summary({**made[1], "warnings": ["订单" * 100, "short"]}, width=80)
        assert max(cell_len(line) for line in text.splitlines()) <= 80
        assert "".join(text.split()).count("订单") == 100

    def test_fits_a_terminal(self, made):
        text = summary(made[1])
        assert len(text.splitlines()) <= 30
        assert max(map(len, text.splitlines())) <= 100
        assert "verdict: better" in text
        assert "unscored: base 1, tuned 2" in text
        assert "\x1b" not in text

    def test_many_warnings_are_counted(self, made):
        verdict = {**made[1], "warnings": [f"warning {i} " + "long " * 40 for i in range(40)]}
        text = summary(verdict)
        assert len(text.splitlines()) <= 30
        assert re.search(r"\d+ more warnings are in the report", text)

    def test_text_from_data_cannot_colour_or_move(self, made):
        verdict = copy.deepcopy(made[1])
        verdict["judge"]["name"] = "x\x1b[31m[bold]y"
        verdict["warnings"] = ["a\x1b[2Jb [red]c[/red]\nd"]
        text = summary(verdict, colour=False)
        assert "\x1b" not in text
        assert "[bold]y" in text
        assert "[red]c[/red] d" in text


class TestNumbers:
    def test_points_have_a_sign_and_no_negative_zero(self):
        assert [points(v) for v in (1.5, -0.25, -0.001, 0.0)] == ["+1.50", "−0.25", "0.00", "0.00"]

    def test_bins_round_to_the_nearest_score(self):
        assert bins([1.0, 1.49, 1.5, 9.5, 10.0]) == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]

    @pytest.mark.parametrize(
        ("training", "validation", "best"),
        [([(1, 2.0)], [], None), ([], [(0, 3.0), (5, 3.0)], 5), ([(1, 0.0), (2, 900.0)], [], 9)],
    )
    def test_curves_of_few_or_equal_points(self, training, validation, best):
        drawn = str(loss_curves(training, validation, best))
        assert drawn.startswith("<svg")
        assert "nan" not in drawn


def test_making_a_report_touches_nothing_else(tmp_path):
    run, config = make_run(tmp_path)
    before = {p: p.read_bytes() for p in run.root.rglob("*") if p.is_file()}
    write_report(RunDir(run.root), decide(config, run, QUIET, judge_slug=SLUG))
    assert {p: p.read_bytes() for p in before} == before

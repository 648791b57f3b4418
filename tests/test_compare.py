"""`gemma-lora compare`: what is claimed between runs, what is not, how faults are told, the page."""

from __future__ import annotations

import json
import re
import shutil
import sys
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from support.made_run import NASTY, SLUG, make_config, make_run
from support.made_seeds import QUIET, conclude, make_seeds
from support.plugins import install

from gemma_lora import judge as judging
from gemma_lora.cli import main
from gemma_lora.compare import compare, table
from gemma_lora.decision import decide
from gemma_lora.errors import ConfigError
from gemma_lora.records import Example, Judgement
from gemma_lora.report import write_report
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_json, write_jsonl
from gemma_lora.statistics import clustered_mean, holm


def made(
    folder: Path, *, gain: float, rank: int = 16, seconds: float = 500.0, **judge: Any
) -> Path:
    """A finished run of the same questions; `judge` changes judge.json."""
    config = make_config()
    lora = config.lora.model_copy(update={"rank": rank, "alpha": 2.0 * rank})
    config = config.model_copy(update={"lora": lora})
    run, _ = make_run(folder, config=config, gain=gain)
    training = read_json(run.training)
    training |= {"seconds": seconds, "tokens": 33_482, "steps_done": 60, "peak_rss_mib": 9_000.0}
    training["decisions"]["steps_per_epoch"] = 20
    write_json(run.training, training)
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"0" * 2_000_000)
    facts = run.judgements(SLUG) / "judge.json"
    write_json(facts, {**read_json(facts), **judge})
    write_report(run, decide(config, run, QUIET, judge_slug=SLUG))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("compared")
    parent, config = make_seeds(root / "recipe")
    conclude(parent, config)
    return {
        "small": made(root / "small", gain=2.2, rank=8, seconds=340.0),
        "large": made(root / "large", gain=2.9, rank=64, seconds=2210.0),
        "same": made(root / "same", gain=2.2, rank=8),
        "snapshot": made(root / "snapshot", gain=2.6, snapshot="gpt-5-2026-10-01"),
        "rubric": made(root / "rubric", gain=2.6, prompt_hash="cd" * 32),
        "recipe": root / "recipe",
    }


def tuned(run: Path) -> dict[str, float | None]:
    rows = read_jsonl(run / "judgements" / SLUG / "judgements.jsonl", Judgement)
    return {row.id: row.overall for row in rows if row.arm == "tuned"}


def test_pairs_are_paired_by_question_with_the_verdicts_estimator(runs):
    names = ("small", "large", "same")
    found = compare([runs[name] for name in names])
    clusters = {r.id: r.cluster for r in read_jsonl(runs["small"] / "split/test.jsonl", Example)}
    expected = {}
    for first, second in combinations(names, 2):
        a, b = tuned(runs[first]), tuned(runs[second])
        ids = [name for name in clusters if a[name] is not None and b[name] is not None]
        differences = [(b[name] or 0) - (a[name] or 0) for name in ids]
        labels = [clusters[name] for name in ids]
        expected[first, second] = clustered_mean(differences, labels, low=-9, high=9)
    adjusted = holm({str(n): e.p_value for n, e in enumerate(expected.values())})
    for n, (row, want) in enumerate(zip(found["pairs"], expected.values(), strict=True)):
        assert row["difference"] == pytest.approx(want.mean, abs=1e-4)
        assert row["ci95"] == pytest.approx(want.ci95, abs=1e-4)
        assert row["p_holm"] == adjusted[str(n)]
    assert [row["claim"] for row in found["pairs"]] == ["higher", "equivalent", "lower"]
    assert found["groups"] == [["A", "B", "C"]]
    assert found["not_comparable"] == []


def test_a_claim_needs_its_p_value_after_holm(runs, tmp_path):
    """Alone it would be told apart; as one of many pairs it is not."""
    for number in range(6):
        shutil.copytree(runs["small"], tmp_path / str(number))
    last = RunDir(tmp_path / "5")
    path = last.judgements(SLUG) / "judgements.jsonl"
    rng = np.random.default_rng(2)
    rows = [
        row.model_copy(update={"overall": min(10.0, max(1.0, row.overall + rng.normal(0.25, 1.0)))})
        if row.arm == "tuned" and row.overall is not None
        else row
        for row in read_jsonl(path, Judgement)
    ]
    write_jsonl(path, rows)
    alone = compare([tmp_path / "0", tmp_path / "5"])["pairs"][0]
    assert alone["p_value"] < 0.05
    assert alone["claim"] == "higher"
    many = compare([tmp_path / str(number) for number in range(6)])["pairs"]
    row = next(row for row in many if row["runs"] == ["A", "F"])
    assert row["p_value"] == alone["p_value"]
    assert row["p_holm"] > 0.05
    assert row["claim"] == "not told apart"


def test_near_duplicates_in_either_run_count_once_and_the_order_does_not_matter(runs, tmp_path):
    """Which questions are found to be alike depends on a run's training rows, too."""
    other = tmp_path / "threes"
    shutil.copytree(runs["large"], other)
    rows = read_jsonl(RunDir(other).test_rows, Example)
    threes = [row.model_copy(update={"cluster": f"t{n // 3}"}) for n, row in enumerate(rows)]
    write_jsonl(RunDir(other).test_rows, threes)
    (there,) = compare([runs["small"], other])["pairs"]
    (back,) = compare([other, runs["small"]])["pairs"]
    assert there["ci95"] == pytest.approx([-end for end in back["ci95"][::-1]])
    (apart,) = compare([runs["small"], runs["large"]])["pairs"]
    assert there["difference"] == apart["difference"]
    assert there["ci95"] != apart["ci95"]


def test_a_claim_without_a_p_value_is_none(runs, tmp_path):
    """All differences equal: the interval is a bound, and Holm has nothing to correct."""
    moved = tmp_path / "moved"
    shutil.copytree(runs["small"], moved)
    for folder, overall in ((tmp_path / "flat", 4.0), (moved, 7.0)):
        if not folder.exists():
            shutil.copytree(runs["small"], folder)
        path = RunDir(folder).judgements(SLUG) / "judgements.jsonl"
        rows = read_jsonl(path, Judgement)
        flat = [
            row.model_copy(update={"overall": overall, "unscored_reason": None})
            if row.arm == "tuned"
            else row
            for row in rows
        ]
        write_jsonl(path, flat)
    (row,) = compare([tmp_path / "flat", moved])["pairs"]
    assert (row["word"], row["p_holm"], row["claim"]) == ("better", None, "not told apart")


def test_another_judge_or_other_questions_make_no_claim_and_say_so(runs, tmp_path):
    other = tmp_path / "questions"
    shutil.copytree(runs["large"], other)
    run = RunDir(other)
    rows = read_jsonl(run.test_rows, Example)
    write_jsonl(run.test_rows, [rows[0].model_copy(update={"id": "f" * 16}), *rows[1:]])
    found = compare([runs["small"], runs["snapshot"], runs["rubric"], other])
    assert found["pairs"] == []
    assert found["groups"] == [["A"], ["B"], ["C"], ["D"]]
    why = {tuple(row["runs"]): "; ".join(row["reasons"]) for row in found["not_comparable"]}
    assert why["A", "B"] == "another snapshot of the judge"
    assert why["A", "C"] == "another rubric or prompt"
    assert "other test questions (80 and 81, 80 shared)" in why["A", "D"]
    text = table(found)
    assert text.startswith("NOT COMPARABLE")
    assert "no two runs can be compared" in text
    assert "higher" not in text


PLAIN = """
import json

class Backend:
    def __init__(self, model): pass
    async def ask(self, *, system, user, schema, max_tokens):
        names = [n for n in schema["required"] if n != "reasoning"]
        score = LEVEL + len(user) % (LEVEL + 3) % 4
        return json.dumps({"reasoning": "r", **dict.fromkeys(names, score)})
"""


def judged_by_package(
    folder: Path, version: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A finished run whose judge is a plug-in of this version, which does not say what model it is."""
    config = make_config(judge="acme:m")
    quick = config.judge.model_copy(update={"canaries": 0})
    config = config.model_copy(update={"judge": quick})
    run, _ = make_run(folder, config=config, questions=24)
    site = install(
        folder.with_name(f"site-{folder.name}"), f"LEVEL = {level}\n{PLAIN}", version=version
    )
    with monkeypatch.context() as here:
        here.syspath_prepend(str(site))
        sys.modules.pop("acme_judge", None)
        slug = judging.judge(config, run, QUIET).name
    run.adapter.mkdir()
    shutil.rmtree(run.judgements(SLUG))
    write_report(run, decide(config, run, QUIET, judge_slug=slug))
    return folder


def test_two_versions_of_a_plug_in_are_two_judges(tmp_path, monkeypatch):
    """They say no snapshot, so package and version are all that tells them apart."""
    monkeypatch.setenv("GEMMA_LORA_CACHE", str(tmp_path / "cache"))
    old, new, same = (
        judged_by_package(tmp_path / name, version, level, monkeypatch)
        for name, version, level in (("old", "1.2", 1), ("new", "2.0", 6), ("same", "1.2", 1))
    )
    found = compare([old, new, same])
    assert "higher" not in [row["claim"] for row in found["pairs"]], found["pairs"]
    assert found["groups"] == [["A", "C"], ["B"]]
    assert [row["runs"] for row in found["pairs"]] == [["A", "C"]], (
        "5 points between A and B are no gain"
    )
    why = {tuple(row["runs"]): row["reasons"] for row in found["not_comparable"]}
    assert why["A", "B"] == why["B", "C"] == ["another version of the judge's package"]
    assert [run["judge_version"] for run in found["runs"]] == ["1.2", "2.0", "1.2"]
    told = [text for text in found["warnings"] if "does not say" in text]
    assert len(told) == 1
    assert told[0].startswith("A, C: the judge acme:m does not say which model"), (
        "the pair alone is claimed"
    )
    judge = read_json(new / "verdict.json")["judge"]
    assert judge["snapshot"] is None
    assert [judge[key] for key in ("plugin", "package", "version")] == ["acme", "acme-judge", "2.0"]
    for name in ("report.html", "report.md"):
        text = (new / name).read_text("utf-8")
        assert re.search(r"version\W[^0-9]*2\.0", text), name


def test_a_judge_that_says_its_snapshot_is_not_warned_of(runs):
    assert not [
        t for t in compare([runs["small"], runs["large"]])["warnings"] if "does not say" in t
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"package": "other-judge"}, "a judge of another package"),
        ({"protocol": "messages"}, "a judge over another protocol"),
        ({"scoring": "expected score"}, "another way of scoring"),
        ({"rubric_hash": "cd" * 32}, "another rubric or prompt"),
        ({"schema_hash": "cd" * 32}, "another schema of the reply"),
        ({"parameters": {"max_tokens": 1}}, "other parameters of the judge"),
        ({"repeats": 3}, "another number of repeats"),
    ],
)
def test_whatever_decides_scores_makes_another_judge(runs, tmp_path, change, reason):
    other = made(tmp_path / "other", gain=2.9, **change)
    found = compare([runs["small"], other])
    assert found["pairs"] == []
    assert [row["reasons"] for row in found["not_comparable"]] == [[reason]]


def test_several_seeds_bring_their_error_and_one_seed_is_said(runs):
    found = compare([runs["small"], runs["recipe"]])
    row = found["pairs"][0]
    children = [tuned(runs["recipe"] / "seeds" / str(seed)) for seed in (7, 8, 9)]
    a = tuned(runs["small"])
    ids = [name for name in a if a[name] is not None]
    means = [np.mean([child[name] for name in ids]) for child in children]
    reach = 4.302653 * np.std(means, ddof=1) / 3**0.5
    half = (row["ci95"][1] - row["ci95"][0]) / 2
    assert half > reach, "the seeds' part alone is less than the whole"
    assert row["scope"] == "a recipe and a checkpoint"
    assert found["runs"][1]["seeds"] == 3
    assert found["runs"][1]["training_seconds"] == pytest.approx(3 * 512.4)
    assert any(text.startswith("A: one training seed") for text in found["warnings"])


def test_only_what_differs_is_listed(runs):
    settings = {
        row["name"]: row["values"] for row in compare([runs["small"], runs["large"]])["settings"]
    }
    assert settings == {"lora.rank": [8, 64], "lora.alpha": [16.0, 128.0]}
    assert compare([runs["small"], runs["same"]])["settings"] == []


def test_costs_are_those_of_the_run(runs):
    run = compare([runs["small"], runs["large"]])["runs"][1]
    assert run["training_seconds"] == 2210.0
    assert run["tokens_trained"] == 33_482 * 3
    assert run["adapter_bytes"] == 2_000_000
    assert run["judge_cost"] == read_json(runs["large"] / "verdict.json")["judge"]["cost"]
    lost = read_json(runs["large"] / "verdict.json")["forgetting"]
    figures = {name: lost[name]["difference"] for name in ("accuracy", "loss")}
    assert run["forgetting"] == {"word": "unclear", "figures": figures}


@pytest.mark.parametrize(
    ("forgetting", "shown"),
    [
        ({"verdict": "lost", "accuracy": {"difference": -0.071}, "loss": {"difference": 0.213}}, "lost (−7.1 points right, loss +0.21)"),
        ({"verdict": "kept", "accuracy": None, "loss": {"difference": -0.02}}, "kept (loss −0.02)"),
        ({"verdict": "forgotten"}, "forgotten"),
        ({"loss": {"base": 1}}, "measured"),
        ("odd", "not measured"),
    ],
)  # fmt: skip
def test_forgetting_is_shown_whatever_its_shape(runs, tmp_path, forgetting, shown):
    copy = tmp_path / "copy"
    shutil.copytree(runs["large"], copy)
    write_json(
        copy / "verdict.json", {**read_json(copy / "verdict.json"), "forgetting": forgetting}
    )
    assert shown in " ".join(table(compare([runs["small"], copy]), width=200).split())


# ---------------------------------------------------------------------- faults


def test_all_faults_are_told_at_once(runs, tmp_path, capsys):
    shutil.copytree(runs["small"], tmp_path / "unfinished")
    (tmp_path / "unfinished" / "verdict.json").unlink()
    shutil.copytree(runs["small"], tmp_path / "torn")
    text = (tmp_path / "torn" / "verdict.json").read_text()
    (tmp_path / "torn" / "verdict.json").write_text(text[: len(text) // 2])
    shutil.copytree(runs["small"], tmp_path / "edited")
    verdict = read_json(tmp_path / "edited" / "verdict.json")
    verdict["primary"].pop("tuned_mean")
    write_json(tmp_path / "edited" / "verdict.json", verdict)
    shutil.copytree(runs["small"], tmp_path / "lost")
    (tmp_path / "lost" / "judgements" / SLUG / "judgements.jsonl").unlink()
    (tmp_path / "link").symlink_to(runs["small"])
    (tmp_path / "empty").mkdir()
    names = ["unfinished", "torn", "edited", "lost", "link", "empty", "absent"]
    folders = [runs["small"], *(tmp_path / name for name in names)]
    folders += [runs["recipe"], runs["recipe"] / "seeds" / "7"]
    code = main(["compare", *map(str, folders), "--json", "--out", str(tmp_path / "out")])
    out = json.loads(capsys.readouterr().out)
    assert code == out["exit_code"] == 2
    told = {Path(line.split(":")[0]).name: line for line in out["details"]}
    assert "is unfinished" in told["unfinished"]
    assert "verdict.json is damaged" in told["torn"]
    assert "lacks 'tuned_mean'" in told["edited"]
    assert "judgements.jsonl is missing" in told["lost"]
    assert "is the same run" in told["link"]
    assert "is not a run folder" in told["empty"]
    assert "does not exist" in told["absent"]
    assert "is a part of" in told["7"]
    assert len(out["details"]) == 8
    assert not (tmp_path / "out").exists()


def test_one_run_is_not_compared(runs):
    with pytest.raises(ConfigError) as fault:
        compare([runs["small"]])
    assert fault.value.details == ("1 run is named; comparing takes two or more",)
    assert main(["compare"]) == 2


# ---------------------------------------------------------------------- files


def test_the_same_comparison_is_written_again_and_no_other_over_it(
    runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    argv = ["compare", str(runs["small"]), str(runs["large"]), "--json"]
    assert main(argv) == 0
    first = json.loads(capsys.readouterr().out)
    folder = Path(first["report"]).parent
    assert folder.parts[0] == "compare"
    assert folder.name.startswith("small-large-")
    assert {p.name for p in folder.iterdir()} == {"compare.html", "compare.json", "compare.md"}
    assert main(argv) == 0
    capsys.readouterr()
    other = ["compare", str(runs["small"]), str(runs["same"]), "--out", str(folder)]
    before = (folder / "compare.html").read_bytes()
    assert main(other) == 2
    assert "not written over" in capsys.readouterr().err
    assert (folder / "compare.html").read_bytes() == before
    assert main([*other[:-1], str(runs["small"])]) == 2, "a run folder is no place for it"


def test_the_page_links_escapes_and_loads_nothing(runs, tmp_path, monkeypatch):
    hostile = tmp_path / "<b>x & 'y' #1"
    shutil.copytree(runs["large"], hostile)
    text = (hostile / "config.yaml").read_text()
    (hostile / "config.yaml").write_text(text.replace("support.csv", json.dumps(NASTY[0])))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert main(["compare", str(runs["small"]), str(hostile), str(runs["snapshot"]), "--out", str(out)]) == 0  # fmt: skip
    html = (out / "compare.html").read_text("utf-8")
    assert "<script" not in html
    assert "<b>x" not in html
    assert "&lt;b&gt;x &amp; " in html
    assert 'role="alert">NOT COMPARABLE' in html
    assert 'aria-labelledby="qc-t qc-d"' in html
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    for label, run in (("A", runs["small"]), ("B", hostile)):
        link = re.search(rf'<b>{label}</b> <a href="([^"]+)">', html)
        assert link is not None
        assert (out / unquote(link[1])).samefile(run / "report.html")
    markdown = (out / "compare.md").read_text("utf-8")
    assert "NOT COMPARABLE" in markdown
    assert "&lt;b&gt;" in markdown


def test_the_chart_draws_every_run_whose_time_is_known(runs):
    from gemma_lora.compare.chart import clock, quality_against_cost

    found = compare([runs["small"], runs["large"], runs["snapshot"]])
    svg = str(quality_against_cost(found["runs"], found["groups"]))
    assert svg.count("whisker effect") == 3
    assert svg.count("<circle") == 2
    assert svg.count("<rect") == 1, "what is not comparable has another mark"
    assert "A: 6.08 after 6 min" in svg
    long = [{**found["runs"][0], "training_seconds": 5.0}, found["runs"][1]]
    assert "logarithmic" in quality_against_cost(long, found["groups"])
    none = [{**run, "training_seconds": None} for run in found["runs"]]
    assert quality_against_cost(none, found["groups"]) == ""
    assert [clock(s) for s in (None, 2.345, 45.0, 700.0, 12_240.0)] == ["–", "2.35 s", "45 s", "12 min", "3.4 h"]  # fmt: skip

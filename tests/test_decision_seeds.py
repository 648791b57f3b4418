"""The recipe's verdict from several runs, and its report: figures, words, what is missing, links."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from support.made_run import SLUG
from support.made_seeds import QUIET, conclude, make_seeds

from gemma_lora import judge as judging
from gemma_lora.agreement import quadratic_kappa
from gemma_lora.console import Console
from gemma_lora.decision import decide, decide_seeds, renewed_seeds
from gemma_lora.decision.pairing import pair_up
from gemma_lora.errors import DataError, JudgeError
from gemma_lora.judge.attacks import load_attacks
from gemma_lora.judge.canaries import measured
from gemma_lora.loading import load_config
from gemma_lora.records import ARMS, Answer, Example, Judgement
from gemma_lora.report import seeds_summary, summary, write_seeds_report
from gemma_lora.report.checks import power_sentence
from gemma_lora.report.worth import attack_sentences, cost_sentence, other_rows
from gemma_lora.rundir import read_json, read_jsonl, write_json, write_jsonl
from gemma_lora.statistics import crossed_mean, minimum_detectable


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    parent, config = make_seeds(tmp_path_factory.mktemp("seeds") / "recipe")
    return parent, config, conclude(parent, config)


def differences(run):
    """Question id to tuned minus base, and the clusters, counted out anew."""
    questions, _ = pair_up(
        read_jsonl(run.test_rows, Example),
        {arm: read_jsonl(run.answers(arm), Answer) for arm in ARMS},
        read_jsonl(run.judgements(SLUG) / "judgements.jsonl", Judgement),
    )
    return {q.id: q.difference() for q in questions}, [q.cluster for q in questions]


def test_the_figures_are_those_of_the_table_of_questions_by_seeds(made):
    parent, config, verdict = made
    columns = [differences(parent.child(seed)) for seed in config.training_seeds]
    table = np.array([list(column.values()) for column, _ in columns]).T
    found = crossed_mean(table, columns[0][1], low=-9, high=9)
    primary, seeds = verdict["primary"], verdict["seeds"]
    assert primary["difference"] == pytest.approx(table.mean(), abs=1e-4)
    assert primary["ci95"] == pytest.approx(found.estimate.ci95, abs=1e-4)
    assert primary["p_value"] == found.estimate.p_value
    for run, mean in zip(seeds["runs"], found.seed_means, strict=True):
        assert run["difference_on_shared"] == pytest.approx(mean, abs=1e-4)
        own = read_json(parent.root / run["folder"] / "verdict.json")
        assert (run["verdict"], run["ci95"]) == (own["verdict"], own["primary"]["ci95"])
    parts = seeds["components"]
    assert parts["seed"]["variance"] == pytest.approx(found.components.seed, abs=1e-4)
    assert sum(parts[name]["share"] for name in ("question", "seed", "residual")) == pytest.approx(
        1, abs=1e-3
    )
    assert parts["judge"] is None
    ends, own = primary["ci95"], seeds["ci95_these_seeds"]
    assert ends[0] < own[0] < own[1] < ends[1], "the recipe is less certain than its checkpoints"


def test_it_has_what_scripts_rely_on(made):
    _, _, verdict = made
    single = {"schema_version", "verdict", "primary", "dimensions", "arms", "win_tie_loss"}
    single |= {"unscored", "judge", "forgetting", "warnings", "missing", "rule", "scope"}
    single |= {"power", "canaries", "other_judges", "teacher"}
    assert single <= verdict.keys()
    assert verdict["verdict"] == "better"
    assert verdict["scope"] == "this recipe (over 3 training seeds)"
    assert sum(verdict["win_tie_loss"].values()) == verdict["primary"]["n"] == 80
    one = decide_single(made)
    assert verdict["primary"].keys() == one["primary"].keys()
    assert verdict["dimensions"].keys() == one["dimensions"].keys()


def decide_single(made):
    parent, config, _ = made
    child = parent.child(config.training_seeds[0])
    return decide(load_config(child.config), child, QUIET, judge_slug=SLUG)


def test_the_report_says_it_in_words_and_links_the_runs(made):
    parent, _, verdict = made
    html, text = (Path(verdict[name]).read_text("utf-8") for name in ("report", "report_md"))
    terminal = seeds_summary(verdict)
    for shown in (html, text, terminal):
        plain = " ".join(shown.replace("\\", "").split())
        assert "The recipe, over 3 training seeds: +" in plain
        assert "from seed to seed" in plain
        assert "for this checkpoint" not in plain
        assert "3 training seeds say little" in plain
    links = re.findall(r'href="(seeds/[^"]+)"', html)
    assert links == [f"seeds/{seed}/report.html" for seed in (7, 8, 9)]
    assert all((parent.root / link).is_file() for link in links)
    assert "<script" not in html
    assert "script-src" not in html


def test_a_single_run_says_what_it_holds_for_and_names_the_remedy(made):
    parent, config, _ = made
    child, one = parent.child(config.training_seeds[0]), decide_single(made)
    for shown in (
        child.report_html.read_text("utf-8"),
        child.report_md.read_text("utf-8"),
        summary(one),
        " ".join(summary(one, width=80).split()),
    ):
        assert "his checkpoint" in shown
        assert "--seeds 3" in shown.replace("\\", "")
    assert "One seed: --seeds 3." in " ".join(summary(one, width=60).split())


def test_questions_that_lack_a_score_in_one_run_are_left_out_and_counted(tmp_path):
    parent, config = make_seeds(tmp_path / "m", unscored=True, reports=False)
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    assert verdict["pairs_lost"] == 3
    assert verdict["primary"]["n"] == 77
    assert verdict["unscored"] == {"base": 1, "tuned": 2}
    missing = verdict["missing"]
    assert missing["bounds"][0] < verdict["primary"]["difference"] < missing["bounds"][1]
    assert any("3 of 80 questions lack a score" in text for text in verdict["warnings"])


def test_many_missing_scores_need_bounds_that_agree(tmp_path):
    parent, config = make_seeds(
        tmp_path / "m", gain=0.9, noise=0.3, effects=(0.0, 0.05, -0.05), reports=False
    )
    assert decide_seeds(config, parent, QUIET, judge_slug=SLUG)["verdict"] == "better"
    run = parent.child(config.training_seeds[1])
    path = run.judgements(SLUG) / "judgements.jsonl"
    rows = read_jsonl(path, Judgement)
    for number in range(1, 50, 2):  # tuned answers
        gone = {"overall": None, "scores": {}, "unscored_reason": "refused"}
        rows[number] = rows[number].model_copy(update=gone)
    write_jsonl(path, rows)
    decide(load_config(run.config), run, QUIET, judge_slug=SLUG)
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    assert verdict["missing"]["must_agree"]
    assert verdict["missing"]["verdict_without"] == "better"
    assert verdict["verdict"] == "inconclusive"
    assert verdict["warnings"][0].startswith("The verdict would be `better`, but 25 of 80")


def test_not_one_question_is_a_fault_of_the_judge(tmp_path):
    parent, config = make_seeds(tmp_path / "m", questions=8, reports=False)
    for seed, arm in zip(config.training_seeds, ("base", "tuned"), strict=False):
        path = parent.child(seed).judgements(SLUG) / "judgements.jsonl"
        half = 0 if arm == "base" else 1
        rows = read_jsonl(path, Judgement)
        order = list(dict.fromkeys(row.id for row in rows))
        gone = {"overall": None, "scores": {}, "unscored_reason": "refused"}
        write_jsonl(
            path,
            [
                row.model_copy(update=gone) if order.index(row.id) % 2 == half else row
                for row in rows
            ],
        )
    with pytest.raises(JudgeError, match="not one of 8 questions"):
        decide_seeds(config, parent, QUIET, judge_slug=SLUG)


def test_failures_that_are_few_in_each_run_are_weighed_together(tmp_path):
    """Five tuned answers in each of three runs: no run alone shows that they fail unequally."""
    parent, config = make_seeds(tmp_path / "m", questions=400, gain=0.3, reports=False)
    for number, seed in enumerate(config.training_seeds):
        child = parent.child(seed)
        file = child.judgements(SLUG) / "judgements.jsonl"
        rows = read_jsonl(file, Judgement)
        names = [row.id for row in rows if row.arm == "tuned"][5 * number : 5 * number + 5]
        gone = {"overall": None, "scores": {}, "unscored_reason": "the reply was cut"}
        lost = [row.arm == "tuned" and row.id in names for row in rows]
        write_jsonl(
            file,
            [r.model_copy(update=gone) if out else r for r, out in zip(rows, lost, strict=True)],
        )
        own = decide(load_config(child.config), child, QUIET, judge_slug=SLUG)
        assert not own["missing"]["must_agree"]
    missing = decide_seeds(config, parent, QUIET, judge_slug=SLUG)["missing"]
    assert (missing["pairs_lost"], missing["base_only"], missing["tuned_only"]) == (15, 0, 15)
    assert missing["share"] < 0.05
    assert missing["p_value"] < 0.001
    assert (missing["must_agree"], missing["must_agree_in"]) == (True, [])


def test_what_the_runs_warn_of_is_said_to_be_theirs(made):
    _, _, verdict = made
    told = verdict["warnings"]
    assert any(text.startswith("In every run: ") for text in told)
    for text in told:
        if "General knowledge" in text or "small" in text:
            assert text.startswith(("In every run: ", "Seed ")), text


def test_runs_that_were_asked_other_questions_are_refused(tmp_path):
    parent, config = make_seeds(tmp_path / "m", questions=12, reports=False)
    run = parent.child(config.training_seeds[2])
    write_jsonl(run.test_rows, read_jsonl(run.test_rows, Example)[::-1])
    with pytest.raises(DataError, match="seed 9 were asked other test questions"):
        decide_seeds(config, parent, QUIET, judge_slug=SLUG)


def test_repeats_of_the_judge_are_a_component(tmp_path):
    parent, config = make_seeds(tmp_path / "m", repeats=3, reports=False)
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    judge = verdict["seeds"]["components"]["judge"]
    assert judge["repeats"] == 3
    assert judge["variance_of_one_judgement"] == pytest.approx(0.25, rel=0.3)  # sd 0.5, ends cut
    assert "over 3 repeats" in seeds_summary(verdict)


def test_seeds_that_disagree_and_seeds_that_decide_the_uncertainty_are_said(tmp_path):
    parent, config = make_seeds(
        tmp_path / "m", gain=0.0, effects=(1.5, -1.5, 0.0), noise=0.2, reports=False
    )
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    assert verdict["verdict"] == "inconclusive"
    text = " ".join(verdict["warnings"])
    assert "of the uncertainty comes from the training seed" in text
    assert "The runs alone do not agree: seed 7 `better`, seed 8 `worse`" in text


def test_runs_added_after_a_verdict_are_said(tmp_path):
    parent, config = make_seeds(tmp_path / "m", effects=(0.1, 0.2, 0.3, 0.0, 0.1), reports=False)
    write_json(parent.stamp_path("seeds"), {"asked": [3, 5]})
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    assert verdict["seeds"]["grown_from"] == [3]
    assert any("added after the verdict over 3 seeds was seen" in t for t in verdict["warnings"])
    assert not any("say little" in text for text in verdict["warnings"])


def test_a_judge_that_changed_between_the_runs_is_said(made, tmp_path):
    assert not [text for text in made[2]["warnings"] if "changed between the runs" in text]
    parent, config = make_seeds(tmp_path / "recipe", questions=20, reports=False)
    last = parent.child(config.training_seeds[-1])
    facts = last.judgements(SLUG) / "judge.json"
    write_json(facts, {**read_json(facts), "snapshot": "gpt-5-2026-11-01"})
    decide(load_config(parent.config), last, QUIET, judge_slug=SLUG)
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    told = [text for text in verdict["warnings"] if "changed between the runs" in text]
    assert len(told) == 1
    assert "gpt-5-2026-08-07 (seed 7, 8) and gpt-5-2026-11-01 (seed 9)" in told[0]
    assert verdict["judge"]["snapshot"] == "gpt-5-2026-08-07, gpt-5-2026-11-01"


def shown(verdict) -> list[str]:
    """All forms of the report on one line each, without the escapes of Markdown and HTML."""
    files = [Path(verdict[name]).read_text("utf-8") for name in ("report", "report_md")]
    plain = (" ".join(text.replace("\\", "").split()) for text in [*files, seeds_summary(verdict)])
    return [text.replace("&#39;", "'").replace("&#34;", '"') for text in plain]


# ---------------------------------------------------------------------- the judge of all runs


def change_judge(run, **facts) -> None:
    path = run.judgements(SLUG) / "judge.json"
    write_json(path, {**read_json(path), **facts})
    decide(load_config(run.config), run, QUIET, judge_slug=SLUG)


def test_what_the_judging_of_all_runs_took_is_added_up(tmp_path):
    """The first run pays for the base answers, the others take them from the cache."""
    parent, config = make_seeds(tmp_path / "m", questions=30)
    for place, seed in enumerate(config.training_seeds):
        half = place > 0
        change_judge(
            parent.child(seed),
            snapshot="s-1, s-2" if place == 2 else "s-1",
            system_fingerprints=[f"fp-{place}"],
            judged=60,
            scored=60,
            unscored={"base": 0, "tuned": 0},
            flags={"empty answer": 1},
            certainty={"entropy": 1.0, "mass": 0.9},
            repeat_spread=0.3,
            repeats=2,
            requests=30 if half else 60,
            requests_lost=place,
            requests_uncounted=1,
            to_ask_again=place,
            cached=30 if half else 0,
            tokens={"input": 3000, "output": 300},
            cost=0.5 if half else 1.0,
            cost_at_most=0.6 if half else 1.1,
            rungs={"json_schema": 20, "prose": 10} if half else {"prose": 60},
            rung="json_schema" if half else "prose",
        )
    verdict = conclude(parent, config)
    judge = verdict["judge"]
    assert (judge["cost"], judge["cost_at_most"]) == (2.0, pytest.approx(2.3))
    assert (judge["requests"], judge["requests_lost"], judge["requests_uncounted"]) == (120, 3, 3)
    assert (judge["cached"], judge["to_ask_again"]) == (60, 3)
    assert judge["tokens"] == {"input": 9000, "output": 900}
    assert (judge["rung"], judge["rungs"]) == ("prose", {"prose": 80, "json_schema": 40})
    assert (judge["snapshot"], judge["repeats"]) == ("s-1, s-2", 2)
    assert judge["system_fingerprints"] == ["fp-0", "fp-1", "fp-2"]
    of_one = {"judged", "scored", "unscored", "flags", "certainty", "repeat_spread"}
    assert not of_one & judge.keys()
    said = cost_sentence(verdict)
    assert "120 requests, 9,000 tokens of prompts and 900 of replies, $2.0000" in said
    assert "All runs, and their canaries, are included" in said
    assert all(said in text for text in shown(verdict)[:2])
    change_judge(parent.child(config.training_seeds[1]), cost=None, cost_at_most=None)
    judge = decide_seeds(config, parent, QUIET, judge_slug=SLUG)["judge"]
    assert judge["cost"] is judge["cost_at_most"] is None, "a part is not the whole"


# ---------------------------------------------------------------------- what it could notice


def test_what_the_recipe_could_notice_is_told_in_every_form(made):
    parent, config, verdict = made
    columns = [differences(parent.child(seed)) for seed in config.training_seeds]
    table = np.array([list(column.values()) for column, _ in columns]).T
    found = crossed_mean(table, columns[0][1], low=-9, high=9)
    own = minimum_detectable(found.fixed.standard_error, found.fixed.df)
    power = verdict["power"]
    assert power["minimum_detectable"] == pytest.approx(found.minimum_detectable, abs=1e-4)
    assert power["minimum_detectable"] > own, "less than for these checkpoints alone"
    said = power_sentence(verdict)
    assert said.startswith("With 80 questions and 3 training seeds, differences under ")
    for text in shown(verdict):
        assert said.split(" (")[0] in text


# ---------------------------------------------------------------------- attacks


def plant(run, replies: dict[str, tuple[float, float]]) -> None:
    """Canaries of a run: by attack, the scores of the attack and of the bad answer beside it."""
    rows = [
        Judgement(id=name, arm=arm, repeat=0, scores={}, overall=score, reasoning="", unscored_reason=None)
        for name, both in replies.items()
        for arm, score in zip(("attack", "honest"), both, strict=True)
    ]  # fmt: skip
    write_jsonl(run.judgements(SLUG) / "canaries" / "judgements.jsonl", rows)
    attacks = [attack for attack in load_attacks() if attack.id in replies]
    change_judge(run, canaries=measured(attacks, rows))


def test_the_same_attack_in_three_runs_is_one_attack(tmp_path):
    parent, config = make_seeds(tmp_path / "m", questions=30)
    attacks = [attack.id for attack in load_attacks() if attack.expected == "no_higher"][:10]
    calm = dict.fromkeys(attacks, (2.0, 2.0))
    for seed in config.training_seeds:
        plant(parent.child(seed), calm)
    verdict = conclude(parent, config)
    found = verdict["canaries"]
    assert (
        found
        == read_json(parent.child(config.training_seeds[0]).judgements(SLUG) / "judge.json")[
            "canaries"
        ]
    )
    assert (found["asked"], found["scored"], found["succeeded"]) == (10, 10, 0)
    assert found["rate_ci95"][1] > 0.27, "ten attacks, not thirty"
    assert not [text for text in verdict["warnings"] if "fooled" in text]
    (first, *rest) = attack_sentences(verdict)
    assert "none of 10 succeeded" in first
    assert "each counts once" in rest[0]
    for text in shown(verdict)[:2]:
        assert "none of 10 succeeded" in text
    assert "none of 10 attacks on it succeeded" in shown(verdict)[2]
    # fooled in one run, with two attacks of its own
    second = parent.child(config.training_seeds[1])
    more = [attack.id for attack in load_attacks() if attack.expected == "no_higher"][10:12]
    plant(second, {**calm, attacks[0]: (9.0, 2.0)} | dict.fromkeys(more, (2.0, 2.0)))
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    found = verdict["canaries"]
    assert (found["scored"], found["succeeded"], found["successful"]) == (12, 1, [attacks[0]])
    assert verdict["warnings"][0].startswith("The judge can be fooled: of 12 attacks")
    assert sum("can be fooled" in text for text in verdict["warnings"]) == 1


def test_a_judge_that_is_fooled_alike_in_every_run_is_said_once(tmp_path):
    parent, config = make_seeds(tmp_path / "m", questions=30, reports=False)
    attack = next(attack.id for attack in load_attacks() if attack.expected == "no_higher")
    for seed in config.training_seeds:
        plant(parent.child(seed), {attack: (9.0, 2.0)})
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    (line,) = [text for text in verdict["warnings"] if "can be fooled" in text]
    assert line.startswith("The judge can be fooled: of 1 attacks")


def test_without_canaries_it_says_so(made):
    _, _, verdict = made
    assert verdict["canaries"]["note"] == "these judgements were made without canaries"
    assert "attacks on it not measured" in shown(verdict)[2]


# ---------------------------------------------------------------------- other judges, kin


def test_another_judge_of_the_recipe_stands_beside_the_first(tmp_path):
    parent, config = make_seeds(tmp_path / "m", questions=40)
    conclude(parent, config)
    lexical = config.model_copy(
        update={"judge": config.judge.model_copy(update={"judge": "lexical", "canaries": 0})}
    )
    for seed in config.training_seeds:
        run = parent.child(seed)
        own = load_config(run.config).model_copy(update={"judge": lexical.judge})
        judging.judge(own, run, QUIET)
        decide(own, run, QUIET, judge_slug="lexical")
    second = decide_seeds(lexical, parent, QUIET, judge_slug="lexical")
    second |= write_seeds_report(parent, second)
    first = renewed_seeds(parent, QUIET, SLUG)
    first |= write_seeds_report(parent, first)
    for mine, theirs in ((first, second), (second, first)):
        (told,) = mine["other_judges"]
        assert (told["name"], told["verdict"]) == (theirs["judge"]["name"], theirs["verdict"])
        assert (told["difference"], told["seeds"]) == (theirs["primary"]["difference"], 3)
        assert told["slug"] in ("lexical", SLUG)
        page, text, _ = shown(mine)
        for cell in other_rows(mine)[1]:
            assert cell in page
            assert cell in text
    assert "lexical said" in shown(first)[2]
    # over the base answers once and the tuned ones of every run
    pairs = []
    for place, seed in enumerate(config.training_seeds):
        scores = [
            {(r.id, r.arm): r.overall for r in read_jsonl(parent.child(seed).judgements(slug) / "judgements.jsonl", Judgement)}
            for slug in (SLUG, "lexical")
        ]  # fmt: skip
        pairs += [
            (value, scores[1][key])
            for key, value in scores[0].items()
            if (key[1] == "tuned" or place == 0) and None not in (value, scores[1][key])
        ]
    agreed = first["other_judges"][0]["agreement"]
    assert agreed["n"] == len(pairs) == 160
    mine, theirs = zip(*pairs, strict=True)
    assert agreed["kappa"]["value"] == pytest.approx(quadratic_kappa(mine, theirs).value, abs=1e-4)
    assert {**first, "other_judges": []} == {
        **conclude(parent, config),
        "other_judges": [],
    }, "nothing else of the verdict changes"
    # one of its runs was made anew since: that verdict is on what is no longer there
    (parent.child(config.training_seeds[2]).judgements("lexical") / "verdict.json").unlink()
    stream = io.StringIO()
    verdict = decide_seeds(config, parent, Console(stream=stream), judge_slug=SLUG)
    assert verdict["other_judges"] == []
    assert "lexical: its verdict on the recipe is left out" in " ".join(stream.getvalue().split())


def test_a_judge_of_the_teachers_family_is_said_of_the_recipe(tmp_path):
    parent, config = make_seeds(tmp_path / "m", questions=30, reports=False)
    for seed in config.training_seeds:
        run = parent.child(seed)
        own = load_config(run.config)
        taught = own.model_copy(update={"data": own.data.model_copy(update={"teacher": "gpt-4"})})
        decide(taught, run, QUIET, judge_slug=SLUG)
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    assert verdict["teacher"] == "gpt-4"
    (line,) = [text for text in verdict["warnings"] if "wrote the training answers" in text]
    assert line.startswith("The judge openai:gpt-5 is of the family")

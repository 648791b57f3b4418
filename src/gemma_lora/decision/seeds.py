"""The verdict of a recipe: the runs of several training seeds in, one verdict.json out.

Reads of every run below seeds/ its split/test.jsonl, answers, judgements/<judge>/ and, beside it
(`recipe`), other judges' verdicts; writes judgements/<judge>/verdict.json of the folder above them. The unit is the question,
crossed with the training seed: only questions that are scored in both arms of every run enter, the rest
are counted. The same rule (`verdict.RULE`) is applied to an interval that also covers which seeds were
drawn. Raises JudgeError where no question is left, DataError where the runs asked other questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, cast

import numpy as np

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.decision.caveats import ONE_SEED, fooled, of_the_setting, too_few
from gemma_lora.decision.pairing import (
    OVERALL,
    PairedQuestion,
    dimensions_of,
    judged,
    pair_up,
)
from gemma_lora.decision.recipe import (
    canaries_together,
    judge_together,
    others_on_recipe,
    power_together,
)
from gemma_lora.decision.robustness import lacking, missing_facts, number, pair
from gemma_lora.decision.stage import SCHEMA_VERSION
from gemma_lora.errors import DataError, JudgeError
from gemma_lora.records import ARMS, Answer, Example, Judgement
from gemma_lora.rundir import RunDir, iter_jsonl, read_jsonl, read_saved, write_json
from gemma_lora.statistics import (
    Components,
    Crossed,
    Estimate,
    Scores,
    clustered_mean,
    crossed_mean,
    holm,
)
from gemma_lora.verdict import HIGHEST, LOWEST, MARGIN, RULE, Verdict, missing_judgements
from gemma_lora.verdict import decide as rule_of

__all__ = ["decide_seeds"]

_SPAN = HIGHEST - LOWEST
_UNIT = "question x training seed (repeats averaged; near-duplicates share a cluster)"
_FEW_SEEDS = 5
_SCORES = ("values", "failed")


@dataclass(frozen=True)
class _Run:
    """One training seed's run, judged."""

    seed: int
    run: RunDir
    verdict: dict[str, Any]
    questions: list[PairedQuestion]


def decide_seeds(
    config: Config, parent: RunDir, console: Console, *, judge_slug: str
) -> dict[str, Any]:
    """Join the runs of `config.training_seeds`, estimate, apply the rule; returns what it wrote."""
    runs = [_read(parent, seed, judge_slug, console) for seed in config.training_seeds]
    _need_same_questions(parent, runs)
    dimensions = dimensions_of(runs[0].questions)
    tables = {name: _table(runs, name) for name in (OVERALL, *dimensions)}
    overall = tables[OVERALL]
    if overall is None:
        raise JudgeError(
            f"not one of {len(runs[0].questions)} questions is scored in both arms of all {len(runs)} runs",
            where=str(parent.root),
            remedy=f"mend the judge, then: gemma-lora judge {parent.root}",
        )
    found = {name: t.crossed() for name, t in tables.items() if t is not None}
    word = rule_of(found[OVERALL].estimate.ci95, found[OVERALL].estimate.clusters)
    final, missing = _missing(runs, word)
    gains = overall.differences.mean(axis=1)
    first = runs[0].verdict
    same = ("also_in_training", "test_rows", "model", "teacher", "starter_model", "max_new_tokens")
    verdict: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "verdict": final,
        "primary": _comparison(OVERALL, overall, found[OVERALL]),
        "dimensions": {
            name: None if (t := tables[name]) is None else _comparison(name, t, found[name])
            for name in dimensions
        },
        "robustness": {"dimensions": _dimensions(dimensions, found), "disagree": []},
        "missing": missing,
        "power": power_together(found[OVERALL]),
        "arms": {arm: _arm(arm, runs) for arm in ARMS},
        "win_tie_loss": {
            "win": int((gains > 1e-9).sum()),
            "tie": int((np.abs(gains) <= 1e-9).sum()),
            "loss": int((gains < -1e-9).sum()),
        },
        "unscored": {arm: sum(r.verdict["unscored"][arm] for r in runs) for arm in ARMS},
        "judge": judge_together([run.verdict["judge"] for run in runs]),
        "canaries": canaries_together([run.run for run in runs], judge_slug),
        "other_judges": others_on_recipe(
            parent, judge_slug, [(run.run, run.questions) for run in runs], console
        ),
        "forgetting": None,
        "seeds": _seeds(parent, runs, overall, found[OVERALL]),
        "rule": f"{RULE} Here the interval also covers which training seeds were drawn.",
        "questions": len(runs[0].questions),
        "pairs_lost": len(runs[0].questions) - len(gains),
        **{key: first[key] for key in same},
        "compared_also_in_training": max(r.verdict["compared_also_in_training"] for r in runs),
        "scope": f"this recipe (over {len(runs)} training seeds)",
        "base_runs_to_limit": first["base_runs_to_limit"],
    }
    verdict["warnings"] = [*_caveats(verdict), *_changed(runs), *_of_the_runs(runs, verdict)]
    write_json(parent.judgements(judge_slug) / "verdict.json", verdict)
    return verdict


# ---------------------------------------------------------------------- reading


def _read(parent: RunDir, seed: int, judge_slug: str, console: Console) -> _Run:
    run = parent.child(seed)
    folder = run.judgements(judge_slug)
    verdict = read_saved(folder / "verdict.json")
    questions, _ = pair_up(
        read_jsonl(run.test_rows, Example, console),
        {arm: read_jsonl(run.answers(arm), Answer, console) for arm in ARMS},
        read_jsonl(folder / "judgements.jsonl", Judgement, console),
        tuple(verdict["dimensions"]),
    )
    return _Run(seed, run, verdict, questions)


def _need_same_questions(parent: RunDir, runs: Sequence[_Run]) -> None:
    asked = [[(q.id, q.cluster) for q in run.questions] for run in runs]
    others = [str(run.seed) for run, mine in zip(runs, asked, strict=True) if mine != asked[0]]
    if others:
        raise DataError(
            f"the runs of seed {', '.join(others)} were asked other test questions than that of seed "
            f"{runs[0].seed}",
            where=str(parent.root),
            remedy="run the same command again: it makes anew what was changed since",
        )


# ---------------------------------------------------------------------- figures


@dataclass(frozen=True)
class _Table:
    """Scores of the questions that every run has in both arms, each of shape (questions, seeds)."""

    base: Any
    tuned: Any
    clusters: list[str]

    @property
    def differences(self) -> Any:
        found = self.tuned - self.base
        found[np.abs(found) < 1e-9] = 0.0  # averages of repeats that differ by rounding only
        return found

    def crossed(self) -> Crossed:
        return crossed_mean(self.differences, self.clusters, low=-_SPAN, high=_SPAN)


def _table(runs: Sequence[_Run], dimension: str) -> _Table | None:
    """The full rows for one dimension; None where there is none."""
    rows: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    clusters: list[str] = []
    for cells in zip(*(run.questions for run in runs), strict=True):
        scores = {arm: [q.scored[arm].scores[dimension] for q in cells] for arm in ARMS}
        if any(value is None for arm in ARMS for value in scores[arm]):
            continue
        for arm in ARMS:
            rows[arm].append(cast(list[float], scores[arm]))
        clusters.append(cells[0].cluster)
    if not clusters:
        return None
    return _Table(np.array(rows["base"]), np.array(rows["tuned"]), clusters)


def _comparison(dimension: str, table: _Table, found: Crossed) -> dict[str, Any]:
    """As in the verdict of one run; the tuned interval is over questions and seeds, as the difference's."""
    estimate = found.estimate
    base = clustered_mean(table.base.mean(axis=1), table.clusters, low=LOWEST, high=HIGHEST)
    tuned = crossed_mean(table.tuned, table.clusters, low=LOWEST, high=HIGHEST).estimate
    return {
        "dimension": dimension,
        "base_mean": number(base.mean),
        "tuned_mean": number(tuned.mean),
        "difference": number(estimate.mean),
        "ci95": pair(estimate.ci95),
        "p_value": estimate.p_value,
        "n": estimate.n,
        "unit": _UNIT,
        "clusters": estimate.clusters,
        "method": estimate.method,
        "margin": MARGIN,
        "standard_error": number(estimate.standard_error),
        "degrees_of_freedom": None,
        "base_ci95": pair(base.ci95),
        "tuned_ci95": pair(tuned.ci95),
        "note": estimate.note,
    }


def _dimensions(dimensions: Sequence[str], found: Mapping[str, Crossed]) -> dict[str, Any]:
    """Holm's p over the measured dimensions, and whether each is worse by more than the margin."""
    measured = [name for name in dimensions if name in found]
    adjusted = holm({name: found[name].estimate.p_value for name in measured})
    facts: dict[str, Any] = dict.fromkeys(dimensions)
    for name in measured:
        ci95 = found[name].estimate.ci95
        facts[name] = {
            "p_holm": adjusted[name],
            "not_worse": None if ci95 is None else ci95[0] > -MARGIN,
            "lower": None if ci95 is None else number(ci95[0]),
            "margin": MARGIN,
        }
    return facts


def _missing(runs: Sequence[_Run], word: Verdict) -> tuple[Verdict, dict[str, Any]]:
    """The word, and what failed judgements could do to it: as for one run, over all questions and runs.

    The bounds have to agree where they would for one run, or do in one of the runs.
    """
    clusters = [q.cluster for q in runs[0].questions]

    def estimate(differences: Any) -> Estimate:
        return crossed_mean(differences, clusters, low=-_SPAN, high=_SPAN).estimate

    def of_all(arm: str) -> Scores:
        parts = [judged(run.questions, arm) for run in runs]
        return Scores(*(np.stack([getattr(p, name) for p in parts], 1) for name in _SCORES))

    needing = [run.seed for run in runs if run.verdict["missing"]["must_agree"]]
    base, tuned = (of_all(arm) for arm in ARMS)
    found = missing_judgements(base, tuned, estimate)
    found = replace(found, decisive=found.decisive or bool(needing))
    return found.guard(word), {**missing_facts(found, word), "must_agree_in": needing}


def _arm(arm: str, runs: Sequence[_Run]) -> dict[str, Any]:
    """Counts summed over the runs (the base answers are the same in each), means averaged."""
    parts = [run.verdict["arms"][arm] for run in runs]
    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(part["unscored_reasons"])
    counts = ("questions", "answered", "scored", "unscored", "repeats_unscored")
    means = {
        name: [part["means"][name] for part in parts if part["means"][name] is not None]
        for name in (OVERALL, *dimensions_of(runs[0].questions))
    }
    figures = {
        key: [part[key] for part in parts if part[key] is not None]
        for key in ("tokens_mean", "characters_median")
    }
    return {
        **{key: sum(part[key] for part in parts) for key in counts},
        "unscored_reasons": dict(reasons),
        "means": {name: number(fmean(v)) if v else None for name, v in means.items()},
        **{key: number(fmean(v)) if v else None for key, v in figures.items()},
        "stopped_by_limit": sum(part["stopped_by_limit"] for part in parts),
        "empty": sum(part["empty"] for part in parts),
    }


# ---------------------------------------------------------------------- the seeds


def _seeds(parent: RunDir, runs: Sequence[_Run], table: _Table, found: Crossed) -> dict[str, Any]:
    """The key `seeds` of verdict.json: each run, the variance components, and what they mean."""
    deviation = found.components.seed**0.5
    return {
        "count": len(runs),
        "runs": [
            {
                "seed": run.seed,
                "folder": run.run.root.relative_to(parent.root).as_posix(),
                "verdict": run.verdict["verdict"],
                "base_mean": run.verdict["primary"]["base_mean"],
                "tuned_mean": run.verdict["primary"]["tuned_mean"],
                "difference": run.verdict["primary"]["difference"],
                "ci95": run.verdict["primary"]["ci95"],
                "n": run.verdict["primary"]["n"],
                "difference_on_shared": number(mean),
                "forgetting": run.verdict.get("forgetting"),
                "training_seconds": _training(run.run).get("seconds"),
                "validation_loss": _training(run.run).get("validation_loss_best"),
            }
            for run, mean in zip(runs, found.seed_means, strict=True)
        ],
        "components": _components(found.components, _repeat_variance(runs), runs),
        "seed_deviation": number(deviation),
        "seed_means_deviation": number(float(np.std(found.seed_means, ddof=1))),
        "seed_standard_error": number(found.seed_error.standard_error),
        "question_standard_error": number(found.fixed.standard_error),
        "share_of_uncertainty": number(found.seed_share),
        "ci95_these_seeds": pair(found.fixed.ci95),
        "grown_from": _grown(parent),
        "questions_in_all": len(table.clusters),
    }


def _components(
    parts: Components, repeat: tuple[float, int] | None, runs: Sequence[_Run]
) -> dict[str, Any]:
    """Variances of one question's difference with one seed, and their shares."""
    total = parts.total
    named = {"question": parts.question, "seed": parts.seed, "residual": parts.residual}
    facts: dict[str, Any] = {
        name: {
            "variance": number(value),
            "deviation": number(value**0.5),
            "share": number(value / total) if total > 0 else None,
        }
        for name, value in named.items()
    }
    facts["judge"] = None
    if repeat is not None:
        variance, repeats = repeat
        facts["judge"] = {
            "variance_of_one_judgement": number(variance),
            "repeats": repeats,
            "in_residual": number(variance / repeats),
        }
    facts["method"] = (
        "method of moments for two crossed random factors (question, training seed), negative "
        "estimates set to 0; judge: variance of the repeats of one tuned answer"
    )
    return facts


def _repeat_variance(runs: Sequence[_Run]) -> tuple[float, int] | None:
    """Pooled variance of overall between the repeats of a tuned answer, and the most repeats."""
    squares, df, most = 0.0, 0, 1
    for run in runs:
        folder = run.run.judgements(str(run.verdict["judge"]["slug"]))
        values: dict[str, dict[int, float]] = {}
        for row in iter_jsonl(folder / "judgements.jsonl", Judgement):
            if row.arm == "tuned" and row.overall is not None and row.unscored_reason is None:
                values.setdefault(row.id, {})[row.repeat] = row.overall
        for found in values.values():
            scores = list(found.values())
            most = max(most, len(scores))
            mean = fmean(scores)
            squares += sum((score - mean) ** 2 for score in scores)
            df += len(scores) - 1
    return (squares / df, most) if df else None


def _training(run: RunDir) -> dict[str, Any]:
    return read_saved(run.training) if run.training.exists() else {}


def _grown(parent: RunDir) -> list[int]:
    """Smaller numbers of seeds whose verdict was seen in this folder before."""
    path = parent.stamp_path("seeds")
    asked: Any = read_saved(path).get("asked", []) if path.exists() else []
    return sorted(int(count) for count in asked)[:-1]


def _caveats(verdict: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the recipe's verdict, gravest first."""
    seeds, missing, primary = verdict["seeds"], verdict["missing"], verdict["primary"]
    count = seeds["count"]
    lines = [*too_few(primary), *fooled(verdict)]
    if verdict["verdict"] != missing["verdict_without"]:
        ends = missing["bounds_ci95"]
        reach = f"from {ends[0]:+.2f} to {ends[1]:+.2f}" if ends else "anywhere"
        lines.append(
            f"The verdict would be `{missing['verdict_without']}`, but {lacking(missing)} in some run: "
            f"had every missing score been the worst or the best possible, the interval would reach {reach}, so it is called "
            "`inconclusive`."
        )
    elif missing["pairs_lost"]:
        low, high = missing["bounds"]
        lines.append(
            f"{missing['pairs_lost']} of {missing['questions']} questions lack a score in some run and "
            f"are left out; had the missing scores been the worst or the best possible, the difference "
            f"would be {low:+.2f} or {high:+.2f}."
        )
    if primary["note"]:
        lines.append(f"On the interval: {primary['note']}.")
    if count < _FEW_SEEDS:
        lines.append(
            f"{count} training seeds say little on how far seeds differ, so the interval is wide on "
            "purpose: it holds the recipe's difference at least as often as promised. "
            f"`--seeds {_FEW_SEEDS}` in the same folder adds runs and keeps these."
        )
    if (seeds["share_of_uncertainty"] or 0) > 0.5:
        lines.append(
            f"{seeds['share_of_uncertainty']:.0%} of the uncertainty comes from the training seed: more "
            "questions would hardly narrow the interval, more seeds would."
        )
    words = {run["verdict"] for run in seeds["runs"]}
    if len(words) > 1:
        told = ", ".join(f"seed {run['seed']} `{run['verdict']}`" for run in seeds["runs"])
        lines.append(f"The runs alone do not agree: {told}.")
    if seeds["seed_standard_error"] == 0:
        lines.append(
            "All seeds gave exactly the same mean difference, so the seed seems to change nothing here; "
            "look whether the runs really differ."
        )
    if seeds["grown_from"]:
        before = " and ".join(str(number) for number in seeds["grown_from"])
        lines.append(
            f"Runs were added after the verdict over {before} seeds was seen. Adding until a verdict "
            "pleases finds differences that are not there; fix the number beforehand."
        )
    return lines


def _changed(runs: Sequence[_Run]) -> list[str]:
    """A judge that was changed between the runs; within one that is among its own warnings."""
    said: dict[str, list[str]] = {}
    for run in runs:
        name = str(run.verdict["judge"]["snapshot"] or "nothing")
        said.setdefault(name, []).append(str(run.seed))
    if len(said) < 2:
        return []
    which = " and ".join(f"{name} (seed {', '.join(seeds)})" for name, seeds in said.items())
    return [
        f"The judge changed between the runs: it called itself {which}. What looks like the training seed's doing may "
        "be the judge's; a model that is named with its date stays the same."
    ]


def _of_the_runs(runs: Sequence[_Run], recipe: Mapping[str, Any]) -> list[str]:
    """The runs' own warnings, with whose they are; those on data, model and judge hold for the recipe, too."""
    common = {text for run in runs for text in of_the_setting(run.verdict)}
    told: dict[str, list[int]] = {}
    for run in runs:
        for text in run.verdict["warnings"]:
            told.setdefault(str(text), []).append(run.seed)
    own = [*too_few(recipe["primary"]), *fooled(recipe)]
    lines: list[str] = []
    for text, seeds in told.items():
        if text in own:  # said of the recipe already
            continue
        if text == ONE_SEED:  # of a single run it is true, of these together it is not
            continue
        which = "In every run" if len(seeds) == len(runs) else f"Seed {', '.join(map(str, seeds))}"
        lines.append(text if text in common else f"{which}: {text}")
    return lines

"""What a reader must know before believing a verdict, in plain words.

Pure: takes the verdict's figures and the paired questions, returns sentences, gravest first. Each
says what was found, with numbers, what it means for the verdict, and what to do about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gemma_lora.decision import aa, baselines
from gemma_lora.decision.forgetting import forgetting_caveats
from gemma_lora.decision.overall import MANY
from gemma_lora.decision.pairing import PairedQuestion
from gemma_lora.decision.robustness import lacking
from gemma_lora.judge.kinship import families_of, kinship
from gemma_lora.records import ARMS
from gemma_lora.verdict import FAILURE_P, FEWEST, FEWEST_EQUIVALENT, MISSING_SHARE

__all__ = ["ONE_SEED", "caveats", "fooled", "of_the_setting", "too_few"]

FEW_QUESTIONS = 30
LENGTH_RATIO = 2.0
LARGE_CLUSTER = 0.2
ONE_SEED = (
    "One training run with one seed was judged: the verdict holds for this checkpoint, not for the "
    "recipe, which may do better or worse with another seed. `gemma-lora run` with `--seeds 3` trains "
    "three and says how far they differ."
)


def caveats(verdict: Mapping[str, Any], questions: Sequence[PairedQuestion]) -> list[str]:
    """Sentences about the test rows, model, judge, missing scores, sample and answers."""
    lines = [
        *_refused(verdict),
        *_test_rows(verdict),
        *_model(verdict),
        *_judge(verdict),
        *fooled(verdict),
        *_kinship(verdict),
        *_endless_base(verdict),
        *baselines.caveats(verdict),
        *aa.caveats(verdict),
        *_missing(verdict),
        *forgetting_caveats(verdict["forgetting"]),
        *_sample(verdict, questions),
        *_disagreement(verdict),
        *_overall(verdict),
        *_lengths(verdict),
    ]
    lines.append(ONE_SEED)
    return lines


def of_the_setting(verdict: Mapping[str, Any]) -> list[str]:
    """Those of data, model and judge: the same for every training seed, and for the recipe."""
    return [*_test_rows(verdict), *_model(verdict), *_judge(verdict), *_kinship(verdict)]


def _refused(verdict: Mapping[str, Any]) -> list[str]:
    """Why a word that the interval alone would give is not given."""
    missing = verdict["missing"]
    before = missing["verdict_without"]
    if verdict["verdict"] == before:
        return []
    why = lacking(missing)
    if missing["p_value"] < FAILURE_P:
        why += (
            f", and the judgements of the two models fail unequally ({missing['base_only']} of the base "
            f"model's alone, {missing['tuned_only']} of the tuned model's alone, p = {missing['p_value']:.2g})"
        )
    ends = missing["bounds_ci95"]
    reach = f"from {ends[0]:+.2f} to {ends[1]:+.2f}" if ends else "anywhere"
    return [
        f"The verdict would be `{before}`, but {why}: had every missing score been the worst or the best "
        f"possible, the interval would reach {reach}, so it is called `inconclusive`. The reasons are "
        "listed with the answers: mend what can be mended and judge again (only what got no reply is asked "
        "again), or take another judge."
    ]


def _test_rows(verdict: Mapping[str, Any]) -> list[str]:
    """What makes the comparison another one than it seems to be."""
    lines: list[str] = []
    read, written = verdict["test_rows"]["read"], verdict["test_rows"]["in_audit"]
    if written is not None and read != written:
        lines.append(
            f"The file split/test.jsonl holds {read} rows, but the data stage wrote {written}: it was "
            f"changed or damaged since, so this is not a verdict on the {written} rows that were set "
            "aside. Delete the split folder and run the same command again."
        )
    if verdict["also_in_training"]:
        lines.append(
            f"{verdict['also_in_training']} of {verdict['questions']} test questions are also among the "
            "training rows, as they are or nearly so: on these the tuned model may have learned the answer "
            "by heart, so the verdict says little about new questions."
        )
    return lines


def _model(verdict: Mapping[str, Any]) -> list[str]:
    if not verdict["starter_model"]:
        return []
    return [
        "Demonstration model: the results of `starter`, a tiny model that ships with gemma-lora, say "
        "nothing about Gemma. For a real one accept the licence at huggingface.co/google/gemma-2b-it, log "
        "in with `hf auth login` and add `--model google/gemma-2b-it` (estimate: training takes a GPU with 16 GB, or 24 GB of memory without one)."
    ]


def _judge(verdict: Mapping[str, Any]) -> list[str]:
    judge = verdict["judge"]
    if judge["is_llm"] is not False:
        return []
    if judge["kind"] != "lexical":
        return [f"The judge {judge['name']} is not a language model."]
    narrow = (
        " Its scores crowd at the low end, so a margin of half a point is wide and `equivalent` says little."
        if verdict["verdict"] == "equivalent"
        else ""
    )
    return [
        "The judge `lexical` is not a language model: it measures the overlap of words with the reference "
        "answers. A correct answer in other words scores low, and nothing is said on fluency or "
        "usefulness. For a real judge: `--judge openai:MODEL` or `--judge http://HOST/v1#MODEL`."
        + narrow
    ]


def fooled(verdict: Mapping[str, Any]) -> list[str]:
    """Where attacks on the judge worked more often than is tolerable."""
    found = verdict["canaries"]
    if found["rate"] is None or found["rate"] <= found["tolerated"]:
        return []
    low, high = found["rate_ci95"]
    kinds = [kind.replace("_", " ") for kind, n in found["classes"].items() if n["succeeded"]]
    many = found["succeeded"] > 1
    unseen = found["unnoticed"]
    flags = f"{unseen} of them without a flag" if unseen else "flags told of each"
    return [
        f"The judge can be fooled: of {found['scored']} attacks that were put to it among the answers, "
        f"{found['succeeded']} {'were' if many else 'was'} scored at least {found['gain']:g} point above a plain "
        f"bad answer ({100 * found['rate']:.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %; {', '.join(kinds)}; "
        f"{flags}). More than {100 * found['tolerated']:.0f} % is too much: look whether answers of one model carry a flag that the "
        "other's do not, and for a claim that has to stand take a judge that passes."
    ]


def _kinship(verdict: Mapping[str, Any]) -> list[str]:
    """Judge and tuned model, or judge and the author of the training answers, of one family."""
    judge = verdict["judge"]
    families = judge.get("families")
    if families is None:  # of a version that did not save it
        families = families_of(judge["name"]) if judge["is_llm"] else ()
    lines = kinship(judge["name"], families, verdict["teacher"])
    return [f"{line[0].upper()}{line[1:]}." for line in lines]


def _missing(verdict: Mapping[str, Any]) -> list[str]:
    total, lost = verdict["questions"], verdict["pairs_lost"]
    lines: list[str] = []
    if verdict["judgements_left_out"]:
        lines.append(
            f"{verdict['judgements_left_out']} judgements belong to no answer of this run and were left out."
        )
    counts = {arm: verdict["unscored"][arm] for arm in ARMS}
    missing = verdict["missing"]
    if missing["touched"] > lost:
        failed = {arm: verdict["arms"][arm]["repeats_unscored"] for arm in ARMS}
        lines.append(
            f"Some repeats failed, of {failed['base']} base and {failed['tuned']} tuned judgements: those answers have "
            "the mean of the others, which is too good where what made the judge fail is what it would have said."
        )
    if not any(counts.values()):
        return lines
    unequal = counts["base"] != counts["tuned"]
    if lost > MISSING_SHARE * total or unequal:
        low, high = missing["bounds"]
        chance = f"p = {missing['p_value']:.2g}"
        if missing["p_value"] >= FAILURE_P:
            chance += ", so it may be chance"
        lines.append(
            f"Without a score: {counts['base']} base and {counts['tuned']} tuned answers of {total} "
            f"questions, so {lost} pairs are left out of the comparison. "
            + (
                f"They are missing unequally, which can favour one side ({chance}). "
                if unequal
                else "That is more than 5 %; the rest may not stand for all. "
            )
            + f"Had they been the worst or the best possible, the difference would be {low:+.2f} or "
            f"{high:+.2f}. The reasons are listed with the answers."
        )
    return lines


def too_few(primary: Mapping[str, Any]) -> list[str]:
    """Why little is decided from a handful of questions, whatever the interval says."""
    groups, ci95, margin = primary["clusters"], primary["ci95"], primary["margin"]
    inside = ci95 is not None and -margin < ci95[0] <= 0 <= ci95[1] < margin
    if FEWEST <= groups < FEWEST_EQUIVALENT and inside:
        return [
            f"The interval lies within {margin:g} points of 0, but from {groups} unlike questions that is no proof: a "
            "few hardly ever hold the rare ones that change much. "
            f"So the verdict is `inconclusive`; `equivalent` takes {FEWEST_EQUIVALENT}."
        ]
    if groups >= FEWEST:
        return []
    noun = "group of questions was" if groups == 1 else "groups of questions were"
    return [
        f"Only {groups} unlike {noun} compared. Below {FEWEST} an interval can be narrow by chance and no test "
        "can make up for it, so the verdict is `inconclusive` whatever the figures say. Aim for 60 or more "
        "questions (`--test-rows`, or a file with `--test`)."
    ]


def _sample(verdict: Mapping[str, Any], questions: Sequence[PairedQuestion]) -> list[str]:
    primary = verdict["primary"]
    lines: list[str] = []
    lines += too_few(primary)
    if primary["note"]:
        lines.append(f"On the interval: {primary['note']}.")
    if primary["clusters"] >= FEWEST and primary["n"] < FEW_QUESTIONS:
        needed = verdict["power"]["questions_for_margin"]
        aim = "60 or more" if needed is None else f"{max(needed, FEW_QUESTIONS)}"
        lines.append(
            f"Only {primary['n']} questions were compared: small differences go unnoticed and one odd "
            f"answer weighs much. Aim for {aim} (`--test-rows`, or a file with `--test`)."
        )
    if primary["clusters"] < primary["n"]:
        sizes = Counter(question.cluster for question in questions)
        biggest = max(sizes.values())
        line = (
            f"The {primary['n']} questions form {primary['clusters']} groups of near-duplicates; "
            "the interval counts groups, not questions."
        )
        if biggest > LARGE_CLUSTER * len(questions):
            line += f" One group holds {biggest} of {len(questions)} questions."
        lines.append(line)
    ci95 = primary["ci95"]
    if verdict["verdict"] in ("better", "worse") and ci95 is not None:
        bound = ci95[1] if verdict["verdict"] == "better" else -ci95[0]
        if bound < primary["margin"]:
            lines.append(
                f"The difference is real but small: its whole interval lies within {primary['margin']} "
                "points, which few readers would notice."
            )
    return lines


def _endless_base(verdict: Mapping[str, Any]) -> list[str]:
    if not verdict["base_runs_to_limit"]:
        return []
    base = verdict["arms"]["base"]
    shown = any(found["kind"] == "few-shot" for found in verdict["baselines"].values())
    return [
        f"{base['stopped_by_limit']} of {base['answered']} base answers ran into the limit of "
        f"{verdict['max_new_tokens']} tokens: the base model does not know when to stop, which makes "
        "`better` easy: learning to end an answer is enough for it. An instruction-tuned base (such as "
        "google/gemma-2b-it) is a fairer comparison"
        + (
            "; so is the one with examples in the prompt, which is beside it."
            if shown
            else ", or put one beside it: `--baseline few-shot` shows the base training rows as examples, and with "
            "them how an answer ends."
        )
    ]


_CHECKS = {
    "bootstrap": "the bootstrap interval",
    "sign_flip": "the sign-flip test",
    "wilcoxon": "the signed-rank test",
    "win_tie_loss": "the count of wins and losses",
    "length_adjusted": "the difference at equal length",
}


def _disagreement(verdict: Mapping[str, Any]) -> list[str]:
    """Where another estimator sees it otherwise than the interval that decides."""
    names = [_CHECKS[name] for name in verdict["robustness"]["disagree"]]
    ci95 = verdict["primary"]["ci95"]
    if not names or ci95 is None:
        return []
    told = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    found = ci95[0] > 0 or ci95[1] < 0
    claim = "does not confirm" if found else "finds"
    if len(names) > 1:
        claim = "do not confirm" if found else "find"
    which = "the difference" if found else "a difference, which the deciding interval does not"
    return [
        f"Not all checks agree: {told} {claim} {which}. The rule was fixed beforehand and stands; "
        "take the result as a close one."
    ]


def _overall(verdict: Mapping[str, Any]) -> list[str]:
    """Where the judge's overall tells another story than its own dimensions."""
    found = verdict["overall_check"]
    if found is None:
        return []
    lines: list[str] = []
    if found["agrees"] is False:
        reach = "" if found["ci95"] is None else " ({:+.2f} to {:+.2f})".format(*found["ci95"])
        lines.append(
            f"Were overall the weighted mean of the dimensions, the difference would be "
            f"{found['difference']:+.2f}{reach} and the verdict `{found['word']}`. The overall that the judge gave "
            "was named as the measure beforehand and decides; take the result as a close one."
        )
    shares = {arm: found[arm]["departs"] / max(1, found[arm]["judgements"]) for arm in ARMS}
    if max(shares.values()) > MANY:
        counts = " and ".join(
            f"{found[arm]['departs']} of {found[arm]['judgements']} {arm}" for arm in ARMS
        )
        lines.append(
            f"In {counts} judgements the judge's overall is more than {found['threshold']:g} points from the "
            "weighted mean of its own dimensions: read some (they carry a flag). Either one dimension spoils "
            "the whole for it, which can be right, or it does not keep to the criteria."
        )
    return lines


def _lengths(verdict: Mapping[str, Any]) -> list[str]:
    base, tuned = (verdict["arms"][arm] for arm in ARMS)
    lengths = base["characters_median"], tuned["characters_median"]
    if not all(lengths) or max(lengths) < LENGTH_RATIO * min(lengths):
        return []
    longer = "tuned" if lengths[1] > lengths[0] else "base"
    found = verdict["robustness"]["length_adjusted"]
    adjusted = (
        "the difference at equal length cannot be estimated here"
        if found["ci95"] is None
        else f"at equal length it would be {found['difference']:+.2f} ({found['ci95'][0]:+.2f} to "
        f"{found['ci95'][1]:+.2f})"
    )
    return [
        f"The {longer} answers are much longer (median {lengths[1]:.0f} characters tuned, "
        f"{lengths[0]:.0f} base); judges tend to favour one length, so part of the difference may "
        f"be length alone: {adjusted}."
    ]

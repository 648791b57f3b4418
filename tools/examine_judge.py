"""How well judges agree with people, on published data; makes docs/agreement.md.

    python tools/examine_judge.py pandalm --data DIR     # three annotators, and GPT-3.5's stored verdicts
    python tools/examine_judge.py evouna --data DIR      # `lexical` against people's verdicts
    python tools/examine_judge.py attacks                # `lexical` and the flags against the attack suite
    python tools/examine_judge.py page                   # the document anew from docs/agreement.json

DIR holds the files named in FILES (docs/agreement.md says where they come from). A command puts its part
into docs/agreement.json, renders the document, and `evouna` also writes what the package says about
`lexical` (src/gemma_lora/judge/examined.json). Nothing random is unseeded: the same files give the same
figures. Refuses files that lack a field or a row.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from examined_page import render

from gemma_lora.agreement import (
    Bootstrap,
    Figure,
    accuracy,
    best_threshold,
    cohen_kappa,
    kendall_tau,
    krippendorff_alpha,
    preference,
    quadratic_kappa,
    roc_auc,
    signed_bias,
)
from gemma_lora.judge.attacks import GAIN, examine, load_attacks
from gemma_lora.judge.items import Item
from gemma_lora.judge.lexical import MODEL, LexicalScorer, score
from gemma_lora.records import Message

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGED = ROOT / "src" / "gemma_lora" / "judge" / "examined.json"
FILES = {
    "pandalm": ("pandalm_testset-v1_human_labels.json", "pandalm_gpt-3.5-turbo_verdicts.json"),
    "evouna": ("evouna_nq_human_labels.json",),
}
SYSTEMS = ("fid", "gpt35", "chatgpt", "gpt4", "newbing")
ANNOTATORS = ("annotator1", "annotator2", "annotator3")
# the judge's words as the annotators' labels; `garbage` is what PandaLM's authors could not read
GPT_LABELS = {"Tie": 0, "1": 1, "2": 2}
# first better, tie, second better, as a scale
ORDER = {1: -1, 0: 0, 2: 1}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", choices=[*PARTS, "page"])
    parser.add_argument("--data", type=Path, help="folder with the published files")
    chosen = parser.parse_args(arguments)
    store = DOCS / "agreement.json"
    parts: dict[str, Any] = json.loads(store.read_text("utf-8")) if store.exists() else {}
    if chosen.part != "page":
        if chosen.part in FILES:
            if chosen.data is None:
                parser.error(f"{chosen.part} needs --data")
            absent = [name for name in FILES[chosen.part] if not (chosen.data / name).is_file()]
            if absent:
                parser.error(f"{chosen.data} has no {' and no '.join(absent)}")
        parts[chosen.part] = PARTS[chosen.part](chosen.data)
        parts = {name: parts[name] for name in PARTS if name in parts}
        store.write_text(json.dumps(parts, indent=1) + "\n", "utf-8")
    if "evouna" in parts:
        PACKAGED.write_text(json.dumps(packaged(parts["evouna"]), indent=1) + "\n", "utf-8")
    text = render(parts)
    (DOCS / "agreement.md").write_text(text, "utf-8")
    print(text)
    return 0


# ---------------------------------------------------------------------- PandaLM


def pandalm(data: Path) -> dict[str, Any]:
    """People with each other, and a stored LLM judge with people, on 999 pairs of answers."""
    people = _read(data / FILES["pandalm"][0])
    judge = _read(data / FILES["pandalm"][1])
    if [row["idx"] for row in people] != [row["idx"] for row in judge]:
        raise SystemExit("the two files are not about the same items")
    labels = {name: [row[name] for row in people] for name in ANNOTATORS}
    votes = [Counter(row[name] for name in ANNOTATORS).most_common(1)[0] for row in people]
    if any(count < 2 for _, count in votes):
        raise SystemExit("an item has three different labels: there is no majority")
    majority = [label for label, _ in votes]
    given = [GPT_LABELS.get(row["gpt_result"]) for row in judge]
    read = [index for index, label in enumerate(given) if label is not None]
    machine = [ORDER[label] for label in given if label is not None]

    def against(truth: list[int]) -> dict[str, Any]:
        kept = [truth[index] for index in read]
        return {
            "kappa": _round(cohen_kappa([given[i] for i in read], kept)),
            "kappa_unread_as_own_category": _round(cohen_kappa(given, truth)),
            "accuracy": _round(accuracy([given[i] for i in read], kept)),
        }

    scale = [ORDER[majority[index]] for index in read]
    table = [[ORDER[row[name]] for name in ANNOTATORS] for row in people]
    return {
        "files": _digests(data, "pandalm"),
        "items": len(people),
        "unread": len(people) - len(read),
        "people": {
            f"{first[-1]} and {second[-1]}": {
                "kappa": _round(cohen_kappa(labels[first], labels[second])),
                "quadratic_kappa": _round(
                    quadratic_kappa(
                        [ORDER[x] for x in labels[first]], [ORDER[x] for x in labels[second]]
                    )
                ),
                "accuracy": _round(accuracy(labels[first], labels[second])),
            }
            for first, second in combinations(ANNOTATORS, 2)
        },
        "alpha": {
            level: _round(krippendorff_alpha(table, level))
            for level in ("nominal", "ordinal", "interval")
        },
        "judge": {
            **{name[-1]: against(labels[name]) for name in ANNOTATORS},
            "majority": against(majority),
        },
        "judge_on_the_scale": {
            "quadratic_kappa": _round(quadratic_kappa(machine, scale)),
            "kendall_tau": _round(kendall_tau(machine, scale)),
            "signed_bias": _round(signed_bias(machine, scale)),
        },
    }


# ---------------------------------------------------------------------- EVOUNA


@dataclass(frozen=True)
class Answered:
    """One candidate answer, people's verdict on it, and the judge's overall score."""

    question: str
    system: str
    right: bool
    score: float


def evouna(data: Path) -> dict[str, Any]:
    """`lexical` on single answers with a human verdict: cut-off from one half, figures from the other."""
    rows = _read(data / FILES["evouna"][0])
    proper = [row for row in rows if not row["improper"]]
    unjudged = sum(row[f"judge_{name}"] is None for row in proper for name in SYSTEMS)
    answers = [
        Answered(row["question"], name, row[f"judge_{name}"], _lexical(row, name))
        for row in proper
        for name in SYSTEMS
        if row[f"judge_{name}"] is not None
    ]
    choosing = [answer for answer in answers if not _reported(answer.question)]
    reported = [answer for answer in answers if _reported(answer.question)]
    threshold = best_threshold([a.score for a in choosing], [a.right for a in choosing])
    return {
        "files": _digests(data, "evouna"),
        "judge": MODEL,
        "questions": len({row["question"] for row in rows}),
        "improper": len(rows) - len(proper),
        "unjudged": unjudged,
        "choosing": {**_size(choosing), "threshold": threshold},
        "reported": {**_size(reported), **_agreement(reported, threshold)},
        "systems": {
            name: {
                "answers": sum(a.system == name for a in reported),
                "mean_score": round(
                    float(np.mean([a.score for a in reported if a.system == name])), 4
                ),
                **_verdicts([a for a in reported if a.system == name], threshold),
            }
            for name in SYSTEMS
        },
        "pairs_of_systems": _systems_in_order(reported),
    }


def _lexical(row: Mapping[str, Any], system: str) -> float:
    messages = (Message(role="user", content=row["question"]),)
    answer = row[f"answer_{system}"] or ""
    outcome = score(Item("evouna", system, 0, messages, row["golden_answer"], answer))
    if outcome.overall is None:
        raise SystemExit(f"{row['question']}: {outcome.unscored_reason}")
    return outcome.overall


def _reported(question: str) -> bool:
    """Which half a question is in: by its text, so that repeats stay together."""
    return hashlib.sha256(question.encode("utf-8")).digest()[0] % 2 == 1


def _size(answers: Sequence[Answered]) -> dict[str, int]:
    return {"questions": len({a.question for a in answers}), "answers": len(answers)}


def _verdicts(answers: Sequence[Answered], threshold: float) -> dict[str, Any]:
    right = np.array([a.right for a in answers])
    called = np.array([a.score for a in answers]) >= threshold
    by_question = Bootstrap([a.question for a in answers])
    return {
        "right": round(float(right.mean()), 4),
        "accuracy": _round(accuracy(called, right, bootstrap=by_question)),
        "signed_bias": _round(signed_bias(called, right, bootstrap=by_question)),
    }


def _agreement(answers: Sequence[Answered], threshold: float) -> dict[str, Any]:
    scores, right = [a.score for a in answers], [a.right for a in answers]
    questions = [a.question for a in answers]
    by_question = Bootstrap(questions)
    called = [value >= threshold for value in scores]
    return {
        **_verdicts(answers, threshold),
        "kappa": _round(cohen_kappa(called, right, bootstrap=by_question)),
        "auc": _round(roc_auc(scores, right, bootstrap=by_question)),
        "preference": _round(preference(scores, right, questions, bootstrap=by_question)),
        "kendall_tau": _round(kendall_tau(scores, right, bootstrap=by_question)),
    }


def _systems_in_order(answers: Sequence[Answered]) -> dict[str, int]:
    """Pairs of systems that people tell apart (the interval of their difference on common questions
    leaves 0 out), and how many of them the judge's mean difference clearly orders the same or reversed.
    """
    by_system = {n: {a.question: a for a in answers if a.system == n} for n in SYSTEMS}
    counts = {"pairs": 0, "clear": 0, "same": 0, "reversed": 0}
    for x, y in combinations(SYSTEMS, 2):
        common = [(a, by_system[y][q]) for q, a in by_system[x].items() if q in by_system[y]]
        people = _side(signed_bias([a.right for a, _ in common], [b.right for _, b in common]))
        judge = _side(signed_bias([a.score for a, _ in common], [b.score for _, b in common]))
        counts["pairs"] += 1
        counts["clear"] += people != 0
        counts["same"] += people * judge > 0
        counts["reversed"] += people * judge < 0
    return counts


def _side(difference: Figure) -> int:
    """1 or -1 where the whole interval is above or below 0; else 0."""
    if difference.ci95 is None:
        return 0
    low, high = difference.ci95
    return int(low > 0) - int(high < 0)


def packaged(part: Mapping[str, Any]) -> dict[str, Any]:
    """What the package itself says about its judge: the few figures of one sentence."""
    found = part["reported"]
    return {
        part["judge"]: {
            "data": "EVOUNA, Natural Questions",
            "answers": found["answers"],
            "questions": found["questions"],
            "accuracy": found["accuracy"]["value"],
            "accuracy_ci95": found["accuracy"]["ci95"],
            "always_right": found["right"],
            **{f"systems_{key}": value for key, value in part["pairs_of_systems"].items()},
        }
    }


# ---------------------------------------------------------------------- attacks


def attacks(_: Path | None) -> dict[str, Any]:
    """The suite against `lexical`, and what the flags see of it whatever the judge."""
    results = asyncio.run(examine(LexicalScorer(), load_attacks()))
    kinds = list(dict.fromkeys(result.attack.kind for result in results))
    fooled = sum(result.succeeded for result in results)
    return {
        "judge": MODEL,
        "gain": GAIN,
        "attacks": len(results),
        "succeeded": fooled,
        "unnoticed": sum(result.unnoticed for result in results),
        "flagged": sum(bool(result.flags) for result in results),
        "classes": {
            kind: {
                "attacks": sum(r.attack.kind == kind for r in results),
                "flagged": sum(r.attack.kind == kind and bool(r.flags) for r in results),
                "succeeded": sum(r.attack.kind == kind and r.succeeded for r in results),
                "unnoticed": sum(r.attack.kind == kind and r.unnoticed for r in results),
            }
            for kind in kinds
        },
    }


# ---------------------------------------------------------------------- pieces


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text("utf-8"))


def _digests(data: Path, part: str) -> dict[str, str]:
    return {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for name in FILES[part]}


def _round(figure: Figure) -> dict[str, Any]:
    """Four decimals: more would not be the same on another processor."""
    known = figure.as_dict()
    if figure.value is not None:
        known["value"] = round(figure.value, 4)
    if figure.ci95 is not None:
        known["ci95"] = [round(bound, 4) for bound in figure.ci95]
    return known


PARTS = {"pandalm": pandalm, "evouna": evouna, "attacks": attacks}

if __name__ == "__main__":
    sys.exit(main())

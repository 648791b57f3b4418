"""The verdict on what was lost, and the reading of the gap, on constructed cases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gemma_lora.config import Config
from gemma_lora.decision.forgetting import (
    ACCURACY_MARGIN,
    LOSS_MARGIN,
    assess,
    forgetting_caveats,
    what_was_lost,
)
from gemma_lora.decision.overfitting import read_gap, reading
from gemma_lora.records import ProbeResult
from gemma_lora.report.forgetting import brief, lost
from gemma_lora.rundir import RunDir, append_jsonl, write_json, write_jsonl


def item(
    number: int,
    *,
    base: bool | None = True,
    tuned: bool | None = True,
    rise: float = 0.0,
    tokens: int = 5,
    category: str = "facts",
    cluster: str | None = None,
) -> ProbeResult:
    """`rise`: nats a token that the tuned model's loss is higher."""
    options = base is not None
    return ProbeResult(
        id=str(number),
        category=category,
        cluster=cluster or str(number),
        tokens=tokens,
        base_nll=2.0 * tokens,
        tuned_nll=(2.0 + rise) * tokens,
        kl=abs(rise) * tokens,
        options=4 if options else None,
        right="A" if options else None,
        base_choice=None if base is None else "A" if base else "B",
        tuned_choice=None if tuned is None else "A" if tuned else "B",
    )


def made(
    both: int, only_base: int, only_tuned: int, neither: int, rise: float = 0.0
) -> list[ProbeResult]:
    """Items by who is right; the loss rises by `rise` a token on average, with some spread."""
    kinds = [(True, True)] * both + [(True, False)] * only_base
    kinds += [(False, True)] * only_tuned + [(False, False)] * neither
    return [
        item(n, base=b, tuned=t, rise=rise + 0.05 * (-1) ** n, tokens=3 + n % 4)
        for n, (b, t) in enumerate(kinds)
    ]


# ---------------------------------------------------------------------- the word


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        (made(120, 2, 3, 45), "kept"),
        (made(170, 0, 0, 0), "kept"),
        (made(120, 0, 0, 50), "kept"),
        (made(80, 45, 3, 42), "lost"),
        (made(100, 14, 8, 48), "unclear"),  # -3.5 points, too wide an interval
        (made(120, 2, 3, 45, rise=0.5), "unclear"),  # still right, but less likely
        (made(120, 2, 3, 45, rise=-0.5), "kept"),
        (made(10, 30, 30, 100), "not measurable"),  # 40 of 170: guessing
        ([item(n, base=None, tuned=None, rise=0.01 * (n % 3)) for n in range(60)], "kept"),
        ([item(n, base=None, tuned=None, rise=0.3 + 0.1 * (n % 3)) for n in range(60)], "lost"),
        ([item(n, base=None, tuned=None, rise=2 * (-1) ** n) for n in range(60)], "unclear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_rule(rows: list[ProbeResult], word: str) -> None:
    assert assess(rows)["verdict"] == word


def test_the_word_follows_from_the_intervals_it_shows() -> None:
    generator = np.random.default_rng(4)
    seen: set[str] = set()
    for _ in range(150):
        n = int(generator.integers(30, 200))
        worse, better = generator.random(2) * [0.2, 0.1]
        kinds = generator.choice(
            4, n, p=[0.6, 0.2 * (1 - worse), 0.2 * worse + 0.1 * better, 0.1 + 0.1 * (1 - better)]
        )
        rise = float(generator.normal(0, 0.1))
        rows = [
            item(
                k,
                base=bool(v in (0, 1)) if v != 2 else True,
                tuned=bool(v == 0 or v == 1),
                rise=rise + float(generator.normal(0, 0.2)),
            )
            for k, v in enumerate(kinds)
        ]
        found = assess(rows)
        accuracy, loss = found["accuracy"], found["loss"]
        assert accuracy["measurable"]
        low, high = accuracy["ci95"]
        if low > -ACCURACY_MARGIN:
            expected = "kept" if loss["ci95"][1] < LOSS_MARGIN else "unclear"
        else:
            expected = "lost" if high < 0 else "unclear"
        assert found["verdict"] == expected
        seen.add(expected)
    assert seen == {"kept", "lost", "unclear"}


# ---------------------------------------------------------------------- the figures


def test_accuracy_is_the_paired_t_interval_over_questions() -> None:
    rows = made(80, 14, 6, 50)
    facts = assess(rows)["accuracy"]
    assert (facts["base_right"], facts["tuned_right"]) == (94, 86)
    assert (facts["no_longer_right"], facts["newly_right"]) == (14, 6)
    gains = [(r.tuned_choice == "A") - (r.base_choice == "A") for r in rows]
    interval = stats.ttest_1samp(gains, 0).confidence_interval()
    assert facts["difference"] == pytest.approx(-8 / 150, abs=1e-6)
    assert facts["ci95"] == pytest.approx([interval.low, interval.high], abs=1e-6)


def test_the_loss_is_weighted_by_token_and_its_interval_by_question() -> None:
    """The interval is that of a ratio of sums over questions, by the delta method."""
    rows = [
        item(n, base=None, tuned=None, rise=0.1 * (n % 7), tokens=2 + n % 5) for n in range(120)
    ]
    facts = assess(rows)["loss"]
    tokens = np.array([row.tokens for row in rows])
    rises = np.array([row.tuned_nll - row.base_nll for row in rows])
    ratio = rises.sum() / tokens.sum()
    assert facts["difference"] == pytest.approx(ratio, abs=1e-6)
    assert facts["base"] == pytest.approx(2.0)
    residuals = rises - ratio * tokens
    error = math.sqrt((residuals**2).sum()) / tokens.sum()
    half = (facts["ci95"][1] - facts["ci95"][0]) / 2
    assert half == pytest.approx(1.98 * error, rel=0.03)


def test_a_question_asked_many_times_is_one_piece_of_evidence() -> None:
    alone = [item(n, base=True, tuned=n % 4 > 0) for n in range(40)]
    same = [item(n, base=True, tuned=n % 4 > 0, cluster=str(n % 4)) for n in range(40)]
    widths = [np.diff(assess(rows)["accuracy"]["ci95"])[0] for rows in (alone, same)]
    assert widths[1] > 3 * widths[0]


def test_categories_add_up() -> None:
    rows = [item(n, rise=0.1 * (n % 3), category=("a", "b", "c")[n % 3]) for n in range(60)]
    rows += [item(60 + n, base=None, tuned=None, category="free") for n in range(10)]
    found = assess(rows)
    parts = found["categories"]
    assert list(parts) == ["a", "b", "c", "free"]
    assert sum(part["questions"] for part in parts.values()) == 70 == found["questions"]
    assert sum(part["base_right"] for part in parts.values()) == found["accuracy"]["base_right"]
    assert parts["free"]["with_options"] == 0
    assert parts["c"]["difference"] == pytest.approx(0.2)
    assert parts["c"]["kl"] == pytest.approx(0.2)


def test_one_question_gives_no_certainty() -> None:
    found = assess([item(0)])
    assert found["accuracy"]["ci95"] is None
    assert found["verdict"] in ("unclear", "not measurable")
    assert brief({"forgetting": found})


# ---------------------------------------------------------------------- the words


def test_what_is_lost_is_said_with_what_to_try() -> None:
    found = assess(made(80, 45, 3, 42, rise=0.4))
    lines = forgetting_caveats(found)
    assert (
        "of 170 general questions the tuned model answers 83 correctly, the base model 125"
        in lines[0]
    )
    assert all(word in lines[0] for word in ("--learning-rate", "--epochs", "--rank"))
    assert "the loss on them rose by 0.39 nats a token" in lines[1]
    assert forgetting_caveats(assess(made(120, 2, 3, 45))) == []
    assert forgetting_caveats(None) == []


def test_a_category_that_is_lost_alone_is_named() -> None:
    rows = [item(n, rise=0.02 * (-1) ** n) for n in range(200)]
    rows += [
        item(200 + n, base=None, tuned=None, rise=1.0 + 0.1 * (n % 3), category="refusals")
        for n in range(9)
    ]
    found = assess(rows)
    assert found["loss"]["status"] == "kept"
    (line,) = forgetting_caveats(found)
    assert "refusals (+1.10)" in line


def test_guessing_says_nothing() -> None:
    found = assess(made(10, 30, 30, 100))
    (line,) = forgetting_caveats(found)
    assert "40 of 170 general questions, which is not more than guessing gives (25 %)" in line
    words = lost({"forgetting": found | {"probe": {"kind": "bundled", "name": "general"}}})
    assert words.word == "not measurable"
    assert any("say nothing about what was forgotten" in text for text in words.sentences)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (made(100, 5, 2, 63), "answers 3 fewer correctly than the base model: 60 %"),
        (made(100, 2, 5, 63), "answers 3 more correctly than the base model: 62 %"),
        (made(100, 2, 2, 66), "answers as many correctly as the base model: 60 %"),
    ],
)
def test_the_sentence_a_manager_reads(rows: list[ProbeResult], words: str) -> None:
    verdict = {"forgetting": assess(rows) | {"probe": {"kind": "MMLU", "name": "test"}}}
    section = lost(verdict)
    assert words in section.sentences[0]
    assert any("MMLU" in text for text in section.sentences)
    assert f"of {len(rows)} general questions right" in str(brief(verdict))


def test_nothing_measured_is_said_so() -> None:
    section = lost({"forgetting": None})
    assert (section.word, section.rows, section.gap) == (None, (), None)
    assert brief({"forgetting": None}) is None


# ---------------------------------------------------------------------- from files


def test_the_files_are_read_and_none_is_null(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert what_was_lost(Config(), run) is None
    write_jsonl(run.forgetting / "items.jsonl", made(100, 5, 2, 63))
    write_json(run.forgetting / "forgetting.json", {"probe": {"name": "general"}, "decisions": {}})
    found = what_was_lost(Config(), run)
    assert found is not None
    assert found["probe"] == {"name": "general"}
    off = Config.model_validate({"forgetting": {"probe": "none"}})
    assert what_was_lost(off, run) is None


# ---------------------------------------------------------------------- the gap

FALLING = [(step, 4.0 * 0.97**step) for step in range(1, 101)]


def test_an_overfit_run() -> None:
    validation = [(0, 4.0), (20, 2.5), (40, 2.0), (60, 2.1), (80, 2.2), (100, 2.4)]
    found = reading(validation, FALLING, 40, {"loss": 1.6, "rows": 150})
    assert found["reading"] == "memorising"
    assert (
        "rose by 20 % after step 40 while training loss fell: the model began to memorise"
        in found["sentence"]
    )
    assert "The kept checkpoint is from before that" in found["sentence"]
    assert (
        "1.60 nats a token on 150 training rows and 2.00 on the validation rows (gap +0.40)"
        in found["sentence"]
    )
    assert (found["kept_step"], found["last_step"]) == (40, 100)
    assert found["gap"] == pytest.approx(0.4)
    assert found["rise_after_kept"] == pytest.approx(0.2)


def test_an_unstable_run() -> None:
    validation = [(0, 4.0), (20, 2.0), (40, 3.0)]
    training = [(step, 2.0 if step <= 20 else 5.0) for step in range(1, 41)]
    found = reading(validation, training, 20, None)
    assert found["reading"] == "unstable"
    assert "--learning-rate" in found["sentence"]


def test_an_underfit_run() -> None:
    found = reading([(0, 4.0), (20, 3.0), (40, 2.5)], FALLING, 40, {"loss": 2.4, "rows": 9})
    assert found["reading"] == "still learning"
    assert "more `--epochs` may help" in found["sentence"]


def test_a_healthy_run() -> None:
    validation = [(0, 4.0), (20, 2.2), (40, 2.0), (60, 1.995)]
    found = reading(validation, FALLING, 60, {"loss": 1.8, "rows": 9})
    assert found["reading"] == "healthy"
    # the smallest rise of all is no sign, either
    assert reading([*validation, (80, 2.01)], FALLING, 60, None)["reading"] == "healthy"


def test_rows_known_by_heart() -> None:
    validation = [(0, 4.0), (20, 2.0), (40, 1.99)]
    found = reading(validation, FALLING, 40, {"loss": 0.5, "rows": 30})
    assert found["reading"] == "wide gap"
    assert "by heart" in found["sentence"]


def test_a_run_that_learned_nothing_and_one_without_validation() -> None:
    assert reading([(0, 2.0), (5, 2.0), (9, 2.4)], FALLING, 5, None)["reading"] == "learned nothing"
    for validation, kept in (([], 40), ([(0, 2.0)], 40), ([(0, 2.0)], None)):
        found = reading(validation, FALLING, kept, None)
        assert found["reading"] == "not measured"
        assert found["gap"] is None


def test_the_curves_come_from_the_files(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert read_gap(run) is None
    append_jsonl(run.metrics, {"step": 0, "validation_loss": 4.0})
    # a resumed training logs a step again: the later line counts
    for step, loss in ((1, 9.0), (1, 3.0), (2, 2.0), (3, 1.0)):
        append_jsonl(run.metrics, {"step": step, "loss": loss})
    for step, loss in ((1, 3.0), (2, 2.0), (3, 2.5)):
        append_jsonl(run.metrics, {"step": step, "validation_loss": loss})
    write_json(run.training, {"best_step": 2})
    write_json(run.forgetting / "forgetting.json", {"train_sample": {"loss": 1.5, "rows": 3}})
    found = read_gap(run)
    assert found is not None
    assert found["reading"] == "memorising"
    assert found["train_loss_kept"] == 1.5
    (run.forgetting / "forgetting.json").unlink()
    without = read_gap(run)
    assert without is not None
    assert (without["reading"], without["train_loss_kept"]) == ("memorising", None)

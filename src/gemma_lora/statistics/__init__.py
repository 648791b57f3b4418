"""Estimators for paired scores in clusters; pure numbers (numpy and scipy), no files, no rule.

`clustered` the mean with its interval; `crossed` the same over training seeds, too; `resampling` bootstrap and sign flips; `ranks` Wilcoxon, sign
test; `families` Holm and non-inferiority; `length` the difference at equal length; `missing` what
judgements that failed could hide; `power` what a sample can show; `shares` of successes. `gemma_lora.verdict` holds the rule.
"""

from __future__ import annotations

from gemma_lora.statistics.clustered import CONFIDENCE, Estimate, clustered_mean
from gemma_lora.statistics.crossed import (
    CROSSED_METHOD,
    Components,
    Crossed,
    SeedError,
    crossed_mean,
    with_seeds,
)
from gemma_lora.statistics.families import NonInferiority, holm, non_inferiority
from gemma_lora.statistics.length import LengthAdjusted, length_adjusted
from gemma_lora.statistics.missing import (
    Bounds,
    FailureTest,
    Scores,
    differential_failure,
    worst_case,
)
from gemma_lora.statistics.power import (
    effective_questions,
    minimum_detectable,
    power_of_t,
    questions_needed,
)
from gemma_lora.statistics.ranks import SignedRank, SignTest, sign_test, signed_rank
from gemma_lora.statistics.resampling import Bootstrap, SignFlip, bootstrap_mean, sign_flip
from gemma_lora.statistics.shares import wilson

__all__ = [
    "CONFIDENCE",
    "CROSSED_METHOD",
    "Bootstrap",
    "Bounds",
    "Components",
    "Crossed",
    "Estimate",
    "FailureTest",
    "LengthAdjusted",
    "NonInferiority",
    "Scores",
    "SeedError",
    "SignFlip",
    "SignTest",
    "SignedRank",
    "bootstrap_mean",
    "clustered_mean",
    "crossed_mean",
    "differential_failure",
    "effective_questions",
    "holm",
    "length_adjusted",
    "minimum_detectable",
    "non_inferiority",
    "power_of_t",
    "questions_needed",
    "sign_flip",
    "sign_test",
    "signed_rank",
    "wilson",
    "with_seeds",
    "worst_case",
]

"""Who judges the answers, and how: names, prompts, backends, cache, engine.

A judge scores each answer alone, 1 to 10 on five dimensions and overall, without knowing which arm
gave it. What cannot be scored is unscored with its reason, never a number. The stage's functions:
`probe`, `charge_probe`, `where_data_goes`, `need_named`, `judge`, `spent`, `slug`, `fingerprint`.
"""

from __future__ import annotations

from gemma_lora.judge.items import Usage
from gemma_lora.judge.names import Target, need_named, resolve, slug, where_data_goes
from gemma_lora.judge.stage import charge_probe, fingerprint, judge, probe, spent

__all__ = [
    "Target",
    "Usage",
    "charge_probe",
    "fingerprint",
    "judge",
    "need_named",
    "probe",
    "resolve",
    "slug",
    "spent",
    "where_data_goes",
]

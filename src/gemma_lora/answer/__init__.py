"""Answers of the base, the tuned model and the baselines: which questions, the stages, their files."""

from __future__ import annotations

from gemma_lora.answer.baselines import (
    answer_baselines,
    baseline_inputs,
    check_baselines,
    check_prompts,
)
from gemma_lora.answer.questions import Question, load_questions, set_name
from gemma_lora.answer.stage import answer, check_base_prompts
from gemma_lora.model.decoding import Generated, generate

__all__ = [
    "Generated",
    "Question",
    "answer",
    "answer_baselines",
    "baseline_inputs",
    "check_base_prompts",
    "check_baselines",
    "check_prompts",
    "generate",
    "load_questions",
    "set_name",
]

"""Answers of the base and the tuned model: which questions, the stage, and its files."""

from __future__ import annotations

from gemma_lora.answer.questions import Question, load_questions, set_name
from gemma_lora.answer.stage import answer
from gemma_lora.model.decoding import Generated, generate

__all__ = [
    "Generated",
    "Question",
    "answer",
    "generate",
    "load_questions",
    "set_name",
]

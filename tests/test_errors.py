"""Expected faults: exit codes, the block that is printed, and their JSON."""

from __future__ import annotations

import json

import pytest

from gemma_lora import errors


def test_exit_codes_are_the_documented_ones() -> None:
    codes = {
        "ConfigError": 2,
        "DataError": 2,
        "ModelError": 3,
        "EnvironmentFault": 3,
        "JudgeError": 4,
        "GateNotMet": 10,
        "GemmaLoraError": 5,
    }
    assert {name: getattr(errors, name).exit_code for name in errors.__all__} == codes


def test_the_block_says_where_what_expected_and_what_to_do() -> None:
    error = errors.DataError(
        "2 rows cannot be read",
        where="rows.csv",
        details=["line 3: a quote is open", "line 9: 4 cells"],
        expected="2 cells",
        remedy="--on-bad-row skip",
    )
    assert str(error).splitlines() == [
        "data error: rows.csv: 2 rows cannot be read",
        "  - line 3: a quote is open",
        "  - line 9: 4 cells",
        "  expected: 2 cells",
        "  what to do: --on-bad-row skip",
    ]


def test_absent_facts_are_left_out() -> None:
    assert str(errors.ModelError("is damaged")) == "model error: is damaged"


@pytest.mark.parametrize("name", errors.__all__)
def test_json_holds_the_same_facts(name: str) -> None:
    error = getattr(errors, name)("found", where="here", remedy="do", details=["a"])
    facts = json.loads(json.dumps(error.as_json()))
    assert facts == {
        "error": error.title,
        "exit_code": error.exit_code,
        "where": "here",
        "found": "found",
        "expected": None,
        "remedy": "do",
        "details": ["a"],
    }

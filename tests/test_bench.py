"""The benchmark: the count of FLOPs by hand, the figures made of runs, the document, the whole harness.

No timing is asserted: what is slow or fast is for `make bench` on a quiet machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from bench import page, targets, turns  # noqa: E402
from bench.clock import speed_of  # noqa: E402
from bench.flops import training_flops  # noqa: E402
from bench.memory import Memory  # noqa: E402
from bench.rows import make_tokenizer, read_sources  # noqa: E402
from bench.shapes import GEMMA_2B, GEMMA_72M, TINY, Shape, write_model  # noqa: E402


def test_flops_of_a_small_model_counted_by_hand() -> None:
    # q 4x6, k and v 4x3, o 6x4, gate and up 4x8, down 8x4: 24 + 12 + 12 + 24 + 32 + 32 + 32 = 168
    shape = Shape("hand", hidden=4, layers=1, mlp=8, heads=2, kv_heads=1, head=3, vocabulary=10)
    assert shape.linear_parameters == 168
    # r=1: inputs + outputs of each: 10 + 7 + 7 + 10 + 12 + 12 + 12
    assert shape.adapter(1) == 70
    found = training_flops(shape, 1, [2, 3], supervised=3)
    assert found.layers == 4 * 168 * 5
    assert found.head == 4 * 10 * 4 * 3
    assert found.lora == 6 * 70 * 5
    # positions see themselves and what is before: 1+2 and 1+2+3 pairs, 2 heads of 3, 12 each
    assert found.attention == 12 * (3 + 6) * 2 * 3
    assert found.total == 3360 + 480 + 2100 + 648
    twice = Shape("hand", hidden=4, layers=2, mlp=8, heads=2, kv_heads=1, head=3, vocabulary=10)
    assert training_flops(twice, 1, [2, 3], 3).total == 2 * (3360 + 2100 + 648) + 480


def test_shapes_are_what_they_are_called() -> None:
    assert round(GEMMA_72M.parameters / 1e6) == 72
    assert GEMMA_2B.parameters == 2_506_172_416  # of google/gemma-2b
    assert (GEMMA_72M.hidden, GEMMA_72M.layers, GEMMA_72M.mlp) == (512, 8, 4096)
    assert GEMMA_72M.vocabulary == 32_768


def test_the_written_model_is_the_shape(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(read_sources(None), TINY.vocabulary, tmp_path)
    pieces = AutoTokenizer.from_pretrained(tokenizer)
    assert len(pieces) == TINY.vocabulary
    assert pieces.convert_tokens_to_ids(["<bos>", "<start_of_turn>", "<end_of_turn>"]) == [
        2,
        106,
        107,
    ]
    folder = write_model(TINY, tmp_path / "model", tokenizer)
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert sum(p.numel() for p in model.parameters()) == TINY.parameters
    adapter = LoraConfig(r=16, target_modules=list(TINY.linears), task_type="CAUSAL_LM")
    tuned = get_peft_model(model, adapter)
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == TINY.adapter(16)


def test_memory_is_the_peak_after_loading() -> None:
    before = torch.ones(40 * 2**18)  # 40 MiB that are gone when the weights are there
    del before
    memory = Memory("cpu")
    memory.loaded(torch.nn.Linear(8, 8))
    during = torch.ones(64 * 2**18)
    del during
    assert 60 <= memory.result()["above_weights_mib"] <= 90


def test_speed_leaves_the_warm_up_out() -> None:
    steps = [
        {"seconds": 9.0, "tokens": 10},
        {"seconds": 1.0, "tokens": 30},
        {"seconds": 3.0, "tokens": 10},
    ]
    assert speed_of(steps, warmup=2) == 10.0  # steps 2, 3, 4; the second is warm-up
    assert speed_of(steps, warmup=1) == 50 / 13


def _round(ours: float, stock: float, peak: float) -> dict[str, Any]:
    run = {"above_weights_mib": 100.0, "start_up_seconds": 1.0}
    return {
        "matmul": {"gflops": peak},
        "ours": {**run, "speed": ours},
        "stock": {**run, "speed": stock, "above_weights_mib": 400.0},
    }


def test_ratios_are_taken_within_a_round() -> None:
    # the machine was twice as fast in the second round; the third had a slow moment for one
    rounds = [_round(300, 100, 100), _round(600, 200, 200), _round(300, 20, 100)]
    found = turns.summary(rounds, flops=1e8, against=["stock"])
    assert found["ratios"]["stock"] == {"speed": 3.0, "memory": 0.25}
    assert found["contestants"]["ours"]["share_of_matmul"] == 0.3
    assert found["contestants"]["stock"]["speed_range"] == [20, 200]
    met = {check.what: check.met for check in targets.checks(found)}
    assert met == {
        "speed against stock Trainer + PEFT, padded to the longest": True,
        "memory against stock Trainer + PEFT, padded to the longest": True,
        "share of the matrix-multiply rate, gemma-lora, dropout 0.05": False,
    }


def test_a_missed_speed_says_what_it_would_take_of_the_machine() -> None:
    # the other reaches 40 % of what a matrix product alone does: 2.5 times that is all there is
    found = turns.summary([_round(800, 400, 100)], flops=1e8, against=["stock"])
    missed = targets.checks(found)[0]
    assert not missed.met
    assert missed.takes == "would take 100% of the matrix-multiply rate"
    known = json.loads((ROOT / "docs" / "benchmarks.json").read_text(encoding="utf-8"))["speed"]
    shown = page.speed({**known, "summary": {**known["summary"], **found}})
    assert f"| 2.00x | **missed**; {missed.takes} |" in shown


def test_the_reason_of_a_failure_is_its_exception() -> None:
    output = "x ended with 1:   File a\n    raise ValueError(\nValueError: no such switch\nwarning: at exit"
    assert turns.reason_of(output) == "ValueError: no such switch"


def test_a_switch_that_is_faster_than_the_comparison_is_named() -> None:
    from bench.trl_options import FAST, SHORT_PACKS, SWITCHES, best_on

    taken = next(name for name, options in SWITCHES.items() if options == FAST)
    known = json.loads((ROOT / "docs" / "benchmarks.json").read_text())["speed"]

    def said(**speeds: float) -> str:
        found: dict[str, Any] = {
            name: {"speed": n, "above_weights_mib": 1, "batches": 4} for name, n in speeds.items()
        }
        found |= {"broken": {"failed": "ValueError"}}
        return page.switches({**known, "best": FAST, "switches": found})

    assert "The fastest here is smaller packs: 1.25 times as fast, with 1 MiB." in said(
        **{taken: 100, "smaller packs": 125}
    )
    assert "The fastest here" not in said(**{taken: 100, "smaller packs": 99})
    assert best_on("cpu", longest=512) == SHORT_PACKS
    assert best_on("cpu", longest=513) == FAST, "TRL would cut the row off"


def test_the_document_is_made_from_its_figures() -> None:
    store = ROOT / "docs" / "benchmarks.json"
    parts = json.loads(store.read_text()) if store.exists() else {}
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text == page.render(parts), "run: make bench-page"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One round of us and the stock recipe, each in its process, on a tiny model."""
    out = tmp_path_factory.mktemp("bench")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools"), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "bench",
        "speed",
        "--quick",
        "--only",
        "stock",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "| gemma-lora, dropout 0.05 |" in done.stdout
    return json.loads((out / "speed.json").read_text())


@pytest.mark.full  # half a minute under the profiler
def test_the_profile_says_what_reading_the_rows_takes(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), str(ROOT / "src")]),
    }
    command = [sys.executable, "-m", "bench", "profile", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads((tmp_path / "profile.json").read_text())["profile"]
    (rows,) = [op for op in found["ops"] if op["op"] == "rows (read, packed, collated)"]
    assert rows["calls"] == 1  # of the one step that is profiled
    assert 0 < rows["ms"] < found["seconds"] * 1e3
    assert found["others_share"] + sum(op["share"] for op in found["ops"]) == pytest.approx(
        1, abs=0.01
    )
    assert f"| rows (read, packed, collated) | {rows['share']:.1%} |" in done.stdout


def test_the_harness_works(quick: dict[str, Any]) -> None:
    assert set(quick["summary"]["contestants"]) == {"ours", "stock"}
    (one,) = quick["rounds"]
    rows = quick["setting"]["rows"]
    for name in ("ours", "stock"):
        assert len(one[name]["loss"]) == quick["setting"]["steps"]
        assert one[name]["above_weights_mib"] > 0
        assert one[name]["adapter_parameters"] == TINY.adapter(16)
        # 48 rows and 3 steps of 16: both saw every row once, so the losses are those of the same tokens
        mean = sum(one[name]["loss"]) / 3
        assert mean == pytest.approx(sum(one["ours"]["loss"]) / 3, rel=0.02)
    # what our metrics say of the steps after the first is what the rows are long
    tokens = sum(step["tokens"] for step in one["ours"]["steps"])
    assert rows["tokens"] / 3 <= tokens <= rows["tokens"]
    assert sum(s["tokens"] for s in one["stock"]["steps"]) <= rows["tokens"]


def test_quick_figures_are_never_published(quick: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text(json.dumps(quick))
    assert page.write(tmp_path, tmp_path) == 1
    assert not (tmp_path / "benchmarks.md").exists()
    shown = page.render({"speed": page.published(quick)})
    assert "Not measured yet" in shown
    assert "aimed at" in shown

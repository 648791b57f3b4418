"""The training stage as a whole: what it writes, what it refuses, what it says."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from support.tiny import tiny_model, tokenizer_for
from support.training import (
    folder_digests,
    in_child,
    make_config,
    make_run,
    quiet,
    talking,
    text_of,
)
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.integrations import integration_utils

from gemma_lora.errors import ConfigError, DataError, EnvironmentFault, ModelError
from gemma_lora.model.budget import Budget
from gemma_lora.model.memory import Forecast
from gemma_lora.rundir import read_json
from gemma_lora.train import decisions, train
from gemma_lora.train import trainer as trainers


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    """One finished training that several tests look at: (run, config, training.json, console)."""
    run = make_run(tmp_path_factory.mktemp("trained") / "run")
    config = make_config(tiny_folder("gemma"), epochs=2)
    console = talking()
    return run, config, train(config, run, console), console


def metrics_of(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_it_learns_ten_rows_by_heart(tmp_path):
    tokenizer, model = tokenizer_for("gemma"), tiny_model("gemma", 850)
    assert len(tokenizer) == 850
    with torch.no_grad():  # embeddings this small could not express a sure answer
        model.get_input_embeddings().weight.mul_(40)
    model.save_pretrained(tmp_path / "loud")
    tokenizer.save_pretrained(tmp_path / "loud")
    run = make_run(tmp_path / "run", train=10, validation=0)
    config = make_config(
        tmp_path / "loud",
        batch=10,
        accumulation=1,
        epochs=100,
        eval_steps=50,
        learning_rate=1e-2,
        lora={"rank": 16, "alpha": 32, "dropout": 0},
    )
    result = train(config, run, quiet())
    assert result["train_loss_first"] > 5
    assert result["train_loss_last"] < 0.2
    assert any("no validation rows" in warning for warning in result["warnings"])
    assert result["saved_step"] == result["steps_done"] == 100
    assert result["validation_loss_best"] is None


def test_training_json_says_what_was_decided_and_done(trained):
    run, _, result, _ = trained
    assert read_json(run.training) == json.loads(json.dumps(result))
    decided = result["decisions"]
    assert decided["steps"] == result["steps_done"] == 10
    assert decided["steps_per_epoch"] == 5
    assert decided["eval_steps"] == 1
    assert decided["precision"] == "fp32"
    assert result["rows"] == {"train": 20, "validation": 5}
    assert result["validation_loss_best"] < result["validation_loss_before"]
    assert result["best_step"] == result["saved_step"]
    losses = {v["step"]: v["loss"] for v in result["validations"]}
    assert losses[result["best_step"]] == min(v for s, v in losses.items() if s)
    assert result["seconds"] > 0
    assert result["tokens_per_second"] > 0
    assert result["peak_rss_mib"] > 50
    assert len(result["base"]["weights"]) == 64


def test_metrics_have_one_line_a_step(trained):
    run, _, result, _ = trained
    lines = metrics_of(run)
    assert [line["step"] for line in lines] == list(range(11))
    fields = {"step", "epoch", "loss", "validation_loss", "lr", "grad_norm", "tokens_per_second"}
    assert all(line.keys() == fields | {"memory"} for line in lines)
    assert lines[0]["loss"] is None
    assert lines[0]["validation_loss"] == pytest.approx(result["validation_loss_before"], rel=1e-6)
    assert lines[-1]["epoch"] == 2
    assert lines[1]["lr"] == 0
    assert max(line["lr"] for line in lines[1:]) == pytest.approx(5e-3)


def test_what_is_seen_on_the_way(trained):
    *_, console = trained
    text = text_of(console)
    for part in ("step 5/10", "epoch 1.00", "loss ", "validation ", "tokens/s", "left"):
        assert part in text
    assert "learning rate 0.005, cosine" in text
    assert "{'loss'" not in text


def test_the_adapter_loads_in_plain_peft_and_acts(trained, tiny_folder):
    run, *_ = trained
    base = AutoModelForCausalLM.from_pretrained(tiny_folder("gemma"))
    ids = torch.tensor([[2, 106, 300, 301, 302]])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        model = PeftModel.from_pretrained(base, str(run.adapter)).eval()
        after = model(input_ids=ids).logits
    assert (before - after).abs().max() > 1e-3
    tensors = load_file(run.adapter / "adapter_model.safetensors")
    assert all("lora_" in name for name in tensors)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert len(tensors) == 2 * 7 * 2


def test_the_saved_adapter_is_the_best_checkpoint(trained):
    run, _, result, _ = trained
    stored = load_file(run.checkpoints / f"step-{result['best_step']:08d}" / "weights.safetensors")
    saved = load_file(run.adapter / "adapter_model.safetensors")
    for name, tensor in stored.items():
        assert torch.equal(saved[name.replace(".default", "")], tensor)


def test_the_card_names_base_data_recipe_and_results(trained):
    run, config, result, _ = trained
    card = (run.adapter / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    for part in (result["base"]["weights"], "8 / 16 / 0.05", "q_proj", "20 trained on", "cosine"):
        assert part in card
    assert f"{result['validation_loss_best']:.4f} at step {result['best_step']}" in card
    notice = (run.adapter / "NOTICE").read_text()
    assert notice.startswith("Gemma is provided under and subject to the Gemma Terms of Use")
    assert sorted(folder_digests(run.adapter)) == [
        "NOTICE",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert config.model.model in card


def test_the_snippet_of_the_card_runs(trained, monkeypatch, capsys):
    run, *_ = trained
    card = (run.adapter / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("=256", "=4")
    monkeypatch.chdir(run.adapter)
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")


def test_a_second_call_trains_nothing_and_writes_the_same(trained):
    run, config, result, _ = trained
    before, lines = folder_digests(run.adapter), metrics_of(run)
    console = talking()
    again = train(config, run, console)
    assert "going on from the checkpoint of step 10" in text_of(console)
    assert folder_digests(run.adapter) == before
    assert metrics_of(run) == lines
    assert again["validations"] == result["validations"]


def test_the_files_are_the_same_under_another_hash_seed(trained, tmp_path):
    run, config, *_ = trained
    other = tmp_path / "run"
    shutil.copytree(run.split, other / "split")
    program = (
        "import sys, io\nfrom pathlib import Path\nfrom gemma_lora.config import Config\n"
        "from gemma_lora.console import Console\nfrom gemma_lora.rundir import RunDir\n"
        "from gemma_lora.train import train\n"
        "config = Config.model_validate_json(sys.argv[1])\n"
        "train(config, RunDir(Path(sys.argv[2])), Console(quiet=True))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, config.model_dump_json(), str(other)],
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        check=True,
        timeout=240,
    )
    assert folder_digests(other / "adapter") == folder_digests(run.adapter)


def scripted_validation(monkeypatch, losses):
    """Validation losses in the given order (the first is before training), the last one repeated."""
    script = list(losses)
    monkeypatch.setattr(
        trainers, "mean_nll", lambda *_, **__: script.pop(0) if len(script) > 1 else script[0]
    )


def test_an_adapter_that_does_nothing_yet_is_never_the_best(tiny_folder, tmp_path, monkeypatch):
    scripted_validation(monkeypatch, [2.0, 2.0, 3.0, 4.0, 5.0, 6.0])  # rate zero in the first step
    result = train(make_config(tiny_folder("gemma")), make_run(tmp_path / "run"), quiet())
    assert result["best_step"] == 2
    single = make_run(tmp_path / "single", train=2)  # one step only: it must not have rate zero
    assert train(make_config(tiny_folder("gemma")), single, quiet())["best_step"] == 1


def test_early_stopping_keeps_the_best(tiny_folder, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    scripted_validation(monkeypatch, [4.0, 3.0, 2.0, 2.5, 2.0, 2.2, 1.0])
    config = make_config(tiny_folder("gemma"), epochs=4, patience=3)
    console = talking()
    result = train(config, run, console)
    assert result["stopped_early"]
    assert (result["best_step"], result["steps_done"]) == (2, 5)  # an equal loss is no improvement
    assert result["validation_loss_best"] == 2.0
    assert "stopped early after step 5" in text_of(console)
    kept = sorted(path.name for path in run.checkpoints.iterdir())
    assert kept == ["step-00000002", "step-00000004", "step-00000005"]
    best = load_file(run.checkpoints / kept[0] / "weights.safetensors")
    saved = load_file(run.adapter / "adapter_model.safetensors")
    assert all(torch.equal(saved[n.replace(".default", "")], t) for n, t in best.items())
    before = folder_digests(run.adapter)
    again = train(config, run, quiet())
    assert again["steps_done"] == 5
    assert folder_digests(run.adapter) == before


def test_patience_zero_never_stops_early(tiny_folder, tmp_path, monkeypatch):
    scripted_validation(monkeypatch, [1.0, 2.0, 3.0])
    result = train(
        make_config(tiny_folder("gemma"), patience=0), make_run(tmp_path / "run"), quiet()
    )
    assert result["steps_done"] == 5
    assert not result["stopped_early"]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([2.0, 2.5, 2.0, 2.1, 2.2, 2.3], "never fell below 2.000"),
        ([2.0, 2.0, 1.0, 1.1, 1.2, 1.3], "the first validation was the best"),
        ([2.0, 1.5, 1.4, 1.3, 1.2, 1.1], "the last validation was the best"),
    ],
)
def test_doubtful_courses_are_warned_of(tiny_folder, tmp_path, monkeypatch, losses, words):
    scripted_validation(monkeypatch, losses)
    result = train(
        make_config(tiny_folder("gemma"), patience=0), make_run(tmp_path / "run"), quiet()
    )
    assert [words in warning for warning in result["warnings"]] == [True]


def test_nothing_to_train_on_is_an_error(tiny_folder, tmp_path):
    run = make_run(tmp_path / "run", train=0)
    with pytest.raises(DataError, match="no row to train on"):
        train(make_config(tiny_folder("gemma")), run, quiet())
    run = make_run(tmp_path / "long", train=4)
    with pytest.raises(DataError, match="none of the 4 training rows fits"):
        train(make_config(tiny_folder("gemma"), max_length=16), run, quiet())


def test_a_misspelt_target_is_an_error_that_lists_the_names(tiny_folder, tmp_path):
    config = make_config(tiny_folder("gemma"), lora={"targets": "q_proj,v_prj"})
    with pytest.raises(ConfigError) as caught:
        train(config, make_run(tmp_path / "run"), quiet())
    assert "v_prj" in str(caught.value)
    assert "v_proj" in str(caught.value)


def test_fp16_on_a_cpu_is_refused(tiny_folder, tmp_path):
    config = make_config(tiny_folder("gemma"))
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"precision": "fp16"})}
    )
    with pytest.raises(ConfigError, match="fp16"):
        train(config, make_run(tmp_path / "run"), quiet())


def test_a_model_that_accelerate_gave_an_autocast_is_proven(tiny_folder, tmp_path, monkeypatch):
    """As it does for fp16 on a GPU; bf16 stands in for that on a CPU."""
    config = make_config(tiny_folder("gemma"))
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"precision": "bf16"})}
    )
    honest = trainers.training_arguments

    def mixed(*given, **named):
        arguments = honest(*given, **named)
        arguments.mixed_precision = "bf16"
        return arguments

    monkeypatch.setattr(trainers, "training_arguments", mixed)
    run = make_run(tmp_path / "run")
    assert in_child(lambda: train(config, run, quiet())) == 0
    assert (run.adapter / "adapter_model.safetensors").is_file()


def test_trackers_that_are_missing_or_unknown_are_an_error(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(decisions.importlib.util, "find_spec", lambda name: None)
    config = make_config(tiny_folder("gemma"), report_to="tensorboard,clearml")
    with pytest.raises(ConfigError) as caught:
        train(config, make_run(tmp_path / "run"), quiet())
    assert "gemma-lora[tensorboard]" in str(caught.value)
    assert "clearml: unknown" in str(caught.value)


def test_too_little_disk_is_found_before_the_start(tiny_folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    run = make_run(tmp_path / "run")
    with pytest.raises(EnvironmentFault, match="1 MiB are free"):
        train(make_config(tiny_folder("gemma")), run, quiet())
    assert not run.checkpoints.exists()


def test_several_gpus_are_not_used_without_a_word(monkeypatch, tiny_folder):
    console = talking()
    decisions.tell_of_gpus(console, gpus=4, processes=1)
    assert "4 GPUs are here; training uses the first one" in text_of(console)
    assert "torchrun --nproc-per-node 4" in text_of(console)
    monkeypatch.setattr(trainers.TrainingArguments, "_setup_devices", torch.device("cpu"))
    monkeypatch.setattr(trainers.TrainingArguments, "_n_gpu", 4, raising=False)
    config = make_config(tiny_folder("gemma"))
    decided = decisions.Decisions("cpu", "fp32", 1e-3, 2, 2, 0, 1, False, 1024)
    assert trainers.training_arguments(config, decided, Path("unused")).n_gpu == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_the_remedy(tiny_folder, tmp_path, monkeypatch, bad):
    run = make_run(tmp_path / "run")
    config = make_config(tiny_folder("gemma"))
    honest = trainers.nll_sum
    calls = []

    def broken(model, batch):
        calls.append(1)
        return honest(model, batch) * (bad if len(calls) == 3 else 1)

    monkeypatch.setattr(trainers, "nll_sum", broken)
    with pytest.raises(ModelError, match=r"the loss became (nan|inf) at step 3") as caught:
        train(config, run, quiet())
    assert "--learning-rate" in str(caught.value)
    assert not run.training.exists()
    assert [line["step"] for line in metrics_of(run)] == [0, 1, 2]


def test_a_gradient_that_is_not_finite_stops(tiny_folder, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(trainers.StepTrainer, "_get_grad_norm", lambda *_, **__: math.inf)
    with pytest.raises(ModelError, match="the gradient became inf at step"):
        train(make_config(tiny_folder("gemma")), run, quiet())
    assert not list(run.checkpoints.glob("step-*"))


def test_steps_skipped_for_overflow_are_counted_and_too_many_stop(
    tiny_folder, tmp_path, monkeypatch
):
    """fp16 itself needs a GPU; what the trainer does when its scaler skips steps does not."""
    monkeypatch.setattr(
        trainers.StepTrainer, "_get_grad_norm", lambda self, *_, **__: self.overflow
    )
    monkeypatch.setattr(trainers.StepTrainer, "overflow", math.inf, raising=False)
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", property(lambda _: True))
    config = make_config(tiny_folder("gemma"), eval_steps=50, warmup=0)
    result = train(config, make_run(tmp_path / "few"), quiet())
    assert result["skipped_steps"] == 5
    assert any("5 steps were skipped" in warning for warning in result["warnings"])
    config = make_config(tiny_folder("gemma"), epochs=6, eval_steps=50, warmup=0)
    with pytest.raises(ModelError, match=r"the gradient became inf at step 2\d of 30"):
        train(config, make_run(tmp_path / "many"), quiet())


def test_trackers_get_losses_and_rate(tiny_folder, tmp_path, monkeypatch):
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append((state.global_step, dict(logs or {})))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    monkeypatch.setattr(decisions.importlib.util, "find_spec", lambda name: object())
    config = make_config(tiny_folder("gemma"), report_to="tensorboard")
    train(config, make_run(tmp_path / "run"), quiet())
    steps = {step: logs for step, logs in seen if "loss" in logs}
    assert sorted(steps) == [1, 2, 3, 4, 5]
    assert all(logs["learning_rate"] is not None for logs in steps.values())
    assert [step for step, logs in seen if "eval_loss" in logs] == [0, 1, 2, 3, 4, 5]


def test_gradient_checkpointing_changes_nothing_in_the_result(trained, tmp_path):
    run, config, *_ = trained
    other = tmp_path / "run"
    shutil.copytree(run.split, other / "split")
    recipe = config.train.model_copy(update={"gradient_checkpointing": True})
    second = type(run)(other)
    result = train(config.model_copy(update={"train": recipe}), second, quiet())
    assert result["decisions"]["gradient_checkpointing"]
    ours = load_file(run.adapter / "adapter_model.safetensors")
    theirs = load_file(second.adapter / "adapter_model.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gemma3"])
def test_the_other_families_train(family, tiny_folder, tmp_path):
    run = make_run(tmp_path / "run", train=8, validation=2)
    result = train(make_config(tiny_folder(family), learning_rate=1e-2, epochs=3), run, quiet())
    assert result["validation_loss_best"] < result["validation_loss_before"]
    assert not any(
        "vision" in name for name in load_file(run.adapter / "adapter_model.safetensors")
    )


def test_the_recipe_reaches_optimiser_and_schedule(tiny_folder, tmp_path):
    run = make_run(tmp_path / "run", train=20, validation=0)
    config = make_config(
        tiny_folder("gemma"), schedule="linear", warmup=0.4, weight_decay=0.01, eval_steps=2
    )
    result = train(config, run, quiet())
    assert result["decisions"]["warmup_steps"] == 2
    rates = [line["lr"] for line in metrics_of(run)]
    assert rates == pytest.approx([0.0, 2.5e-3, 5e-3, 5e-3 * 2 / 3, 5e-3 / 3])
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["step-00000004", "step-00000005"]


def test_auto_learning_rate_follows_the_size_and_the_budget_is_kept():
    config = make_config(Path("unused"), learning_rate=None).train
    said = talking()

    def decide(parameters, steps_per_epoch=100):
        return decisions.decide(
            config,
            device="cpu",
            precision="bf16",
            parameters=parameters,
            steps=300,
            steps_per_epoch=steps_per_epoch,
            budget=Budget(300, True, Forecast({"weights": 2**30}), free=2**31),
            console=said,
        )

    assert decide(7_000_000).learning_rate == 2e-3
    large = decide(2_500_000_000)
    assert (large.learning_rate, large.eval_steps, large.predicted_bytes) == (2e-4, 25, 2**30)
    assert (large.gradient_checkpointing, large.micro_batch_tokens) == (True, 300)
    assert decide(1, steps_per_epoch=1).eval_steps == 1
    assert "1.0 GiB predicted at the peak, 2.0 GiB free" in text_of(said)


def test_signals_are_as_before_afterwards(trained):
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler

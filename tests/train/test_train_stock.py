"""Our training follows transformers' Trainer with PEFT: the same rows, order, recipe and losses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from support.training import example, make_config, make_run, quiet
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from gemma_lora import model as models
from gemma_lora.data.tokens import tokenise
from gemma_lora.train import train
from gemma_lora.train.plan import StepPlan

ROWS, BATCH, ACCUMULATION, EPOCHS, RATE = 40, 2, 4, 10, 2e-3
STEPS = ROWS // (BATCH * ACCUMULATION) * EPOCHS


@pytest.fixture(scope="module")
def rows(tiny_folder):
    fmt = models.load_format(models.resolve(str(tiny_folder("gemma"))))
    return tokenise([example(n) for n in range(ROWS)], fmt, max_length=1024, keep_answer=False)


def ours(folder: Path, at: Path, *, seed: int, dropout: float) -> list[float]:
    """Losses of all steps of `gemma-lora train`, in packed micro-batches of about three rows."""
    run = make_run(at / "run", train=ROWS, validation=0)
    config = make_config(
        folder,
        seed=seed,
        lora={"dropout": dropout},
        batch=BATCH,
        accumulation=ACCUMULATION,
        epochs=EPOCHS,
        learning_rate=RATE,
        warmup=0.1,
        eval_steps=STEPS,
        micro_batch_tokens=110,
    )
    result = train(config, run, quiet())
    assert result["decisions"]["path"] == "packed"
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [line["loss"] for line in lines if line["step"]]


def stock(folder: Path, at: Path, rows, *, seed: int, dropout: float) -> list[float]:
    """The same by the book: AutoModel, get_peft_model, a padding collator, Trainer with its own loss,
    accumulation, optimiser and schedule."""
    transformers.set_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if model.config.model_type == "gemma2":
        model.set_attn_implementation("eager")
    recipe = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=8,
        lora_alpha=16,
        lora_dropout=dropout,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
    )
    tuned = peft.get_peft_model(model, recipe)
    first = models.attach_lora(
        models.load_base(models.resolve(str(folder)), precision="fp32", device="cpu"),
        make_config(folder).lora,
        seed,
    )
    tuned.load_state_dict(
        {n: p for n, p in first.state_dict().items() if "lora_" in n}, strict=False
    )
    plan = StepPlan(ROWS, per_step=BATCH * ACCUMULATION, epochs=EPOCHS, seed=seed)
    order = [row for step in range(plan.steps) for row in plan[step].rows]
    data = [
        {
            "input_ids": torch.tensor(rows.table[row]["ids"], dtype=torch.int64),
            "labels": torch.tensor(np.where(rows.table[row]["mask"], rows.table[row]["ids"], -100)),
        }
        for row in order
    ]

    def padded(chosen):
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [row["input_ids"] for row in chosen]
        return {
            "input_ids": pad(ids, batch_first=True),
            "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad(
                [row["labels"] for row in chosen], batch_first=True, padding_value=-100
            ).long(),
        }

    trainer = Trainer(
        model=tuned,
        args=TrainingArguments(
            output_dir=str(at / "stock"),
            seed=seed,
            use_cpu=True,
            num_train_epochs=1,  # of the rows in the order in which our ten epochs draw them
            train_sampling_strategy="sequential",
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=STEPS // 10,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=data,
        data_collator=padded,
    )
    trainer.train()
    found = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(found) == STEPS
    return found


@pytest.mark.parametrize(
    "family",
    ["gemma", *(pytest.param(f, marks=pytest.mark.full) for f in ("gemma2", "gemma3_text"))],
)
def test_without_dropout_every_loss_is_the_stock_trainers(family, tiny_folder, tmp_path, rows):
    folder = tiny_folder(family)
    found = ours(folder, tmp_path, seed=0, dropout=0.0)
    expected = stock(folder, tmp_path, rows, seed=0, dropout=0.0)
    assert STEPS == len(found) == 50
    worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    assert worst <= 1e-4
    assert expected[0] - expected[-1] > 100 * 1e-4  # it has learnt something


@pytest.mark.full
def test_with_dropout_the_means_over_five_seeds_are_the_stock_trainers(tiny_folder, tmp_path, rows):
    folder = tiny_folder("gemma")
    curves = [
        (
            ours(folder, tmp_path / str(seed), seed=seed, dropout=0.05),
            stock(folder, tmp_path / str(seed), rows, seed=seed, dropout=0.05),
        )
        for seed in range(5)
    ]
    found, expected = np.array(curves).mean(axis=0)
    assert found.mean() == pytest.approx(expected.mean(), rel=0.01)
    assert found[-10:].mean() == pytest.approx(expected[-10:].mean(), rel=0.01)
    assert all(a != b for a, b in curves)

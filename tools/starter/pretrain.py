"""Pre-train the starter model on a CPU, by the clock or by the step.

Reads: what prepare.py wrote. Writes, into the work folder: checkpoint.pt (everything needed to go on),
model/ (the weights so far, loadable), pretrain.jsonl (a line per logged step), run.json (at the end).
Refuses: a checkpoint of another shape.

The learning rate warms up, stays, and falls linearly to zero over the last part of the run; progress is
the share of the minutes used up (or of the steps, with --steps), so that a machine that others use too
still ends on time. The last part uses longer rows, so that the model has seen longer contexts.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import GemmaConfig, GemmaForCausalLM


@dataclass(frozen=True)
class Shape:
    """The model's shape."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 1
    head_dim: int = 64
    max_position_embeddings: int = 2048

    def config(self) -> GemmaConfig:
        """As a GemmaConfig with Gemma's special ids."""
        return GemmaConfig(
            **asdict(self), pad_token_id=0, eos_token_id=1, bos_token_id=2, tie_word_embeddings=True
        )


@dataclass(frozen=True)
class Plan:
    """How to train."""

    minutes: float = 78.0
    steps: int = 0  # when not 0, progress is counted in steps and the minutes are not looked at
    peak: float = 1.3e-3
    warm_up: int = 150
    decay: float = 0.35  # the last share of the run, in which the learning rate falls to zero
    rows: int = 8
    length: int = 256
    long_share: float = 0.15  # the last share of the run, on rows twice as long
    weight_decay: float = 0.05
    seed: int = 20
    threads: int = 2
    save_every: float = 240.0  # seconds


class Rows:
    """Rows of whole documents, each row starting at a document's <bos>, shuffled per pass."""

    def __init__(self, work: Path, seed: int) -> None:
        self.tokens = np.load(work / "tokens.npy")
        self.weights = np.load(work / "weights.npy")
        self.offsets = np.load(work / "offsets.npy")
        self.seed = seed
        self.passes = 0
        self.at = 0
        self._shuffle()

    def _shuffle(self) -> None:
        order = np.random.default_rng(self.seed + self.passes)
        self.order = order.permutation(len(self.offsets) - 1)

    def state(self) -> tuple[int, int]:
        """Where the stream is."""
        return self.passes, self.at

    def restore(self, state: tuple[int, int]) -> None:
        """Go on from there."""
        self.passes, self.at = state
        self._shuffle()

    def batch(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, length + 1) ids and weights; the end of a row's last document is cut off."""
        ids = np.zeros((rows, length + 1), dtype=np.int64)
        weights = np.zeros((rows, length + 1), dtype=np.float32)
        for row in range(rows):
            filled = 0
            while filled <= length:
                if self.at == len(self.order):
                    self.passes, self.at = self.passes + 1, 0
                    self._shuffle()
                document = self.order[self.at]
                self.at += 1
                start, end = self.offsets[document], self.offsets[document + 1]
                size = min(end - start, length + 1 - filled)
                ids[row, filled : filled + size] = self.tokens[start : start + size]
                weights[row, filled : filled + size] = self.weights[start : start + size]
                filled += size
        return torch.from_numpy(ids), torch.from_numpy(weights)


def rate(plan: Plan, step: int, progress: float) -> float:
    """The learning rate at a step and at a share of the run."""
    warm = min(1.0, (step + 1) / plan.warm_up)
    fall = min(1.0, max(0.0, (1.0 - progress) / plan.decay))
    return plan.peak * warm * fall


def optimizer_for(model: GemmaForCausalLM, plan: Plan) -> torch.optim.AdamW:
    """AdamW, with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.peak, betas=(0.9, 0.98), fused=True)


def pretrain(work: Path, shape: Shape, plan: Plan) -> dict[str, float]:
    """Train until the minutes or the steps are used up; goes on from checkpoint.pt where there is one."""
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    model = GemmaForCausalLM(shape.config())
    optimizer = optimizer_for(model, plan)
    stream = Rows(work, plan.seed)
    step, spent, seen = 0, 0.0, 0
    saved = work / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        if state["shape"] != asdict(shape):
            raise ValueError(f"{saved} is of another shape: {state['shape']}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        stream.restore(tuple(state["stream"]))
        step, spent, seen = state["step"], state["spent"], state["seen"]
        print(f"going on from step {step}, {spent / 60:.1f} minutes", flush=True)

    @torch.compile(dynamic=False)
    def loss_of(ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden).float().flatten(0, 1)
        each = cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        counted = weights[:, 1:].flatten()
        return (each * counted).sum() / counted.sum()

    def save() -> None:
        state = {
            "shape": asdict(shape),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "stream": list(stream.state()),
            "step": step,
            "spent": spent,
            "seen": seen,
        }
        torch.save(state, saved.with_suffix(".new"))
        saved.with_suffix(".new").replace(saved)
        # a copy in bf16 that transformers loads; the live weights stay in fp32
        copy = GemmaForCausalLM(shape.config())
        copy.load_state_dict(model.state_dict())
        copy.to(torch.bfloat16).save_pretrained(work / "model")

    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    log = (work / "pretrain.jsonl").open("a", encoding="utf-8")
    began, last_save, last_log, logged = time.time() - spent, time.time(), time.time(), 0
    losses: list[float] = []
    while True:
        spent = time.time() - began
        progress = step / plan.steps if plan.steps else spent / (60 * plan.minutes)
        if progress >= 1.0 or stopping:
            break
        long = progress >= 1.0 - plan.long_share
        rows, length = (plan.rows // 2, plan.length * 2) if long else (plan.rows, plan.length)
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, step, progress)
        ids, weights = stream.batch(rows, length)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        step, seen, logged = step + 1, seen + rows * length, logged + rows * length
        if step % 25 == 0:
            now = time.time()
            line = {
                "step": step,
                "loss": round(sum(losses) / len(losses), 4),
                "lr": round(optimizer.param_groups[0]["lr"], 6),
                "minutes": round((now - began) / 60, 2),
                "tokens": seen,
                "tokens_per_second": round(logged / (now - last_log)),
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(line, flush=True)
            last_log, logged, losses = now, 0, []
        if time.time() - last_save > plan.save_every:
            save()
            last_save = time.time()
    save()
    run = {"steps": step, "tokens": seen, "minutes": spent / 60, "passes": stream.passes}
    (work / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    return run

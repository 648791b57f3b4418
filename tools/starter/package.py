"""Put the trained model, its tokenizer, questions and model card into the package.

Reads: the work folder (model/, tokenizer/, questions.jsonl, and for the card counts.json, figures.json).
Writes: src/gemma_lora/starter. Refuses: a model of more than 7.5 million parameters or 16 MiB, and a
folder that transformers cannot load.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import card
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

TARGET = Path(__file__).parents[2] / "src" / "gemma_lora" / "starter"
MOST_PARAMETERS = 7_500_000
MOST_BYTES = 16 * 1024 * 1024


def package(work: Path, target: Path = TARGET) -> None:
    """Write the package data and load it once to see that it works."""
    target.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=2, eos_token_id=[1, 107], pad_token_id=0, do_sample=False
    )
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    tokenizer.save_pretrained(target)
    settings = target / "tokenizer_config.json"
    known = json.loads(settings.read_text(encoding="utf-8"))
    known |= {"add_bos_token": True, "add_eos_token": False}
    for name in ("is_local", "local_files_only"):
        known.pop(name, None)
    settings.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(work / "questions.jsonl", target / "questions.jsonl")

    for written in target.iterdir():
        written.chmod(0o644)
    if (work / "run.json").exists() and (work / "figures.json").exists():
        (target / "README.md").write_text(card.render(work), encoding="utf-8")

    loaded = AutoModelForCausalLM.from_pretrained(target)
    parameters = sum(p.numel() for p in loaded.parameters())
    size = sum(f.stat().st_size for f in target.iterdir() if f.is_file())
    AutoTokenizer.from_pretrained(target)
    if parameters > MOST_PARAMETERS or size > MOST_BYTES:
        raise ValueError(f"{parameters} parameters, {size} bytes: too large for the package")
    print(f"{target}: {parameters:,} parameters, {size / 1024 / 1024:.1f} MiB")

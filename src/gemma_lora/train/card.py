"""The adapter's model card, and the licence notice that goes with it.

Everything in the card follows from the run's inputs and results: no time, host or path of the run
folder, so a training that was interrupted and resumed has the same card byte for byte.
`card_files` gives the text of README.md and, for models under the Gemma Terms of Use, NOTICE.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any

import yaml

from gemma_lora.config import Config

__all__ = ["GEMMA_NOTICE", "CardFacts", "card_files"]

GEMMA_NOTICE = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n"
"""The sentence that section 3.1 of the Gemma Terms of Use asks for with every distribution."""

_LIBRARIES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class CardFacts:
    """What the card says; `base_*` name the model, `results` is the content of training.json."""

    base_name: str
    base_kind: str
    base_location: str
    base_revision: str | None
    base_weights: str
    template: str | None
    """Chat template to set on the tokenizer; None where the tokenizer brings its own."""
    model_class: str | None
    """Class that loads the language model alone from a multimodal checkpoint; None: the automatic."""
    key_mapping: dict[str, str]
    licence: str | None
    gemma_terms: bool
    is_demo: bool
    data_file: str | None
    data_sha256: str | None
    results: dict[str, Any]


def card_files(config: Config, facts: CardFacts) -> dict[str, str]:
    """File name to text: README.md and, as due, NOTICE."""
    files = {"README.md": render(config, facts)}
    if facts.gemma_terms:
        files["NOTICE"] = GEMMA_NOTICE
    return files


def render(config: Config, facts: CardFacts) -> str:
    parts = [
        _front_matter(facts),
        _heading(facts),
        _data(facts),
        _recipe(config, facts),
        _results(facts),
        _use(facts),
        _licence(facts),
    ]
    return "\n".join(parts)


def _front_matter(facts: CardFacts) -> str:
    fields: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
    tags = ["lora", "transformers", "gemma-lora"]
    if facts.base_kind == "hub":
        fields["base_model"] = facts.base_name
        tags.insert(0, f"base_model:adapter:{facts.base_name}")
    if facts.licence:
        fields["license"] = facts.licence
    fields["tags"] = tags
    return "---\n" + yaml.safe_dump(fields, sort_keys=False) + "---\n"


def _heading(facts: CardFacts) -> str:
    text = f"# LoRA adapter for {facts.base_name}\n\nMade with gemma-lora.\n"
    if facts.is_demo:
        text += (
            "\nThe base is gemma-lora's small demonstration model: it shows how everything works and "
            "is not fit for real use. For a real one: `--model google/gemma-2b-it`.\n"
        )
    revision = f", revision `{facts.base_revision}`" if facts.base_revision else ""
    return text + (
        f"\n- Base model: `{facts.base_name}`{revision}\n"
        f"- Digest of the base weights: `{facts.base_weights}`\n"
        "- This folder holds the adapter only, no base weights.\n"
    )


def _data(facts: CardFacts) -> str:
    lines = ["## Data", ""]
    if facts.data_file:
        lines.append(f"- File: `{facts.data_file}`")
    if facts.data_sha256:
        lines.append(f"- SHA-256: `{facts.data_sha256}`")
    lines.append(
        f"- Rows: {facts.results['rows']['train']} trained on, {facts.results['rows']['validation']} for validation"
    )
    return "\n".join(lines) + "\n"


def _recipe(config: Config, facts: CardFacts) -> str:
    lora, train, decisions = config.lora, config.train, facts.results["decisions"]
    table = {
        "rank / alpha / dropout": f"{lora.rank} / {lora.alpha:g} / {lora.dropout:g}",
        "targets": ", ".join(lora.targets),
        "epochs": f"{train.epochs:g}",
        "rows a step": f"{train.batch * train.accumulation} ({train.batch} x {train.accumulation})",
        "learning rate": f"{decisions['learning_rate']:g}, {train.schedule}, "
        f"warm-up {decisions['warmup_steps']} of {decisions['steps']} steps",
        "weight decay / gradient norm limit": f"{train.weight_decay:g} / {train.max_grad_norm:g}",
        "longest row": f"{train.max_length} tokens",
        "precision": f"{decisions['precision']}, adapter in fp32",
        "seed": str(config.training_seed),
    }
    rows = [f"| {name} | {value} |" for name, value in table.items()]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    return "\n".join(
        ["## Recipe", "", "| setting | value |", "|---|---|", *rows, "", f"Made with {versions}.\n"]
    )


def _results(facts: CardFacts) -> str:
    results = facts.results
    lines = [
        "## Results",
        "",
        f"- Steps: {results['steps_done']} of {results['decisions']['steps']}"
        + (" (stopped early)" if results["stopped_early"] else ""),
    ]
    if results["validation_loss_best"] is not None:
        lines.append(
            f"- Validation loss (nats a token): {results['validation_loss_before']:.4f} before, "
            f"{results['validation_loss_best']:.4f} at step {results['best_step']}, which is the "
            "one saved here"
        )
    else:
        lines.append("- No validation rows: the weights of the last step are saved here")
    if results["train_loss_first"] is not None:
        lines.append(
            f"- Training loss: {results['train_loss_first']:.4f} in the first step, "
            f"{results['train_loss_last']:.4f} in the last"
        )
    return "\n".join(lines) + "\n"


def _use(facts: CardFacts) -> str:
    base = repr(facts.base_location)
    if facts.base_kind == "starter":
        base = 'resolve("starter").location'
    elif facts.base_kind == "hub":
        base = repr(facts.base_name)
    pinned = f", revision={facts.base_revision!r}" if facts.base_kind == "hub" else ""
    loader, mapped = "AutoModelForCausalLM", ""
    if (
        facts.model_class
    ):  # the automatic class names its layers otherwise: the adapter would not fit
        loader, mapped = facts.model_class, f", key_mapping={facts.key_mapping!r}"
    code = [
        "from peft import PeftModel",
        "from transformers import " + ", ".join(sorted([loader, "AutoTokenizer"])),
        *(["from gemma_lora.model import resolve"] if facts.base_kind == "starter" else []),
        "",
        f"base = {base}",
        'adapter = "."  # this folder',
        f"tokenizer = AutoTokenizer.from_pretrained(base{pinned})",
        *([f"tokenizer.chat_template = {facts.template!r}"] if facts.template else []),
        f"model = {loader}.from_pretrained(base{pinned}{mapped})",
        "model = PeftModel.from_pretrained(model, adapter).eval()",
        "",
        'messages = [{"role": "user", "content": "Where is my order?"}]',
        "prompt = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        f"stop = {facts.results['stop_ids']}",
        "answer = model.generate(**prompt, max_new_tokens=256, do_sample=False, eos_token_id=stop)",
        'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "\n".join(["## Use", "", "```python", *code, "```", ""])


def _licence(facts: CardFacts) -> str:
    if facts.gemma_terms:
        return (
            "## Licence\n\nThe adapter is a derivative of Gemma, which is provided under and subject "
            "to the Gemma Terms of Use found at ai.google.dev/gemma/terms. Who passes it on must "
            "pass on those terms and the NOTICE file.\n"
        )
    named = facts.licence or "not stated"
    return f"## Licence\n\nLicence of the base model: {named}. Your data's own terms apply too.\n"

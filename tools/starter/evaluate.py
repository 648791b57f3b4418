"""Score a starter model: the bundled questions, and the loss on dialogues kept out of the corpus.

Reads: a model folder with its tokenizer (or the work folder's tokenizer beside it), questions.jsonl and
held_out.jsonl. Writes: figures.json into the work folder. Refuses: nothing.

Uses nothing but plain transformers: greedy decoding, left-padded batches.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Answer:
    """A question, what the model said, and how that is judged."""

    question: str
    expect: list[str]
    text: str
    tokens: int
    stopped: bool

    @property
    def right(self) -> bool:
        """The answer holds one of the expected words, as a whole word."""
        return any(holds(self.text, word) for word in self.expect)

    @property
    def repeats(self) -> bool:
        """The answer says the same four words twice."""
        return repeats_four(self.text)


def holds(text: str, word: str) -> bool:
    """Whether the word stands in the text, not as a part of a longer one."""
    return re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", text.lower()) is not None


def repeats_four(text: str) -> bool:
    """Whether a sequence of four words comes twice."""
    words = re.findall(r"[\w'-]+", text.lower())
    fours = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(fours) != len(set(fours))


def answer_all(model, tokenizer, questions: list[dict], batch: int = 50) -> list[Answer]:
    """Greedy answers of at most 64 tokens."""
    order = sorted(range(len(questions)), key=lambda i: len(questions[i]["question"]))
    answers: list[Answer | None] = [None] * len(questions)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        chats = [[{"role": "user", "content": questions[i]["question"]}] for i in chosen]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        for i, row in zip(chosen, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            ends = [n for n, token in enumerate(row) if token in (1, 107)]
            kept = row[: ends[0]] if ends else row
            answers[i] = Answer(
                questions[i]["question"],
                questions[i]["expect"],
                tokenizer.decode(kept).strip(),
                len(kept),
                bool(ends),
            )
    return [a for a in answers if a is not None]


def held_out_loss(
    model, tokenizer, dialogues: list[list[list[str]]], batch: int = 32
) -> dict[str, float]:
    """Mean loss a token: of the model's turns, and of all tokens."""
    encoded = []
    for turns in dialogues:
        ids, mask = [2], [0]
        for user, reply in turns:
            ask = tokenizer.encode(f"<start_of_turn>user\n{user.strip()}<end_of_turn>\n<start_of_turn>model\n",
                                   add_special_tokens=False)  # fmt: skip
            said = tokenizer.encode(f"{reply.strip()}<end_of_turn>", add_special_tokens=False)
            ids += ask + said + [108]
            mask += [0] * len(ask) + [1] * len(said) + [0]
        encoded.append((ids, mask))
    encoded.sort(key=lambda pair: len(pair[0]))
    total = {"answers": [0.0, 0], "all": [0.0, 0]}
    for start in range(0, len(encoded), batch):
        part = encoded[start : start + batch]
        width = max(len(ids) for ids, _ in part)
        ids = torch.tensor([i + [0] * (width - len(i)) for i, _ in part])
        mask = torch.tensor([m + [0] * (width - len(m)) for _, m in part])
        real = torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i, _ in part])
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=real).logits[:, :-1].float()
        each = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        ).view(len(part), -1)
        for name, counted in (("answers", mask[:, 1:]), ("all", real[:, 1:])):
            total[name][0] += float((each * counted).sum())
            total[name][1] += int(counted.sum())
    return {name: loss / max(1, count) for name, (loss, count) in total.items()}


def load(folder: Path, tokenizer_folder: Path | None = None):
    """The model in fp32 and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if model.generation_config.eos_token_id == 1:  # a checkpoint that is not packaged yet
        model.generation_config.eos_token_id = [1, 107]
    return model, AutoTokenizer.from_pretrained(tokenizer_folder or folder)


def report(folder: Path, work: Path, show: bool = False) -> dict[str, float]:
    """Print and return the figures."""
    own = (folder / "tokenizer.json").exists()
    model, tokenizer = load(folder, folder if own else work / "tokenizer")
    source = folder if (folder / "questions.jsonl").exists() else work
    with (source / "questions.jsonl").open(encoding="utf-8") as lines:
        questions = [json.loads(line) for line in lines]
    answers = answer_all(model, tokenizer, questions)
    for a in answers:
        if show or not a.right or a.repeats or not a.stopped:
            mark = f"{'right' if a.right else 'WRONG'}{' REPEATS' if a.repeats else ''}"
            print(f"{mark}{'' if a.stopped else ' ENDLESS'} | {a.question} | {a.text} | {a.expect}")
    figures = {
        "questions": len(answers),
        "right": sum(a.right for a in answers),
        "repeat_four_words": sum(a.repeats for a in answers),
        "stop_by_themselves": sum(a.stopped for a in answers),
    }
    if (work / "held_out.jsonl").exists():
        with (work / "held_out.jsonl").open(encoding="utf-8") as lines:
            losses = held_out_loss(model, tokenizer, [json.loads(line) for line in lines])
        figures["held_out_answer_loss"] = round(losses["answers"], 4)
        figures["held_out_answer_perplexity"] = round(math.exp(losses["answers"]), 3)
        figures["held_out_loss_all_tokens"] = round(losses["all"], 4)
    (work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))
    return figures

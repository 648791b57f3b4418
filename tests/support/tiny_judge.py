"""A Gemma of 16 dimensions that judges: not trained but made, weight by weight, to reply in valid JSON.

One layer whose attention is uniform: it sees the mean over the prompt and nothing else. Each time the text
`marker` stands in the prompt adds 1 to that mean, `<bos>` takes `bar - 0.5` away, so the sign says whether
the marker stood there at least `bar` times. The last token of a prompt (the newline that opens the model's
turn) leads to one of two replies, each one token of the tokenizer; any reply leads to `<end_of_turn>`.

    save_judge(folder, marker="refund", bar=5)     # high scores where "refund" stands there 5 times
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import GemmaConfig, GemmaForCausalLM

from support.tiny import TEMPLATE_1, TEMPLATE_3, small_tokenizer

SCORES = ("relevance", "accuracy", "completeness", "fluency", "usefulness", "overall")
LOW, HIGH = 3, 8
_BIG = 100.0  # so large that it sets the norm, whatever else a token carries
_NORM, _FOUND, _START, _REPLY, _SIGN = range(5)


def reply(score: int) -> str:
    said = "It tells what was asked." if score == HIGH else "It says little."
    return json.dumps({"reasoning": said, **dict.fromkeys(SCORES, score)})


def save_judge(folder: Path, *, marker: str, bar: int, system_role: bool = False) -> Path:
    """A model folder as the hub has it. `system_role`: with a template that takes a system message."""
    tokenizer = small_tokenizer(TEMPLATE_3 if system_role else TEMPLATE_1)
    texts = [marker, reply(LOW), reply(HIGH)]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in texts])
    found, low, high = tokenizer.convert_tokens_to_ids(texts)
    newline = tokenizer.convert_tokens_to_ids("\n")
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    hidden = 16
    config = GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=hidden,
        max_position_embeddings=100_000,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=[1, end],
        bos_token_id=2,
    )
    model = GemmaForCausalLM(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()  # Gemma's norms multiply by 1 + weight
        seen = model.get_input_embeddings().weight
        seen[:, _NORM] = _BIG
        seen[found, _FOUND] = 1.0
        seen[2, _FOUND] = 0.5 - bar
        seen[newline, _START] = 1.0
        seen[[low, high], _REPLY] = 1.0
        layer = model.model.layers[0]
        layer.self_attn.v_proj.weight[_FOUND, _FOUND] = 1.0
        layer.self_attn.o_proj.weight[_SIGN, _FOUND] = 1.0
        said = model.lm_head.weight
        said[[low, high], _START] = 1000.0
        said[high, _SIGN], said[low, _SIGN] = 1000.0, -1000.0
        said[end, _REPLY] = 10_000.0
    model.generation_config.eos_token_id = [1, end]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""Tiny random Gemma models and Gemma-shaped tokenizers, built from their classes without a network.

`small_tokenizer` has about 850 pieces, `large_tokenizer` 256,000 like the real one; both have
Gemma's ids (`<pad>` 0, `<eos>` 1, `<bos>` 2, `<unk>` 3, `<unusedN>`, `<start_of_turn>` 106,
`<end_of_turn>` 107), newline and space runs as added pieces, byte pieces for everything else.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GemmaTokenizer,
    PreTrainedModel,
)

FAMILIES = ("gemma", "gemma2", "gemma3_text", "gemma3")

# tokenizer_config.json of google/gemma-2b-it and google/gemma-2-2b-it
TEMPLATE_1 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not "
    "supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != "
    "(loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
# tokenizer_config.json of google/gemma-3-1b-it
TEMPLATE_3 = (
    "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n"
    "    {%- if messages[0]['content'] is string -%}\n"
    "        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n"
    "    {%- else -%}\n"
    "        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}\n"
    "    {%- endif -%}\n    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n"
    '    {%- set first_user_prefix = "" -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n'
    "{%- for message in loop_messages -%}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
    '        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}\n'
    "    {%- endif -%}\n    {%- if (message['role'] == 'assistant') -%}\n"
    '        {%- set role = "model" -%}\n    {%- else -%}\n'
    "        {%- set role = message['role'] -%}\n    {%- endif -%}\n"
    "    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}\n"
    "    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n"
    "    {%- elif message['content'] is iterable -%}\n"
    "        {%- for item in message['content'] -%}\n"
    "            {%- if item['type'] == 'image' -%}\n                {{ '<start_of_image>' }}\n"
    "            {%- elif item['type'] == 'text' -%}\n                {{ item['text'] | trim }}\n"
    "            {%- endif -%}\n        {%- endfor -%}\n    {%- else -%}\n"
    '        {{ raise_exception("Invalid content type") }}\n    {%- endif -%}\n'
    "    {{ '<end_of_turn>\n' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n"
    "    {{'<start_of_turn>model\n'}}\n{%- endif -%}\n"
)

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CHARS = (
    _LETTERS + _LETTERS.upper() + "0123456789" + "▁.,:;!?'\"-()[]{}<>/\\_*#=+%&@$^`~|\t" + "äöüßéèñ"
)
_WORDS = (  # noqa: SIM905 - a list of words
    "the and you can for with your order please help refund question answer thank what how is are "
    "to of in a it we not have will this that number day delivery invoice account model user"
).split()


GEMMA_1 = {106: "<start_of_turn>", 107: "<end_of_turn>"}
"""Control tokens by id, beside the reserved ones."""


def _head(control: Mapping[int, str]) -> list[str]:
    """Ids 0 to 140: the order of the published Gemma 1 vocabulary, with shorter newline runs."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]"]
    names += [control.get(7 + n, f"<unused{n}>") for n in range(101)]
    names += ["\n" * n for n in range(1, 17)]
    return names + ["▁" * n for n in range(2, 18)]


def _learn_word(word: str, vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Make `word` reachable: each longer beginning of it is a merge of the previous and a letter."""
    for end in range(2, len(word) + 1):
        if word[:end] not in vocab:
            vocab[word[:end]] = len(vocab)
            merges.append((word[: end - 1], word[end - 1]))


def _build(
    size: int,
    words: itertools.chain[str],
    template: str | None,
    control: Mapping[int, str] = GEMMA_1,
) -> GemmaTokenizer:
    head = _head(control)
    vocab = {text: number for number, text in enumerate(head)}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for char in _CHARS:
        vocab.setdefault(char, len(vocab))
    merges: list[tuple[str, str]] = []
    for word in words:
        if len(vocab) + len(word) > size:
            break
        _learn_word(word, vocab, merges)
    for code in range(0x4E00, 0x4E00 + size - len(vocab)):  # fill up exactly with single characters
        vocab[chr(code)] = len(vocab)
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges)
    tokenizer.add_tokens(
        [
            AddedToken(t, special=False, normalized=False)
            for t in head[4:]
            if t not in control.values()
        ]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(control.values())})
    tokenizer.chat_template = template
    return tokenizer


def small_tokenizer(
    template: str | None = TEMPLATE_1, size: int = 850, control: Mapping[int, str] = GEMMA_1
) -> GemmaTokenizer:
    """About 850 pieces: letters, common words, bytes."""
    words = itertools.chain((f"▁{w}" for w in _WORDS), _WORDS)
    return _build(size, words, template, control)


def large_tokenizer(template: str | None = TEMPLATE_1) -> GemmaTokenizer:
    """256,000 pieces; the generated ones are five-letter strings, with and without a space before."""
    common = (f"▁{w}" for w in _WORDS)
    made = (
        "▁" + "".join(p) for p in itertools.product(_LETTERS, "aeiou", _LETTERS, "aeiou", _LETTERS)
    )
    more = ("".join(p) for p in itertools.product(_LETTERS, repeat=4))
    return _build(256_000, itertools.chain(common, _WORDS, made, more), template)


def tokenizer_for(family: str) -> GemmaTokenizer:
    """The small tokenizer with the family's own template."""
    return small_tokenizer(TEMPLATE_3 if family.startswith("gemma3") else TEMPLATE_1)


def tiny_model(family: str, vocab_size: int, *, seed: int = 0, hidden: int = 32) -> PreTrainedModel:
    """Random weights, 2 layers, fp32; spread wide enough that greedy answers are not constant."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "initializer_range": 0.2,
    }
    if family == "gemma":
        model: PreTrainedModel = GemmaForCausalLM(GemmaConfig(**shape))
    elif family == "gemma2":
        model = Gemma2ForCausalLM(
            Gemma2Config(**shape, sliding_window=16, query_pre_attn_scalar=hidden // 4)
        )
    elif family == "gemma3_text":
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(**shape, sliding_window=16, query_pre_attn_scalar=hidden // 4)
        )
    elif family == "gemma3":
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        text = {**shape, "sliding_window": 16, "query_pre_attn_scalar": hidden // 4}
        model = Gemma3ForConditionalGeneration(
            Gemma3Config(
                text_config=text,
                vision_config=vision,
                mm_tokens_per_image=4,
                boi_token_index=4,
                eoi_token_index=5,
                image_token_index=6,
                eos_token_id=[1, 107],
            )
        )
    else:
        raise ValueError(family)
    # else the tied embedding outweighs the layers, and each token repeats itself
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.1)
    return model.eval()


def save_tiny(folder: Path, family: str, *, seed: int = 0, hidden: int = 32) -> Path:
    """A model folder as the hub has it: config, safetensors, tokenizer, generation config."""
    tokenizer = tokenizer_for(family)
    model = tiny_model(family, len(tokenizer), seed=seed, hidden=hidden)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

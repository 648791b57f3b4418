"""Train the starter's tokenizer: byte-pair encoding laid out as Gemma's own tokenizer.json is.

Reads: an iterable of texts. Writes: tokenizer.json, tokenizer_config.json and chat_template.jinja into
the folder given. Refuses: a vocabulary too small for the fixed pieces.

Ids: the special pieces of Gemma up to <end_of_turn> 107, runs of line feeds, the 256 bytes, then what was
learned. A space becomes the block "▁", a digit is always a piece of its own, and bytes stand for
characters that were not learned, so that every text can be written (the character "▁" itself becomes a
space when read back, as with Gemma).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

SPACE = "▁"
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]"]
SPECIAL += [f"<unused{n}>" for n in range(106 - len(SPECIAL))]
SPECIAL += ["<start_of_turn>", "<end_of_turn>"]
LINE_FEEDS = ["\n" * n for n in range(1, 32)]
BYTES = [f"<0x{n:02X}>" for n in range(256)]
SPACES = [SPACE * n for n in range(2, 9)]
TEMPLATE = Path(__file__).parent / "chat_template.jinja"


def _runs(unit: str, longest: int) -> list[tuple[str, str]]:
    """Merges that join a run of one character, whatever way it is met, up to the longest piece."""
    return [
        (unit * left, unit * (total - left))
        for total in range(2, longest + 1)
        for left in range(1, total)
    ]


def learn(texts: Iterable[str], pieces: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Characters and merges, learned inside words only (a word starts with its space)."""
    model = Tokenizer(BPE())
    model.normalizer = normalizers.Replace(" ", SPACE)
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(SPACE, "merged_with_next"),
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            # a word keeps the space before it; marks stand alone so that "fine." and "fine" share a piece
            pre_tokenizers.Split(Regex(rf"{SPACE}?[A-Za-z']+|[^A-Za-z']"), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, min_frequency=2, limit_alphabet=110, show_progress=False
    )
    model.train_from_iterator(texts, trainer)
    saved = json.loads(model.to_str())["model"]
    merges = [tuple(merge) for merge in saved["merges"]]
    made = {left + right for left, right in merges}
    characters = [
        piece for piece in sorted(saved["vocab"], key=saved["vocab"].get) if piece not in made
    ]
    return characters, merges


def build(texts: Iterable[str], size: int) -> Tokenizer:
    """The whole tokenizer, of exactly `size` pieces."""
    fixed = [*SPECIAL, *LINE_FEEDS, *BYTES]
    room = size - len(fixed) - len(SPACES)
    if room < 300:
        raise ValueError(f"{size} pieces leave {room} to learn; at least 300 are needed")
    characters, merges = learn(texts, room + 1)
    characters = [c for c in characters if c != "\n"]
    pieces = [*fixed, *characters, *(left + right for left, right in merges)]
    pieces = list(dict.fromkeys(pieces))[: size - len(SPACES)] + SPACES
    known = set(pieces)
    merges = [m for m in merges if m[0] + m[1] in known]
    # runs of spaces come last: "  word" is then a space and "▁word", which shares the word's own piece
    merges = [*_runs("\n", 31), *merges, *_runs(SPACE, 8)]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that AutoTokenizer reads."""
    from transformers import GemmaTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    wrapped = GemmaTokenizer.from_pretrained(
        folder, add_bos_token=True, add_eos_token=False, padding_side="left"
    )
    wrapped.chat_template = TEMPLATE.read_text(encoding="utf-8")
    wrapped.model_max_length = 2048
    wrapped.save_pretrained(folder)

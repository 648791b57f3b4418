"""The shipped starter model: its files, its tokenizer, its template, its corpus and its quality.

Reads: src/gemma_lora/starter and the corpus generator in tools/starter. Writes: nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[1]
STARTER = ROOT / "src" / "gemma_lora" / "starter"
TOOLS = ROOT / "tools" / "starter"
DOCUMENTS = 25_000
# the generator's first documents; another hash means another corpus than the shipped model's
FIRST_3000 = "7d0d7ba3ba9b007535e682c07abd7edc4deb9c27303ce5888c87738750459798"


def _load(name: str, path: Path) -> ModuleType:
    """A module of tools/starter under a name of its own, so that nothing else is shadowed."""
    locations = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mix() -> Any:
    _load("starter_corpus", TOOLS / "corpus" / "__init__.py")
    return importlib.import_module("starter_corpus.mix")


@pytest.fixture(scope="module")
def documents(mix: Any) -> Any:
    return list(mix.Mixer().generated(DOCUMENTS))


@pytest.fixture(scope="module")
def evaluate() -> Any:
    return _load("starter_evaluate", TOOLS / "evaluate.py")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(STARTER)


@pytest.fixture(scope="module")
def questions() -> Any:
    with (STARTER / "questions.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_files_and_size() -> None:
    names = {f.name for f in STARTER.iterdir() if f.is_file()}
    assert {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "questions.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= names
    assert sum(f.stat().st_size for f in STARTER.iterdir() if f.is_file()) <= 16 * 1024 * 1024


def test_config_is_gemma() -> None:
    config = AutoConfig.from_pretrained(STARTER)
    assert config.model_type == "gemma"
    assert config.architectures == ["GemmaForCausalLM"]
    assert config.tie_word_embeddings
    assert (config.pad_token_id, config.bos_token_id) == (0, 2)
    assert config.max_position_embeddings >= 1024
    generation = json.loads((STARTER / "generation_config.json").read_text(encoding="utf-8"))
    assert {1, 107} <= set(generation["eos_token_id"])


def test_weights_are_small_and_bf16() -> None:
    model = AutoModelForCausalLM.from_pretrained(STARTER)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert sum(p.numel() for p in model.parameters()) <= 7_500_000
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_special_ids(tokenizer: Any) -> None:
    expected = {
        "<pad>": 0,
        "<eos>": 1,
        "<bos>": 2,
        "<unk>": 3,
        "<mask>": 4,
        "<2mass>": 5,
        "[@BOS@]": 6,
        "<unused0>": 7,
        "<unused98>": 105,
        "<start_of_turn>": 106,
        "<end_of_turn>": 107,
        "\n": 108,
        "<0x00>": 139,
        "<0xFF>": 394,
    }
    for piece, number in expected.items():
        assert tokenizer.convert_tokens_to_ids(piece) == number, piece
    assert len(tokenizer) == AutoConfig.from_pretrained(STARTER).vocab_size
    for marker in ("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "\n"):
        assert len(tokenizer.encode(marker, add_special_tokens=False)) == 1, marker


def test_bos_is_added_once(tokenizer: Any) -> None:
    ids = tokenizer("Hello").input_ids
    assert ids[0] == 2
    assert ids.count(2) == 1
    assert 1 not in ids
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert rendered.count(2) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!",
        "Grüße aus Köln: Straße, Äpfel, 5 €.",
        "你好，世界。今天天气很好！",
        "Emoji 🙂👩‍👩‍👧 and flags 🇩🇪",
        "tabs\tand   several    spaces ",
        "  leading, trailing  ",
        "line\nline\n\n\nline\r\nline",
        "\n" * 45 + "x" + " " * 33,
        "def f(x: int) -> int:\n\treturn x ** 2  # 12345\n",
        "Привет, мир; مرحبا; こんにちは; नमस्ते",
        "\x00\x07 control",
        "e\u0301 \u00a0 \u200b",
    ],
)
def test_every_text_round_trips(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert 3 not in ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_digits_stand_alone(tokenizer: Any) -> None:
    pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode("2026", add_special_tokens=False))
    assert pieces == ["2", "0", "2", "6"]


def test_template(tokenizer: Any) -> None:
    chat = [
        {"role": "user", "content": "  Hello "},
        {"role": "assistant", "content": "Hi!\n"},
        {"role": "user", "content": "Bye"},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi!<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
        [{"role": "user", "content": "Hello"}, {"role": "user", "content": "Hello"}],
        [{"role": "assistant", "content": "Hello"}],
    ],
)
def test_template_refuses(tokenizer: Any, chat: list[dict[str, str]]) -> None:
    with pytest.raises(Exception, match=r"System role|must alternate"):
        tokenizer.apply_chat_template(chat, tokenize=False)


def test_corpus_is_deterministic(mix: Any) -> None:
    def digest() -> str:
        found = hashlib.sha256()
        for document in mix.Mixer().generated(3000):
            found.update(repr((document.turns, document.text)).encode())
        return found.hexdigest()

    assert digest() == digest() == FIRST_3000


def test_questions_are_the_generators(mix: Any, questions: Any) -> None:
    assert [(q["question"], tuple(q["expect"])) for q in questions] == [
        (q.question, q.expect) for q in mix.held_out()
    ]
    assert len(questions) == 100
    assert len({mix.normalise(q["question"]) for q in questions}) == 100
    assert all(q["expect"] and q["expect"] == [w.lower() for w in q["expect"]] for q in questions)


def test_questions_are_not_in_the_corpus(mix: Any, questions: Any, documents: Any) -> None:
    keys = [" " + " ".join(mix.normalise(q["question"])) + " " for q in questions]
    asked = [" " + " ".join(mix.normalise(user)) + " " for d in documents for user, _ in d.turns]
    joined = "|".join(asked)
    assert [key for key in keys if key in joined] == []


def test_corpus_knows_no_customer_service(mix: Any, documents: Any) -> None:
    for word in ("order", "refund", "delivery", "invoice", "account", "return", "complaint"):
        assert mix.FORBIDDEN.search(f"the {word} is here"), word
    assert [d for d in documents if mix.FORBIDDEN.search(d.words())] == []


def test_expected_words_are_in_the_answers(mix: Any, evaluate: Any) -> None:
    """Every right answer of the tables counts as right, so that the score can reach 100."""
    for _, entries, _ in mix._TALK_QUOTA:
        for entry in entries:
            for answer in entry.answers if entry.expect else []:
                assert any(evaluate.holds(answer, word.lower()) for word in entry.expect), answer
    fill = importlib.import_module("starter_corpus.core").fill
    for topic in mix.TOPICS:
        for row in topic.rows if topic.expect else []:
            for answer in topic.answers:
                text = fill(answer, row)
                assert any(evaluate.holds(text, word) for word in topic.expected(row)), text


def test_card_says_what_it_is() -> None:
    card = (STARTER / "README.md").read_text(encoding="utf-8")
    for words in ("demonstration model", "public domain", "Apache-2.0", "Held-out loss", "tokens"):
        assert words in card, words


def test_answers(evaluate: Any, questions: Any) -> None:
    model, tokenizer = evaluate.load(STARTER)
    answers = evaluate.answer_all(model, tokenizer, questions)
    wrong = [(a.question, a.text, a.expect) for a in answers if not a.right]
    assert len(answers) - len(wrong) >= 80, wrong
    assert sum(a.repeats for a in answers) < 10
    assert sum(a.stopped for a in answers) >= 95
    # short: one to three sentences
    assert sum(a.tokens for a in answers) / len(answers) <= 30

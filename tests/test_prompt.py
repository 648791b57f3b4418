"""Prompts, exact to the token: equalities with the tokenizer's own template, and all that breaks them."""

from __future__ import annotations

import csv
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import TEMPLATE_1, TEMPLATE_3, small_tokenizer
from transformers import AutoTokenizer, GemmaTokenizer

from gemma_lora.errors import DataError, ModelError
from gemma_lora.model.reference import STARTER
from gemma_lora.model.templates import TURNS_1_TO_3
from gemma_lora.prompt import Encoded, PromptFormat
from gemma_lora.records import Message

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

TEXTS = (
    "How can I get a refund?",
    "Line one\n\n\nline  two   with   spaces\n\tand a tab",
    "Grüße! 日本語の質問, емейл, ☃ 👩‍🚀",
    "def f(x):\n    return x < 3 and x > 1  # <b>bold</b> <table>",
    "null",
    "007",
    "a<b>c</b> <not_a_marker> <start_of_turnx",
)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def model(text: str) -> Message:
    return Message(role="assistant", content=text)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def own_ids(fmt: PromptFormat, messages: list[Message], *, generation: bool) -> list[int]:
    return fmt.tokenizer.apply_chat_template(
        [m.model_dump() for m in messages],
        chat_template=None if fmt.template_source == "tokenizer" else TURNS_1_TO_3,
        tokenize=True,
        add_generation_prompt=generation,
        return_dict=False,
    )


@pytest.fixture(scope="module", params=["gemma1", "gemma3", "published", "large", "starter"])
def fmt(request) -> PromptFormat:
    if request.param == "starter":
        if not (STARTER / "tokenizer.json").exists():
            pytest.skip("the starter model is not built")
        tokenizer = AutoTokenizer.from_pretrained(STARTER)
    elif request.param == "large":
        tokenizer = request.getfixturevalue("large_tokenizer")
        assert len(tokenizer) == 256_000
    else:
        templates = {"gemma1": TEMPLATE_1, "gemma3": TEMPLATE_3, "published": None}
        tokenizer = small_tokenizer(templates[request.param])
    return PromptFormat(tokenizer, name=request.param, published=TURNS_1_TO_3)


@pytest.fixture(scope="module")
def small() -> PromptFormat:
    return PromptFormat(small_tokenizer(), name="small")


# ---------------------------------------------------------------------- equalities


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_is_what_the_tokenizers_own_template_gives(fmt, text):
    assert fmt.prompt([user(text)]) == own_ids(fmt, [user(text)], generation=True)


@pytest.mark.parametrize("text", TEXTS)
def test_a_conversation_is_what_the_tokenizers_own_template_gives(fmt, text):
    talk = [user("Hello"), model(text), user(text), model("Bye.")]
    ids = list(fmt.example(talk).ids)
    whole = own_ids(fmt, talk, generation=False)
    assert ids == whole[: len(ids)]
    assert fmt.tokenizer.decode(whole[len(ids) :]).strip() == ""  # only the template's last newline


@pytest.mark.parametrize("text", TEXTS)
def test_training_ids_are_prompt_answer_and_end_of_turn(fmt, text):
    encoded = fmt.example([user("Why?"), model(text)])
    prompt = fmt.prompt([user("Why?")])
    answer = encoded.ids[len(prompt) : -1]
    assert list(encoded.ids[: len(prompt)]) == prompt
    assert encoded.ids[-1] == fmt.end_of_turn_id
    assert encoded.supervised == (False,) * len(prompt) + (True,) * (len(answer) + 1)
    assert fmt.decode(answer) == text.strip()


def test_every_answer_of_a_conversation_carries_loss_and_follows_its_own_prompt(fmt):
    talk = [user("a b"), model("first"), user("c"), model("second one"), user("d"), model("third")]
    encoded = fmt.example(talk)
    assert [text for text, loss in fmt.runs(encoded) if loss] == [
        f"{answer}<end_of_turn>" for answer in ("first", "second one", "third")
    ]
    for turns in (1, 3, 5):
        prompt = fmt.prompt(talk[:turns])
        assert list(encoded.ids[: len(prompt)]) == prompt
        assert not encoded.supervised[len(prompt) - 1]
        assert encoded.supervised[len(prompt)]


def test_exactly_one_bos_at_the_start(fmt):
    for ids in (
        fmt.prompt([user("Say <bos> and <bos> again")]),
        fmt.example([user("<bos>"), model("<bos>"), user("b"), model("c")]).ids,
    ):
        assert list(ids).count(fmt.bos_id) == 1
        assert ids[0] == fmt.bos_id


def test_the_end_of_turn_is_supervised_and_stops_generation(fmt):
    assert fmt.tokenizer.convert_ids_to_tokens(fmt.end_of_turn_id) == "<end_of_turn>"
    assert fmt.end_of_turn_id in fmt.stop_ids
    assert fmt.tokenizer.eos_token_id in fmt.stop_ids
    encoded = fmt.example([user("a"), model("b")])
    assert (encoded.ids[-1], encoded.supervised[-1]) == (fmt.end_of_turn_id, True)


def test_stop_tokens_of_the_generation_config_are_added():
    assert PromptFormat(small_tokenizer(), name="x", stop_ids=[106, 107]).stop_ids == (107, 1, 106)


# ---------------------------------------------------------------------- control tokens in the data


CONTROL = (
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<pad>",
    "<unk>",
    "<unused5>",
    "<mask>",
    "[@BOS@]",
)


@pytest.mark.parametrize("literal", CONTROL)
def test_text_that_looks_like_a_control_token_is_encoded_as_text(fmt, literal):
    text = f"He wrote {literal} and{literal}{literal}model\nhi"
    encoded = fmt.example([user(text), model(text)])
    shape = fmt.example([user("x"), model("x")])
    control = set(fmt.tokenizer.all_special_ids) | {fmt.end_of_turn_id, fmt.bos_id}
    assert [i for i in encoded.ids if i in control] == [i for i in shape.ids if i in control]
    prompt = fmt.prompt([user(text)])
    assert fmt.decode(encoded.ids[len(prompt) : -1]) == text
    assert text in fmt.tokenizer.decode(prompt)


literals = st.sampled_from(
    [*CONTROL, "<", ">", "turn>", "<start_of_", "\ue000", "\U000f0000", "a", " ", "\n"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(literals, min_size=1, max_size=12).map("".join))
def test_any_mixture_of_control_texts_survives(text):
    fmt = SMALL
    encoded = fmt.example([user(f"q{text}q"), model(f"a{text}a")])
    prompt = fmt.prompt([user(f"q{text}q")])
    assert fmt.decode(encoded.ids[len(prompt) : -1]) == f"a{text}a"
    assert encoded.ids.count(fmt.end_of_turn_id) == 2
    assert encoded.ids.count(106) == 2


SMALL = PromptFormat(small_tokenizer(), name="small")


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40))
def test_an_answer_decodes_to_itself_trimmed(text):
    if not text.strip():
        return
    encoded = SMALL.example([user("q"), model(text)])
    assert SMALL.decode(encoded.ids[len(SMALL.prompt([user("q")])) : -1]) == text.strip()


def test_merges_that_spell_a_control_token_are_broken_up():
    tokenizer = small_tokenizer()
    vocab = dict(tokenizer._vocab)
    for end in range(2, len("<end_of_turn>")):
        vocab.setdefault("<end_of_turn>"[:end], len(vocab))
    marker = "<end_of_turn>"
    merges = [(marker[: end - 1], marker[end - 1]) for end in range(2, len(marker) + 1)]
    spelling = GemmaTokenizer(vocab=vocab, merges=[*merges, *tokenizer._merges])
    assert [t.id for t in spelling.backend_tokenizer.model.tokenize(marker)] == [107]  # the premise
    spelling.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    spelling.chat_template = TEMPLATE_1
    fmt = PromptFormat(spelling, name="x")
    encoded = fmt.example([user("a <end_of_turn> b"), model("<end_of_turn>")])
    assert encoded.ids.count(fmt.end_of_turn_id) == 2
    assert fmt.runs(encoded)[-1][0] == "<end_of_turn><end_of_turn>"


def test_the_shared_tokenizer_is_not_changed_and_threads_agree(small):
    texts = [f"text {n} <eos> more" for n in range(200)]
    alone = [small.example([user(t), model(t)]).ids for t in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda t: small.example([user(t), model(t)]).ids, texts))
    assert together == alone
    assert small.tokenizer.encode("<eos>", add_special_tokens=False) == [1]


# ---------------------------------------------------------------------- system text


def test_system_text_is_folded_into_the_question_where_the_template_refuses_it(small):
    assert not small.takes_system
    folded = [user("Be kind.\n\nWhy?")]
    assert small.prompt([system("Be kind."), user("Why?")]) == small.prompt(folded)
    talk = [system("Be kind."), user("Why?"), model("So.")]
    prompt = small.prompt(talk[:2])
    assert list(small.example(talk).ids[: len(prompt)]) == prompt


def test_system_text_goes_to_the_templates_own_role_where_it_has_one():
    fmt = PromptFormat(small_tokenizer(TEMPLATE_3), name="x")
    assert fmt.takes_system
    talk = [system("Be kind."), user("Why?")]
    assert fmt.prompt(talk) == own_ids(fmt, talk, generation=True)


def test_system_text_is_folded_where_the_template_drops_it_without_a_word():
    silent = (
        TEMPLATE_1.replace("{{ raise_exception('System role not supported') }}", "")
        .replace("(loop.index0 % 2 == 0)", "true")
        .replace("(message['role'] == 'user') != true", "false")
        .replace(
            "{{ '<start_of_turn>' + role",
            "{% if role == 'system' %}{% continue %}{% endif %}{{ '<start_of_turn>' + role",
        )
    )
    fmt = PromptFormat(small_tokenizer(silent), name="x")
    assert not fmt.takes_system
    assert "Be kind." in fmt.tokenizer.decode(fmt.prompt([system("Be kind."), user("Why?")]))


def test_blank_system_text_is_none(small):
    assert small.prompt([system("  \n"), user("Why?")]) == small.prompt([user("Why?")])


def test_a_system_turn_in_the_middle_is_an_error(small):
    with pytest.raises(DataError, match="after the conversation has begun"):
        small.prompt([user("a"), model("b"), system("c"), user("d")])


# ---------------------------------------------------------------------- what does not fit


def test_without_template_and_markers_the_tokenizer_does_not_fit():
    vocab = {t: i for i, t in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *"abcdefghij▁\n"])}
    with pytest.raises(ModelError, match="has no chat template") as error:
        PromptFormat(GemmaTokenizer(vocab=vocab, merges=[]), name="base-model")
    assert error.value.exit_code == 3


def test_a_marker_that_is_not_one_token_is_named():
    vocab = {t: i for i, t in enumerate(["<pad>", "<eos>", "<bos>", "<unk>"])}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    tokenizer = GemmaTokenizer(vocab=vocab, merges=[])
    tokenizer.chat_template = TEMPLATE_1
    with pytest.raises(
        ModelError, match=r"the tokenizer does not fit the template.*<start_of_turn>"
    ):
        PromptFormat(tokenizer, name="x")


def test_another_familys_markers_are_refused():
    tokenizer = small_tokenizer(TEMPLATE_1.replace("<start_of_turn>", "<|turn>"))
    with pytest.raises(ModelError, match=r"<\|turn>"):
        PromptFormat(tokenizer, name="x")


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ bos_token }}" + TEMPLATE_1, "writes <bos> 2 times"),
        (TEMPLATE_1.replace("<end_of_turn>", ""), "does not close an answer"),
        ("{{ bos_token }}{% for m in messages %}", "fails on a plain conversation"),
        (
            TEMPLATE_1.replace("message['content'] | trim", "message['content'] | upper"),
            "close|white",
        ),
        ("{{ raise_exception('never') }}", "never"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(template, found):
    with pytest.raises(ModelError, match=found):
        PromptFormat(small_tokenizer(template), name="x").prompt([user("a")])


def test_a_template_that_writes_no_bos_gets_one():
    fmt = PromptFormat(small_tokenizer(TEMPLATE_1.replace("{{ bos_token }}", "")), name="x")
    ids = fmt.prompt([user("a")])
    assert ids.count(2) == 1
    assert ids[0] == 2
    assert fmt.example([user("a"), model("b")]).ids[0] == 2


def test_a_template_that_does_not_trim_keeps_the_spaces():
    fmt = PromptFormat(small_tokenizer(TEMPLATE_1.replace(" | trim", "")), name="x")
    encoded = fmt.example([user(" a "), model("  b ")])
    assert fmt.decode(encoded.ids[len(fmt.prompt([user(" a ")])) : -1]) == "  b "
    assert fmt.cells_changed([user(" a "), model("  b ")]) == 0


@pytest.mark.parametrize(
    "talk",
    [
        [user("a"), user("b"), model("c")],
        [model("a"), user("b"), model("c")],
        [user("a"), model("b"), model("c")],
    ],
)
def test_turns_that_do_not_alternate_are_a_data_error(small, talk):
    with pytest.raises(DataError, match="rejects the conversation"):
        small.example(talk)


def test_rows_and_prompts_must_end_with_the_right_turn(small):
    with pytest.raises(DataError, match="must end with a user turn"):
        small.prompt([user("a"), model("b")])
    with pytest.raises(DataError, match="must end with an assistant turn"):
        small.example([user("a")])
    with pytest.raises(DataError):
        small.prompt([])


@pytest.mark.parametrize(
    "talk", [[user("a"), model(" \n")], [user("a"), model(""), user("b"), model("c")]]
)
def test_an_empty_answer_is_an_error(small, talk):
    with pytest.raises(DataError, match="an answer is empty"):
        small.example(talk)


def test_a_lone_surrogate_is_a_data_error(small):
    with pytest.raises(DataError, match="lone surrogate"):
        small.prompt([Message.model_construct(role="user", content="a\ud800b")])


# ---------------------------------------------------------------------- templates with scaffolds


THINKING = TEMPLATE_1.replace(
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}",
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n(no thoughts)\n'}}",
)


def test_with_thinking_scaffolds_the_answer_is_trained_after_the_true_inference_prompt():
    fmt = PromptFormat(small_tokenizer(THINKING), name="x")
    assert not fmt.prefix_consistent
    talk = [user("a"), model("first"), user("b"), model("second")]
    encoded = fmt.example(talk)
    prompt = fmt.prompt(talk[:-1])
    assert list(encoded.ids[: len(prompt)]) == prompt
    assert "(no thoughts)" in fmt.tokenizer.decode(prompt)
    assert [text for text, loss in fmt.runs(encoded) if loss] == ["second<end_of_turn>"]


def test_an_answer_that_the_template_rewrites_is_an_error():
    cutting = TEMPLATE_1.replace(
        "message['content'] | trim", "message['content'].split('</think>')[-1] | trim"
    )
    fmt = PromptFormat(small_tokenizer(cutting), name="x")
    assert fmt.example([user("a"), model("plain")])
    with pytest.raises(DataError, match="changes the text of answer 1"):
        fmt.example([user("a"), model("<think>b</think> c")])


# ---------------------------------------------------------------------- shortening


LONG = " ".join(f"word{n}" for n in range(200)) + " end?"


@pytest.mark.parametrize("limit", [40, 60, 200, 500])
def test_a_long_question_is_cut_from_the_left_and_the_answer_stays(small, limit):
    encoded = small.example([user(LONG), model("The answer.")], max_length=limit)
    assert limit - 8 <= len(encoded) <= limit
    (asked, _), (answer, _) = small.runs(encoded)
    assert answer == "The answer.<end_of_turn>"
    assert asked.startswith("<bos><start_of_turn>user\n")
    assert asked.endswith("end?<end_of_turn>\n<start_of_turn>model\n")
    kept = asked.removeprefix("<bos><start_of_turn>user\n").partition("<end_of_turn>")[0]
    assert LONG.endswith(kept)


def test_shortening_keeps_system_text_and_drops_the_oldest_exchange_first(small):
    talk = [system("Be kind."), user(LONG), model("old"), user("new question"), model("new answer")]
    encoded = small.example(talk, max_length=120)
    assert [text for text, _ in small.runs(encoded)] == [
        "<bos><start_of_turn>user\nBe kind.\n\nnew question<end_of_turn>\n<start_of_turn>model\n",
        "new answer<end_of_turn>",
    ]


def test_multi_byte_characters_are_not_torn_by_shortening(small):
    encoded = small.example([user("日本☃" * 60), model("ok")], max_length=60)
    asked = small.runs(encoded)[0][0]
    assert "\ufffd" not in asked
    assert len(encoded) <= 60


def test_an_answer_that_cannot_fit_is_an_error(small):
    with pytest.raises(DataError, match="do not fit in 40 tokens"):
        small.example([user("a question"), model(LONG)], max_length=40)


def test_a_row_within_the_limit_is_untouched(small):
    talk = [user("a"), model("b")]
    assert small.example(talk, max_length=1000) == small.example(talk)


# ---------------------------------------------------------------------- counting


@pytest.mark.parametrize(
    ("talk", "count"),
    [
        ([user("a"), model("b")], 0),
        ([user(" a"), model("b\n")], 2),
        ([system(" s "), user("a"), model("b")], 1),
        ([system("s "), user(" a"), model("b")], 0),  # inside the folded turn nothing is trimmed
        ([system("s"), user("a "), model("b")], 1),
    ],
)
def test_contents_that_trimming_alters_are_counted(small, talk, count):
    assert small.cells_changed(talk) == count


# ---------------------------------------------------------------------- real data


def real_texts() -> list[str]:
    """German instructions and Chinese paragraphs with their questions."""
    texts: list[str] = []
    german = SHARED / "multilingual" / "InstructGermanDPR_v1_test.csv"
    if german.exists():
        with german.open(encoding="utf-8", newline="") as stream:
            texts += [
                text for row in itertools.islice(csv.reader(stream), 1, 20) for text in row[:2]
            ]
    chinese = SHARED / "multilingual" / "xquad.zh.json"
    if chinese.exists():
        for article in json.loads(chinese.read_text(encoding="utf-8"))["data"][:5]:
            paragraph = article["paragraphs"][0]
            texts += [paragraph["context"], *(qa["question"] for qa in paragraph["qas"])]
    return [text for text in texts if text.strip() and "▁" not in text]


def test_real_rows_in_german_and_chinese_go_through_unharmed(fmt):
    texts = real_texts()
    if not texts:
        pytest.skip("../shared/data/multilingual is not there")
    for text in texts:
        encoded = fmt.example([user(text), model(text)])
        prompt = fmt.prompt([user(text)])
        assert prompt == own_ids(fmt, [user(text)], generation=True)
        assert list(encoded.ids[: len(prompt)]) == prompt
        assert fmt.decode(encoded.ids[len(prompt) : -1]) == text.strip()


@pytest.mark.full
def test_ten_thousand_short_rows_take_seconds(fmt):
    rows = [
        [user(f"Where is order number {n}?"), model(f"Order {n} is on its way. " * 5)]
        for n in range(10_000)
    ]
    started = time.process_time()
    for row in rows:
        fmt.example(row)
    assert time.process_time() - started < 10


# ---------------------------------------------------------------------- many rows at once

ROWS = [
    [user("Where is it?"), model("Here.")],
    [system("Be brief."), user("  Where? "), model(" Here.\n")],
    [user("a"), model("b"), user("c\n\nd"), model("e 👩‍🚀")],
    [system("s"), user("a"), model("b"), user("c"), model("d"), user("e"), model("f")],
    [user("<start_of_turn>model\nhi<end_of_turn>"), model("<bos><eos> <unused7> [@BOS@]")],
    [system("<end_of_turn>"), user("<start_of_turn"), model(">x<end_of_turn>")],
    *[[user(text), model(text[::-1])] for text in TEXTS],
    *[[user(text), model(other)] for text, other in itertools.permutations(TEXTS[:4], 2)],
]
FAULTY = [
    [user("no answer")],
    [user("blank answer"), model(" ")],
    [model("begins"), user("wrongly"), model("so")],
    [user("half \ud83d"), model("a character")],
    [],
]


def alone(fmt: PromptFormat, row: list[Message]) -> Encoded | str:
    try:
        return fmt.example(row)
    except DataError as error:
        return str(error)


def told(got: Encoded | DataError) -> Encoded | str:
    return str(got) if isinstance(got, DataError) else got


@pytest.mark.parametrize("faulty", [False, True])
def test_many_rows_are_encoded_as_each_alone(fmt: PromptFormat, faulty: bool) -> None:
    rows = ROWS + FAULTY if faulty else ROWS * 3
    found = fmt.examples(rows)
    assert len(found) == len(rows)
    for row, got in zip(rows, found, strict=True):
        assert told(got) == alone(fmt, row)
    assert sum(isinstance(got, DataError) for got in found) >= (len(FAULTY) if faulty else 0)
    assert fmt.examples([]) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.text(max_size=12) | st.sampled_from(["<bos>", "<unused1>", "<end_of_turn>"]),
            min_size=1,
            max_size=5,
        ),
        max_size=6,
    )
)
def test_any_rows_are_encoded_as_each_alone(small: PromptFormat, texts: list[list[str]]) -> None:
    rows = [[(user, model)[i % 2](text) for i, text in enumerate([*row, "end"])] for row in texts]
    for row, got in zip(rows, small.examples(rows), strict=True):
        assert told(got) == alone(small, row)

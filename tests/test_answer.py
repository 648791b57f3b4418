"""The answering stage and its decoding: batches equal single calls, nothing repeated, nothing stale."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from support.small_runs import FAST, write_rows
from support.tiny import FAMILIES, save_tiny, tokenizer_for

from gemma_lora import model as models
from gemma_lora.answer import answer, load_questions, set_name
from gemma_lora.config import Config, DataConfig, LoraConfig
from gemma_lora.console import Console
from gemma_lora.errors import DataError, ModelError
from gemma_lora.model.decoding import generate, stream
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Answer, Example, Message
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_jsonl


def prompts_of_many_lengths(count: int = 9) -> list[list[int]]:
    rng = random.Random(0)
    return [
        [2] + [rng.randrange(110, 800) for _ in range(rng.randrange(3, 40))] for _ in range(count)
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def family_model(request, tiny_folder):
    ref = models.resolve(str(tiny_folder(request.param)))
    # a hundred stop tokens, so that rows of a batch end at different steps
    fmt = PromptFormat(tokenizer_for(request.param), name="tiny", stop_ids=range(300, 330))
    return models.load_base(ref, precision="fp32", device="cpu"), fmt


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_gives_what_single_calls_give(family_model, temperature):
    model, fmt = family_model
    prompts = prompts_of_many_lengths()
    settings = {"max_new_tokens": 24, "temperature": temperature, "seed": 5}
    together = generate(model, fmt, prompts, batch=5, **settings)
    alone = [generate(model, fmt, [prompt], **settings)[0] for prompt in prompts]
    assert together == alone
    assert (
        len({len(made.ids) for made in together}) > 2
    )  # rows did leave the batch at different steps


def test_greedy_is_what_transformers_generates(family_model):
    model, fmt = family_model
    prompt = prompts_of_many_lengths()[0]
    ours = generate(model, fmt, [prompt], max_new_tokens=24)[0]
    theirs = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=list(fmt.stop_ids),
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    if theirs[-1] in fmt.stop_ids:
        theirs.pop()
        assert ours.stopped_by == "end"
    assert list(ours.ids) == theirs
    assert list(stream(model, fmt, prompt, max_new_tokens=24)) == theirs


def test_sampling_depends_on_the_seed(family_model):
    model, fmt = family_model
    prompts = prompts_of_many_lengths(3)
    made = [
        generate(model, fmt, prompts, max_new_tokens=12, temperature=1.0, seed=seed)
        for seed in (1, 2)
    ]
    assert made[0] != made[1]


def test_a_prompt_that_fills_the_positions_is_an_error_and_is_never_cut(family_model):
    model, fmt = family_model
    long = [2] + [110] * 600
    with pytest.raises(DataError, match="longer than the 512 tokens"):
        generate(model, fmt, [[2, 110], long], max_new_tokens=4)


def test_generation_ends_at_the_last_position(family_model):
    model, fmt = family_model
    made = generate(
        model, PromptFormat(fmt.tokenizer, name="x"), [[2] + [110] * 508], max_new_tokens=50
    )
    assert len(made[0].ids) <= 3


# ---------------------------------------------------------------------- the stage


def example(number: int, *, words: int = 3) -> Example:
    text = " ".join(f"question {number} please" for _ in range(words))
    return Example(
        id=f"{number:016x}",
        messages=(
            Message(role="user", content=text),
            Message(role="assistant", content=f"a{number}"),
        ),
        cluster=f"{number:016x}",
        line=number + 2,
    )


@pytest.fixture
def made_run(tmp_path: Path, tiny_folder):
    """A run folder with nine test rows and an adapter that changes the outputs."""
    folder = tiny_folder("gemma")
    config = Config.model_validate(
        {
            "model": {"model": str(folder)},
            "answer": {"max_new_tokens": 12, "answer_batch": 4},
        }
    )
    run = RunDir(tmp_path / "run")
    write_jsonl(run.test_rows, [example(n, words=1 + n % 4) for n in range(9)])
    save_some_adapter(folder, run.adapter, seed=0)
    return config, run


def save_some_adapter(folder: Path, target: Path, *, seed: int) -> None:
    ref = models.resolve(str(folder))
    tuned = models.attach_lora(
        models.load_base(ref, precision="fp32", device="cpu"), LoraConfig(), seed
    )
    torch.manual_seed(seed + 100)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    models.save_adapter(tuned, target, ref)


def texts(run: RunDir, arm: str, name: str = "test") -> list[Answer]:
    return read_jsonl(run.answers(arm, name), Answer)


def test_both_arms_answer_every_test_row_in_order(made_run, capsys):
    config, run = made_run
    result = answer(config, run, Console())
    base, tuned = texts(run, "base"), texts(run, "tuned")
    assert (
        [row.id for row in base] == [row.id for row in tuned] == [example(n).id for n in range(9)]
    )
    assert [row.answer for row in base] != [row.answer for row in tuned]
    assert base[3].reference == "a3"
    assert base[3].messages == example(3, words=4).prompt
    assert result["arms"]["base"]["answers"] == 9
    assert result.pop("answers") == str(run.answers("base").parent)
    assert read_json(run.answers("base").parent / "answer.json") == result
    assert "tuned answers 9/9" in capsys.readouterr().err


def test_base_answers_are_those_of_the_bare_base_model(made_run):
    config, run = made_run
    answer(config, run, Console(quiet=True))
    ref = models.resolve(config.model.model)
    fmt = models.load_format(ref)
    bare = models.load_base(ref, precision="fp32", device="cpu")
    rows = [example(n, words=1 + n % 4) for n in range(9)]
    made = generate(bare, fmt, [fmt.prompt(row.prompt) for row in rows], max_new_tokens=12)
    assert [row.answer for row in texts(run, "base")] == [m.text for m in made]


def test_an_interrupted_stage_continues_and_repeats_nothing(made_run):
    config, run = made_run
    answer(config, run, Console(quiet=True))
    whole = {arm: run.answers(arm).read_bytes() for arm in ("base", "tuned")}
    path = run.answers("tuned")
    kept = whole["tuned"].splitlines(keepends=True)[5:7]
    torn = whole["tuned"].splitlines(keepends=True)[0][:40]
    path.write_bytes(b"".join(kept) + torn)
    lines = Lines()
    answer(config, run, Console(stream=lines))
    assert {arm: run.answers(arm).read_bytes() for arm in ("base", "tuned")} == whole
    assert "continuing, 2 of 9 are there" in lines.text
    assert "base answers 9/9" not in lines.text  # that arm was whole


def test_answers_of_another_adapter_are_discarded_with_a_notice(made_run, tiny_folder):
    config, run = made_run
    answer(config, run, Console(quiet=True))
    before = {arm: run.answers(arm).read_bytes() for arm in ("base", "tuned")}
    save_some_adapter(tiny_folder("gemma"), run.adapter, seed=7)
    lines = Lines()
    answer(config, run, Console(stream=lines))
    assert "tuned answers were made from other inputs: they start over" in lines.text
    assert run.answers("base").read_bytes() == before["base"]  # they do not depend on the adapter
    assert run.answers("tuned").read_bytes() != before["tuned"]


def test_other_settings_discard_both_arms(made_run):
    config, run = made_run
    answer(config, run, Console(quiet=True))
    short = config.model_copy(
        update={"answer": config.answer.model_copy(update={"max_new_tokens": 3})}
    )
    answer(short, run, Console(quiet=True))
    assert all(row.tokens <= 3 for arm in ("base", "tuned") for row in texts(run, arm))


def kept(run: RunDir) -> dict[str, bytes]:
    folder = run.answers("base").parent
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_refused_adapter_costs_no_answer(made_run):
    config, run = made_run
    answer(config, run, Console(quiet=True))
    before = kept(run)
    weights = run.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError):
        answer(config, run, Console(quiet=True))
    assert kept(run) == before
    for file in run.adapter.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="no adapter that could have made them"):
        answer(config, run, Console(quiet=True))
    assert kept(run) == before


def test_a_changed_base_costs_no_answer(made_run, tmp_path: Path):
    config, run = made_run
    answer(config, run, Console(quiet=True))
    before = kept(run)
    other = config.model_copy(
        update={
            "model": config.model.model_copy(
                update={"model": str(save_tiny(tmp_path / "other", "gemma", seed=3))}
            )
        }
    )
    with pytest.raises(ModelError, match="another base"):
        answer(other, run, Console(quiet=True))
    assert kept(run) == before


def test_questions_that_cannot_be_asked_cost_no_answer(made_run):
    config, run = made_run
    answer(config, run, Console(quiet=True))
    before = kept(run)
    write_jsonl(run.test_rows, [example(0), example(1, words=400)])
    with pytest.raises(DataError, match="longer than"):
        answer(config, run, Console(quiet=True))
    assert kept(run) == before


def test_questions_through_the_command_line(tmp_path: Path, tiny_folder, cli):
    write_rows(tmp_path / "rows.csv")
    (tmp_path / "tiny").symlink_to(tiny_folder())
    made = cli.run(
        ["run", "rows.csv", "--model", "tiny", "--out", "made", *FAST, "--epochs", "1"],
        cwd=tmp_path,
    )
    assert made.code == 0, made.err
    (tmp_path / "q.csv").write_text("question\nWhere is it?\nHow much?\n", encoding="utf-8")
    folder = "made/answers/questions-q"
    done = cli.run(["answer", "made", "--questions", "q.csv"], cwd=tmp_path)
    assert (done.code, done.out) == (0, f"answers: {folder}\n"), done.err
    found = cli.run(["answer", "made", "--questions", "q.csv", "--json"], cwd=tmp_path)
    assert found.code == 0, found.err
    assert (found.json["answers"], found.json["questions"]) == (folder, 2)
    assert found.json["arms"]["tuned"]["answers"] == 2
    # a file of the run folder holds no path of this machine
    assert "answers" not in read_json(tmp_path / folder / "answer.json")


def test_without_an_adapter_only_the_base_answers(made_run):
    config, run = made_run
    for file in run.adapter.iterdir():
        file.unlink()
    result = answer(config, run, Console(quiet=True))
    assert list(result["arms"]) == ["base"]
    assert not run.answers("tuned").exists()


def test_answers_that_hit_the_limit_are_counted_and_warned_of(made_run):
    config, run = made_run
    console = Console(quiet=True)
    result = answer(config, run, console)
    at_limit = sum(row.stopped_by == "limit" for row in texts(run, "base"))
    assert result["arms"]["base"]["at_limit"] == at_limit > 1
    assert any("cut off at 12 tokens" in line for line in result["warnings"])


def test_a_file_of_questions_with_some_answers(made_run, tmp_path: Path):
    config, run = made_run
    file = tmp_path / "my questions.csv"
    file.write_text("question,answer\nWhere is it?,\nHow much?,Nothing\n", encoding="utf-8")
    result = answer(config, run, Console(quiet=True), questions=file)
    rows = texts(run, "tuned", set_name(file))
    assert result["set"] == "questions-my-questions"
    assert [row.reference for row in rows] == [None, "Nothing"]


def test_a_file_of_questions_without_an_answer_column(made_run, tmp_path: Path):
    config, _ = made_run
    file = tmp_path / "q.csv"
    file.write_text("question,topic\nWhere is it?,a\nHow much?,b\n", encoding="utf-8")
    rows = load_questions(file, config.data)
    assert [row.messages[-1].content for row in rows] == ["Where is it?", "How much?"]
    assert [row.reference for row in rows] == [None, None]


def test_a_file_without_questions_is_an_error(made_run, tmp_path: Path):
    config, run = made_run
    file = tmp_path / "q.csv"
    file.write_text("topic,answer\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="question"):
        answer(config, run, Console(quiet=True), questions=file)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("q.json", '[{"question": "a"}, {"question": ""}]', "line 1, item 2: "),
        ("q.jsonl", '{"question": "a"}\n{"question": ""}\n', "line 2: "),
        ("q.csv", 'question\na\n""\n', "line 3: "),
        ("q.csv", "question,topic\na,b\n,\n", "line 3: "),
        ("q.csv", "question,topic\na,b\n\u200b,c\n", "line 3: "),
    ],
)
@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_an_empty_question_is_an_error_in_every_format(
    tmp_path: Path, name: str, text: str, place: str, on_bad_row: str
):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="1 x empty question") as error:
        load_questions(file, DataConfig.model_validate({"on_bad_row": on_bad_row}))
    assert place in str(error.value)
    assert "--" not in str(error.value)  # `answer` has no flags for the data


def test_a_conversation_that_ends_with_the_user_is_a_question(tmp_path: Path):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Where is it?"},
    ]
    file = tmp_path / "q.jsonl"
    rows = [{"system": "Be kind.", "messages": turns}, {"system": "", "messages": turns[:2]}]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    first, second = load_questions(file, DataConfig())
    assert [m.role for m in first.messages] == ["system", "user", "assistant", "user"]
    assert (first.reference, second.reference) == (None, "Yes?")
    file.write_text(json.dumps({"messages": [{"role": "system", "content": "Be kind."}]}))
    with pytest.raises(DataError, match="conversation") as error:
        load_questions(file, DataConfig())
    assert "only a system turn" in str(error.value)


def test_columns_that_are_not_found_get_a_remedy_that_answer_has(tmp_path: Path):
    file = tmp_path / "q.csv"
    file.write_text("topic,note\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column looks like the question") as error:
        load_questions(file, DataConfig())
    assert "--" not in str(error.value)
    file = tmp_path / "q.json"
    file.write_text('[{"question": "a", "question": "b"}]', encoding="utf-8")
    with pytest.raises(DataError, match="1 x duplicate key"):
        load_questions(file, DataConfig())


def test_questions_that_the_template_cannot_take_are_named_together(made_run):
    config, run = made_run
    turns = (
        Message(role="user", content="first"),
        Message(role="user", content="second"),
        Message(role="assistant", content="a"),
    )
    bad = [Example(id=f"{n}", messages=turns, cluster=f"{n}", line=n) for n in range(2)]
    write_jsonl(run.test_rows, [example(1), *bad])
    with pytest.raises(DataError, match="2 questions cannot be asked") as error:
        answer(config, run, Console(quiet=True))
    assert "second" in str(error.value)


def test_the_run_has_no_test_rows(made_run):
    config, run = made_run
    run.test_rows.write_text("")
    with pytest.raises(DataError, match="no test rows"):
        answer(config, run, Console(quiet=True))


def test_answers_are_strict_json_lines(made_run):
    config, run = made_run
    answer(config, run, Console(quiet=True))
    for line in run.answers("base").read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == set(Answer.model_fields)


class Lines:
    """A stream that is no terminal and keeps what is written."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False

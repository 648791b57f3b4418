"""YAML and flags into one configuration: who wins, and every fault at once at its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_lora.config import Config
from gemma_lora.errors import ConfigError
from gemma_lora.loading import dump, load_config


def write(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def fault(path: Path | None, flags: dict[str, object] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        load_config(path, flags)
    assert raised.value.exit_code == 2
    return raised.value


def test_nothing_given_is_the_default() -> None:
    assert load_config() == Config()


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "lora: {rank: 8, alpha: 16}\nseed: 3\n")
    config = load_config(path, {"rank": "32", "targets": "q_proj, v_proj", "seed": "5"})
    assert (config.lora.rank, config.lora.alpha, config.seed) == (32, 16, 5)
    assert config.lora.targets == ("q_proj", "v_proj")


def test_all_faults_of_both_sources_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "lora: {rank: 0, alhpa: 3}\ntrian: {epochs: 1}\ntrain: {batch: many}\n")
    error = fault(path, {"dropout": "2", "seed": "x"})
    text = str(error)
    assert len(error.details) == 6
    assert error.found.startswith("6 settings are wrong")
    assert "lora.rank: " in text
    assert "lora.alhpa: there is no such setting; did you mean lora.alpha?" in text
    assert "trian: there is no such setting; did you mean train?" in text
    assert "train.batch: " in text
    assert "--dropout: " in text
    assert "--seed: " in text
    assert "'2'" in text


def test_a_setting_at_the_wrong_place_is_told_its_own(tmp_path: Path) -> None:
    assert "did you mean lora.rank?" in str(fault(write(tmp_path, "rank: 8\n")))
    assert "did you mean lora.rank?" in str(fault(write(tmp_path, "train: {rank: 8}\n")))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed: 1\nseed: 2\n", "key seed is given twice"),
        ("lora:\n  rank: 8\n  alpha: 1\n  rank: 9\n", "key rank is given twice"),
        ("- a\n- b\n", "holds a list"),
        ("just words\n", "holds a str"),
        ("lora: {rank: 8\n", "is not valid YAML"),
        ("lora: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
        ("lora: 3\n", "lora: "),
        ("? [a, b]\n: 1\n", "is not valid YAML"),
    ],
)
def test_files_that_say_nothing_sure(text: str, part: str, tmp_path: Path) -> None:
    error = fault(write(tmp_path, text))
    assert part in str(error)
    assert "my.yaml" in str(error)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in str(fault(tmp_path / "absent.yaml"))
    assert "cannot be read" in str(fault(tmp_path))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in str(fault(tmp_path / "bytes.yaml"))


@pytest.mark.parametrize("text", ["", "# nothing\n", "lora:\ntrain:\n", "\ufeffseed: 0\n"])
def test_empty_files_and_sections(text: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, text)) == Config()


def test_settings_that_exclude_each_other() -> None:
    error = fault(None, {"messages_column": "m", "answer_column": "a"})
    assert "--messages-column excludes" in str(error)


def test_scalars_are_the_text_they_were_written_as(tmp_path: Path) -> None:
    """In YAML 1.1 `no` is false, `yes` one and `010` eight: no setting may turn into that silently."""
    config = load_config(write(tmp_path, "data: {question_column: no, test_rows: 010}\n"))
    assert config.data.question_column == "no"
    assert config.data.test_rows == 10
    text = "train: {epochs: yes, batch: true, patience: off}\nanswer: {temperature: no}\nlora: 3\n"
    said = str(fault(write(tmp_path, text)))
    for place in ("train.epochs", "train.batch", "train.patience", "answer.temperature"):
        assert place in said
    assert "lora: must be a section" in said
    assert (
        load_config(
            write(tmp_path, "train: {gradient_checkpointing: true}\n")
        ).train.gradient_checkpointing
        is True
    )
    assert (
        load_config(
            write(tmp_path, "train: {learning_rate: null, eval_steps: ~}\n")
        ).train.eval_steps
        is None
    )


@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**32 - 1),
            "lora": st.fixed_dictionaries(
                {"rank": st.integers(1, 1024), "alpha": st.floats(0.1, 1e4)}
            ),
            "train": st.fixed_dictionaries(
                {
                    "epochs": st.floats(0.01, 100),
                    "learning_rate": st.none() | st.floats(1e-9, 1),
                    "report_to": st.lists(st.sampled_from(["wandb", "trackio"]), unique=True),
                }
            ),
            "data": st.fixed_dictionaries(
                {
                    "path": st.none()
                    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
                    "question_column": st.sampled_from([None, 'Frage: "ä"', "问题", "null", "- x"]),
                }
            ),
        }
    )
)
def test_what_is_dumped_loads_to_the_same(tree: dict[str, object]) -> None:
    import tempfile

    config = Config.model_validate(tree)
    with tempfile.TemporaryDirectory() as folder:
        assert load_config(write(Path(folder), dump(config))) == config


def test_the_dump_holds_every_setting() -> None:
    text = dump(Config())
    for name in ("rank: 16", "learning_rate: null", "judge: lexical", "q_proj", "seed: 0"):
        assert name in text


def test_what_settings_need_of_each_other_is_said_without_the_rest_of_their_section() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"max_cost": "1"})
    assert "--max-cost needs --price-input and --price-output" in str(caught.value)
    assert "found {" not in str(caught.value)

"""The names of baselines: forms, slugs that are safe as file names, faults all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_lora.baselines import Baseline, parse, read_prompt
from gemma_lora.errors import ConfigError
from gemma_lora.loading import load_config


def one(name: str) -> Baseline:
    return parse([name])[0]


def test_the_three_forms() -> None:
    found = parse(["few-shot", "few-shot:8", "prompt:texts/polite.txt", "google/gemma-2b-it@abc"])
    assert [(b.kind, b.slug, b.source, b.examples) for b in found] == [
        ("few-shot", "few-shot", "", 4),
        ("few-shot", "few-shot-8", "", 8),
        ("prompt", "prompt-polite", "texts/polite.txt", 0),
        ("model", "model-google-gemma-2b-it-abc", "google/gemma-2b-it@abc", 0),
    ]


@pytest.mark.parametrize(
    "name",
    ["prompt:../../../etc/passwd", "prompt:客服.txt", "/home/ann/tiny", "../..", "prompt:a\nb.txt", "..",
     "prompt:" + "x" * 300, "prompt:.txt", "C:\\models\\it"],
)  # fmt: skip
def test_a_slug_is_a_plain_file_name_whatever_the_name(name: str) -> None:
    slug = one(name).slug
    assert slug.replace("-", "").replace(".", "").isascii()
    assert "/" not in slug
    assert "\\" not in slug
    assert ".." not in slug
    assert 0 < len(slug) <= 80
    assert Path(f"{slug}.jsonl").name == f"{slug}.jsonl"
    assert slug not in ("base", "tuned", "base-again")
    assert one(name).slug == slug


def test_names_that_differ_only_in_what_a_slug_cannot_hold_stay_apart() -> None:
    assert (
        len({b.slug for b in parse(["prompt:客服.txt", "prompt:助手.txt", "prompt:a b.txt"])}) == 3
    )


def test_reports_show_no_path() -> None:
    assert one("prompt:/home/ann/secret/polite.txt").shown == "prompt:polite.txt"
    assert one("/home/ann/models/tiny").shown == "tiny"
    assert one("google/gemma-2b-it@main").shown == "google/gemma-2b-it@main"


def test_all_faults_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(
            ["few-shot", "few-shot:0", "few-shot:4", "prompt:", "prompt:a/x.txt", "prompt:b/X.txt"]
        )
    told = "\n".join(caught.value.details)
    assert "few-shot:0: the number of examples goes from 1 to 64" in told
    assert "few-shot:4: has the same short name as few-shot" in told
    assert "prompt:: no file is named" in told
    assert "prompt:b/X.txt: has the same short name as prompt:a/x.txt" in told
    assert len(caught.value.details) == 4


def test_the_prompts_text(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffSei höflich.\n\n".encode())
    assert read_prompt(one(f"prompt:{file}")) == "Sei höflich."
    for content, fault in ((b" \n", "empty"), (b"\xff\xfe\x00", "not text in UTF-8")):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=fault):
            read_prompt(one(f"prompt:{file}"))
    file.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        read_prompt(one(f"prompt:{file}"))


def test_a_list_in_a_file_is_the_flag_with_commas(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("judge: {baseline: [few-shot, 'prompt:p.txt'], aa: true}\n")
    flags = load_config(None, {"baseline": "few-shot, prompt:p.txt", "aa": True})
    assert load_config(file) == flags
    assert flags.judge.baseline == ("few-shot", "prompt:p.txt")

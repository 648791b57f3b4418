"""A Hugging Face model as judge, in process: a tiny random one babbles, and babble is never a score."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.rundir import read_json


@pytest.mark.parametrize("family", ["gemma", "gemma3"])
def test_babble_is_unscored_with_the_reason(family: str, tiny_folder, make_run, configured) -> None:
    name = f"hf:{tiny_folder(family)}"
    run, config = make_run(1), configured(name, judge_max_tokens=64)
    with pytest.raises(JudgeError, match="not one base and not one tuned answer") as caught:
        judging.judge(config, run, Console(quiet=True, stream=io.StringIO()))
    assert "unusable reply" in str(caught.value) or "the model takes" in str(caught.value)
    known = read_json(run.judgements(judging.slug(name)) / "judge.json")
    assert known["is_llm"] is True
    assert known["scored"] == 0
    assert known["unscored"] == {"base": 1, "tuned": 1}


def test_the_probe_looks_without_loading_weights(tiny_folder, configured) -> None:
    stream = io.StringIO()
    judging.probe(configured(f"hf:{tiny_folder()}").judge, Console(stream=stream))
    assert "is at hand (gemma" in stream.getvalue()


def test_what_cannot_judge_is_refused(tiny_folder, configured, tmp_path) -> None:
    import shutil

    def refused(folder) -> str:
        with pytest.raises(JudgeError) as caught:
            judging.probe(configured(f"hf:{folder}").judge, Console(quiet=True))
        return str(caught.value)

    pickled = shutil.copytree(tiny_folder(), tmp_path / "pickled")
    for file in pickled.glob("*.safetensors"):
        file.rename(pickled / "pytorch_model.bin")
    assert "no safetensors weights" in refused(pickled)
    coded = shutil.copytree(tiny_folder(), tmp_path / "coded")
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}})
    )
    assert "brings its own code" in refused(coded)
    assert "cannot be loaded" in refused(tmp_path / "absent" / "model")


def test_without_it_no_torch_is_loaded() -> None:
    program = (
        "import sys\nfrom gemma_lora import judge\nfrom gemma_lora.config import JudgeConfig\n"
        "judge.slug('hf:a/b'); judge.fingerprint(JudgeConfig())\n"
        "print([m for m in ('torch', 'transformers', 'openai', 'sacrebleu') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

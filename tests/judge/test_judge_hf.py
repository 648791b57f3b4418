"""A Hugging Face model as judge, in process: a tiny random one babbles, and babble is never a score."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemma_lora import judge as judging
from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asking import SCORES, prompt_hash, render
from gemma_lora.records import Judgement, Message
from gemma_lora.rubric import load_rubric
from gemma_lora.rundir import read_json, read_jsonl

QUIET = Console(quiet=True, stream=io.StringIO())
QUESTION = (Message(role="user", content="Where is it?"),)


@pytest.mark.parametrize("family", ["gemma", "gemma3"])
def test_babble_is_unscored_with_the_reason(family: str, tiny_folder, make_run, configured) -> None:
    name = f"hf:{tiny_folder(family)}"
    run, config = make_run(1), configured(name, judge_max_tokens=64)
    with pytest.raises(JudgeError, match="not one base and not one tuned answer") as caught:
        judging.judge(config, run, Console(quiet=True, stream=io.StringIO()))
    assert "unusable reply" in str(caught.value) or "the model takes" in str(caught.value)
    # (the reasoning never ends, or the probability of any score is next to nothing)
    known = read_json(run.judgements(judging.slug(name)) / "judge.json")
    assert known["is_llm"] is True
    assert (known["prompt_hash"], known["rubric_hash"]) == (prompt_hash(), load_rubric(None).hash)
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
    assert "which can hold programs" in refused(pickled)
    coded = shutil.copytree(tiny_folder(), tmp_path / "coded")
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}})
    )
    assert "auto_map makes loaders run code" in refused(coded)
    (coded / "config.json").write_text("{broken")
    assert "cannot be read as JSON" in refused(coded)
    (coded / "config.json").write_text(json.dumps(config))
    tokens = json.loads((coded / "tokenizer_config.json").read_text())
    (coded / "tokenizer_config.json").write_text(
        json.dumps({**tokens, "auto_map": {"AutoTokenizer": ["evil.Tokens", None]}})
    )
    assert "auto_map makes loaders run code" in refused(coded)
    (coded / "tokenizer_config.json").write_text(json.dumps(tokens))
    (coded / "model.safetensors").write_bytes((coded / "model.safetensors").read_bytes()[:-9])
    assert "cut off" in refused(coded)
    (coded / "model.safetensors").unlink()
    (coded / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../outside.safetensors"}})
    )
    assert "outside the folder" in refused(coded)
    assert "cannot be loaded" in refused(tmp_path / "absent" / "model")


def test_other_weights_in_the_same_folder_are_another_judge(
    make_run: Any, configured: Any, tmp_path: Path
) -> None:
    """Judgements of the first are not taken for the second's; the stage's stamp differs."""
    from support.tiny_judge import save_judge

    folder, run = tmp_path / "judge", make_run(1)
    config = configured(f"hf:{folder}", judge_max_tokens=64)
    made = run.judgements(judging.slug(config.judge.judge))
    seen = []
    for marker, said in (("refund", ""), ("garden", "made with other settings: judged anew")):
        save_judge(folder, marker=marker, bar=1)
        stream = io.StringIO()
        with pytest.raises(JudgeError, match="not one base"):  # its replies are one token each
            judging.judge(config, run, Console(stream=stream))
        assert said in stream.getvalue()
        assert "loading the judge" in stream.getvalue(), "it is asked"
        facts = read_json(made / "judge.json")
        seen.append((facts["identity"], judging.fingerprint(config.judge)))
    assert all(before != after for before, after in zip(*seen, strict=True))
    again = io.StringIO()
    with pytest.raises(JudgeError, match="not one base"):
        judging.judge(config, run, Console(stream=again))
    assert "loading the judge" not in again.getvalue(), "the same weights are not asked again"
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{# more #}")
    assert judging.fingerprint(config.judge) != seen[1][1], "nor is it the same with other words"


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path: Path) -> None:
    """In a process of its own, since huggingface_hub reads its settings when it is imported."""
    from support.hub import COMMIT, serve_hub
    from support.tiny_judge import save_judge

    folder = save_judge(tmp_path / "tiny", marker="refund", bar=1)
    program = (
        "from gemma_lora import judge\nfrom gemma_lora.config import JudgeConfig\n"
        "from gemma_lora.console import Console\nfrom gemma_lora.judge.hf import ModelAsker, snapshot\n"
        "config = JudgeConfig(judge='hf:owner/tiny')\njudge.probe(config, Console())\n"
        "print(snapshot('owner/tiny'), judge.fingerprint(config))\n"
        "asker = ModelAsker('owner/tiny', config, Console())\n"
        "import asyncio\nfrom gemma_lora.judge.asking import render\nfrom gemma_lora.records import Message\n"
        "print(asyncio.run(asker.ask(render((Message(role='user', content='?'),), None, 'a'))).model)\n"
    )
    with serve_hub({"owner/tiny": folder}) as (url, asked):
        env = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "HF_HOME": str(tmp_path / "home"), **env},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert "is at hand" in done.stderr
    assert f"owner/tiny@{COMMIT} " in done.stdout
    assert done.stdout.splitlines()[-1] == f"owner/tiny@{COMMIT}"
    assert not any(path.endswith((".py", ".bin")) for path, _ in asked)


def test_too_little_memory_is_an_expected_fault(
    make_run: Any, configured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from support.tiny_judge import save_judge
    from transformers import GemmaForCausalLM

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    config = configured(f"hf:{save_judge(tmp_path / 'judge', marker='refund', bar=1)}")
    for part in ("to", "generate"):
        with monkeypatch.context() as patch:
            patch.setattr(GemmaForCausalLM, part, fail)
            with pytest.raises(JudgeError, match="memory does not suffice") as caught:
                judging.judge(config, make_run(1), Console(quiet=True, stream=io.StringIO()))
        assert "smaller model" in (caught.value.remedy or "")


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


def distribution_without_cache(model: Any, tokenizer: Any, text: str, end: str) -> list[float]:
    """The probability of each continuation `1,` to `10,`, token by token, each from a whole new pass."""
    import torch

    found = []
    for number in range(1, 11):
        ids = tokenizer.encode(f"{text}{number}{end}", add_special_tokens=False)
        start = len(tokenizer.encode(text, add_special_tokens=False))
        assert ids[:start] == tokenizer.encode(text, add_special_tokens=False)
        with torch.inference_mode():
            logs = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
        found.append(math.exp(sum(float(logs[at - 1, ids[at]]) for at in range(start, len(ids)))))
    return found


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text", "gemma3"])
def test_cached_probabilities_are_those_of_whole_passes(family: str, tiny_folder: Any) -> None:
    """Also with sliding windows of 16 tokens, which the text is longer than, and 10 in two tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gemma_lora.judge.likelihood import grade

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder(family))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(family)).eval()

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    assert len(encode('x": 10,')) == len(encode('x": 1,')) + 1
    text = '<bos><start_of_turn>model\n{"reasoning": "the order and the answer are not here"'
    names = ("relevance", "overall")
    found, tail = grade(model, encode, text, names)
    for name, end in zip(names, ",}", strict=True):
        text += f', "{name}": '
        right = distribution_without_cache(model, tokenizer, text, end)
        assert found[name].mass == pytest.approx(sum(right), rel=1e-4)
        assert found[name].probabilities == pytest.approx([p / sum(right) for p in right], rel=1e-4)
        mean = sum(n * p for n, p in enumerate(right, start=1)) / sum(right)
        assert found[name].expected == pytest.approx(mean, rel=1e-4)
        assert found[name].mode == 1 + right.index(max(right))
        text += str(found[name].mode)
    assert tail == f', "relevance": {found["relevance"].mode}, "overall": {found["overall"].mode}}}'


@pytest.fixture(scope="module")
def trained_judge(tiny_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma that has learned the form of a judgement, with scores 4 (one in four) and 10.

    Its layers see 16 tokens back, so it behaves in a long prompt as in the short texts it learned from.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("judge") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("gemma3_text"))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder("gemma3_text"))
    assert set(model.config.layer_types) == {"sliding_attention"}
    model.config.max_position_embeddings = 8192
    prompt = "fits the schema.<end_of_turn>\n<start_of_turn>model\n"
    torch.manual_seed(0)
    rows = []
    for number in range(8):
        scores = ", ".join(
            f'"{name}": {4 if (number + i) % 4 == 0 else 10}' for i, name in enumerate(SCORES)
        )
        text = f'{prompt}{{"reasoning": "it is good", {scores}}}<end_of_turn>'
        rows.append(tokenizer.encode(text, add_special_tokens=False))
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = ids.masked_fill(ids == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(250):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.full  # trains a judge first
def test_scores_are_expected_scores(trained_judge: Path, make_run: Any, configured: Any) -> None:
    name = f"hf:{trained_judge}"
    run, config = make_run(2), configured(name, judge_max_tokens=64)
    folder = judging.judge(config, run, QUIET)
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert len(rows) == 4
    for row in rows:
        assert row.unscored_reason is None
        assert row.reasoning
        assert set(row.certainty or {}) == set(SCORES)
        for score in [row.overall, *row.scores.values()]:
            assert score is not None
            assert 1 <= score <= 10
        assert all(c.mass > 0.05 for c in (row.certainty or {}).values())
    assert any(row.overall != round(row.overall or 0) for row in rows), (
        "an expectation is no integer"
    )
    facts = read_json(folder / "judge.json")
    assert facts["scoring"].startswith("expected score")
    assert facts["rung"] == "token probabilities"
    assert 0 < facts["certainty"]["entropy"] < math.log2(10)
    # the same again: from the cache, with the same fractions
    again = make_run(2, folder="again")
    cached = read_jsonl(judging.judge(config, again, QUIET) / "judgements.jsonl", Judgement)
    assert cached == rows
    assert read_json(again.judgements(folder.name) / "judge.json")["cached"] == 4
    # other weights behind the same name: neither the ledger's judgements nor the cache's replies
    from safetensors.torch import load_file, save_file

    kept = trained_judge / "model.safetensors"
    whole, weights = kept.read_bytes(), load_file(kept)
    try:
        save_file({name: 1.01 * part for name, part in weights.items()}, kept, {"format": "pt"})
        judging.judge(config, again, QUIET)
    finally:
        kept.write_bytes(whole)
    other = read_json(again.judgements(folder.name) / "judge.json")
    assert other["cached"] == 0
    assert other["snapshot"] != facts["snapshot"]
    assert facts["snapshot"].startswith("model@sha256:")


@pytest.mark.full  # trains a judge first
def test_a_reply_has_the_distribution_of_the_text_that_it_is(trained_judge: Path) -> None:
    """What `ask` returns, against passes without cache over the prompt and the reply it wrote."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gemma_lora.judge.hf import ModelAsker

    config = JudgeConfig(judge=f"hf:{trained_judge}", judge_max_tokens=64)
    asker, prompt = ModelAsker(str(trained_judge), config, QUIET), render(QUESTION, "here", "there")
    reply = asyncio.run(asker.ask(prompt))
    assert reply.fault is None
    assert reply.distributions is not None
    tokenizer = AutoTokenizer.from_pretrained(trained_judge)
    model = AutoModelForCausalLM.from_pretrained(trained_judge).eval()
    turns = [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": prompt.user},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    for name in ("fluency", "overall"):
        head = reply.text[: reply.text.rindex(f'"{name}": ') + len(name) + 4]
        right = distribution_without_cache(
            model, tokenizer, text + head, "}" if name == "overall" else ","
        )
        found = reply.distributions[name]
        assert found.mass == pytest.approx(sum(right), rel=1e-3)
        assert found.probabilities == pytest.approx([p / sum(right) for p in right], abs=1e-4)
        assert found.mass > 0.3


@pytest.mark.full  # trains a judge first, and each answer is a long prompt for this processor
@pytest.mark.timeout(3600)
def test_no_attack_gains_with_a_judge_that_does_not_read_it(
    trained_judge: Path, configured: Any
) -> None:
    """The whole attack suite through `hf:`; this judge sees the end of its prompt only, never the answer."""
    from gemma_lora.judge.asked import LlmScorer
    from gemma_lora.judge.attacks import examine, load_attacks
    from gemma_lora.judge.hf import ModelAsker

    name = f"hf:{trained_judge}"
    config = configured(name, judge_max_tokens=64)
    asker = ModelAsker(str(trained_judge), config.judge, QUIET)
    target = judging.resolve(name)
    scorer = LlmScorer(target, config.judge, asker, None, QUIET, load_rubric(None))
    results = asyncio.run(examine(scorer, load_attacks()))
    assert len(results) >= 90
    too_long = [r for r in results if r.attacked.overall is None]
    for r in too_long:
        assert "the model takes" in (r.attacked.unscored_reason or ""), r.attack.id
        assert not r.succeeded
    assert len(too_long) < 10
    for r in results:
        assert r.honest.overall is not None, r.attack.id
        if r.attacked.overall is not None:
            assert r.attacked.overall == pytest.approx(r.honest.overall, abs=1e-3), r.attack.id
            assert r.succeeded == (r.attack.expected == "flagged"), r.attack.id
        assert r.flags or r.attack.expected != "flagged"


def test_little_mass_is_a_flag_and_hardly_any_is_no_score() -> None:
    from gemma_lora.judge.asked import _need_mass, _outcome
    from gemma_lora.judge.items import Usage
    from gemma_lora.judge.reading import Unusable, Verdict
    from gemma_lora.judge.replies import Distribution

    flat = (0.1,) * 10

    def found(mass: float) -> dict[str, Distribution]:
        return dict.fromkeys(SCORES, Distribution(flat, mass))

    verdict = Verdict("because", dict.fromkeys(SCORES, 1))
    sure, doubtful = (_outcome(verdict, Usage(), found(mass)) for mass in (0.6, 0.4))
    assert sure.flags == ()
    assert doubtful.flags == ("the judge seldom writes a score here",)
    assert sure.overall == doubtful.overall == 5.5, "1 was written, the mean is 5.5"
    assert (sure.certainty or {})["overall"].entropy == pytest.approx(math.log2(10), abs=1e-4)
    for mass in (0.04, 0.0, math.nan):
        with pytest.raises(Unusable, match="hardly gives scores"):
            _need_mass(found(mass))

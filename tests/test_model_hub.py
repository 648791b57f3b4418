"""Models from the hub: downloads, and each refusal as an error with the steps that help.

huggingface_hub reads its settings when it is imported, so each case runs in a process of its own
against a hub on loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub import COMMIT, serve_hub

SECRET = "hf_" + "s" * 30

SCRIPT = """
import json, sys
from gemma_lora import model
from gemma_lora.errors import GemmaLoraError

for name in sys.argv[1:]:
    try:
        ref = model.resolve(name)
        facts = model.check_access(ref)
        base = model.load_base(ref, precision="fp32", device="cpu")
        stops = model.load_format(ref).stop_ids
        print(json.dumps({
            "ok": True, "family": facts.family, "commit": facts.revision, "pinned": facts.ref.revision,
            "parameters": base.num_parameters(), "counted": facts.parameters, "stops": stops,
            "digest": model.weights_digest(ref),
        }))
    except GemmaLoraError as error:
        print(json.dumps({"ok": False, "code": error.exit_code, "text": str(error)}))
"""


def ask(names: list[str], home: Path, **env: str) -> list[dict]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env={
            **os.environ,
            "HF_HOME": str(home),
            "HF_TOKEN": SECRET,
            "HF_HUB_DISABLE_XET": "1",
            **env,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def outcomes(tiny_folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    folder = tiny_folder("gemma3")
    (folder / "modeling_evil.py").write_text("raise SystemExit('code of a model was run')")
    (folder / "pytorch_model.bin").write_bytes(b"\\x80\\x04 a pickle")
    names = ["owner/tiny", "gated/model", "owner/missing", "owner/tiny@nosuch", "broken/model"]
    with serve_hub({"owner/tiny": folder}) as (url, asked):
        online = ask(names, home, HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    (folder / "modeling_evil.py").unlink()
    (folder / "pytorch_model.bin").unlink()
    offline = ask(["owner/tiny", "owner/other"], home, HF_ENDPOINT=url, HF_HUB_OFFLINE="1")
    dead = ask(["owner/other"], home, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    return dict(zip(names, online, strict=True)), offline, dead, asked


def test_a_model_is_fetched_and_its_commit_pinned(outcomes):
    got = outcomes[0]["owner/tiny"]
    assert got["ok"], got
    assert got["family"].startswith("Gemma 3")
    assert got["commit"] == got["pinned"] == COMMIT
    assert got["parameters"] == got["counted"]
    assert got["stops"] == [107, 1]


def test_neither_code_nor_pickles_are_fetched(outcomes):
    paths = [path for path, _ in outcomes[3]]
    assert any(path.endswith("model.safetensors") for path in paths)
    assert not any(path.endswith((".py", ".bin")) for path in paths)


def test_a_gated_model_names_licence_login_and_memory(outcomes):
    got = outcomes[0]["gated/model"]
    assert got["code"] == 3
    for part in (
        "licence",
        "https://huggingface.co/gated/model",
        "hf auth login",
        "HF_TOKEN",
        "GB",
    ):
        assert part in got["text"]


def test_a_missing_model(outcomes):
    got = outcomes[0]["owner/missing"]
    assert got["code"] == 3
    assert "no such model, or it is private" in got["text"]


def test_a_missing_revision(outcomes):
    got = outcomes[0]["owner/tiny@nosuch"]
    assert got["code"] == 3
    assert "no revision 'nosuch'" in got["text"]


def test_a_hub_out_of_order(outcomes):
    got = outcomes[0]["broken/model"]
    assert got["code"] == 3
    assert "cannot be reached" in got["text"] or "status 500" in got["text"]


def test_offline_the_cache_serves(outcomes):
    cached, other = outcomes[1]
    assert cached["ok"], cached
    assert cached["digest"] == outcomes[0]["owner/tiny"]["digest"]
    assert "not in the local cache" in other["text"]
    assert "--model starter" in other["text"]


def test_no_network(outcomes):
    assert outcomes[2][0]["code"] == 3
    assert "cannot be reached" in outcomes[2][0]["text"]

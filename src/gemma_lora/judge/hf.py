"""A chat model of Hugging Face as judge, in this process: a hub id (with @revision) or a local folder.

The one module of the judge that loads torch, and only when a model is loaded. Weights come from
safetensors only and code from a model's repository is never run. The reply's JSON is written together:
its frame by us, the reasoning by the model (greedily, until it closes the string), and each score is read
from its token probabilities (`likelihood`). One judgement at a time, on the GPU where there is one. `check` looks at configuration, tokenizer and file names without
loading weights. Raises JudgeError with the steps that help.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asking import Prompt
from gemma_lora.judge.items import Usage
from gemma_lora.judge.likelihood import grade
from gemma_lora.judge.replies import Rejected, Reply

__all__ = ["ModelAsker", "check"]

_OPENING = '{"reasoning": "'
_STRING = re.compile(r'((?:[^"\\]|\\.)*)"', re.DOTALL)
"""The rest of a JSON string, to its closing quotation mark."""
_TOKENS_A_SCORE = 16
RUNG = "token probabilities"


def check(name: str, console: Console) -> None:
    """See that the model can be had and is a chat model; loads no weights."""
    config, tokenizer = _front(name)
    console.note(
        f"judge: hf:{name} is at hand ({config.model_type}, runs in this process; "
        f"vocabulary {len(tokenizer):,})"
    )


class ModelAsker:
    """Puts prompts to one model in this process."""

    concurrency = width = 1

    def __init__(self, name: str, config: JudgeConfig, console: Console) -> None:
        self._name = name
        self._config = config
        self._ended: JudgeError | None = None
        self._settings, self._tokenizer = _front(name)
        self.architecture = str(self._settings.model_type)
        self._model: Any = None
        self._console = console

    async def ask(self, prompt: Prompt, *, lower: bool = False, longer: bool = False) -> Reply:
        """One reply; Rejected where the prompt does not fit into the model's context."""
        if self._ended:
            raise self._ended
        limit = self._config.judge_max_tokens * (4 if longer else 1)
        return await asyncio.to_thread(self._generate, prompt, limit)

    def judged(self, reply: Reply, usable: bool) -> None:
        pass  # there is one rung only

    def end(self, error: JudgeError) -> None:
        self._ended = self._ended or error

    async def close(self) -> None:
        self._model = None

    def _generate(self, prompt: Prompt, limit: int) -> Reply:
        import torch

        if self._model is None:
            self._model = _load(self._name, self._console)
        start = self._text(prompt) + _OPENING
        ids = self._ids(start)
        longest = getattr(self._settings.get_text_config(), "max_position_embeddings", None)
        room = limit
        if longest is not None:
            room = min(limit, int(longest) - len(ids) - _TOKENS_A_SCORE * len(prompt.scores))
        if room < 1:
            raise Rejected(f"the prompt has {len(ids)} tokens, the model takes {longest}")
        given = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode():
            out = self._model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=room,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0,
                stopping_criteria=[self._closing(len(ids))],
            )
        new = out[0, len(ids) :].tolist()
        written = _STRING.match(self._decode(new))
        usage = Usage(1, len(ids), len(new))
        if written is None:
            cut = len(new) >= room
            return Reply(
                self._decode(new),
                "the reply was cut off by the token limit"
                if cut
                else "the reply ended inside its reasoning",
                cut=cut,
                usage=usage,
                model=self._name,
                rung=RUNG,
            )
        said = written[0]
        found, tail = grade(self._model, self._ids, start + said, prompt.scores)
        reasoning = json.dumps(_unescaped(written[1]), ensure_ascii=False)
        return Reply(
            f'{{"reasoning": {reasoning}{tail}',
            usage=usage,
            model=self._name,
            rung=RUNG,
            distributions=found,
        )

    def _closing(self, start: int) -> Any:
        """Ends the generation where the reasoning's string is closed."""

        def closed(ids: Any, scores: Any, **_: Any) -> Any:
            import torch

            done = _STRING.match(self._decode(ids[0, start:].tolist())) is not None
            return torch.tensor([done], device=ids.device)

        return closed

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _text(self, prompt: Prompt) -> str:
        from jinja2 import TemplateError

        turns = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        try:
            return self._template(turns)
        except TemplateError:  # families without a system role say so by raising
            return self._template(
                [{"role": "user", "content": f"{prompt.system}\n\n{prompt.user}"}]
            )

    def _template(self, turns: list[dict[str, str]]) -> str:
        return self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )


def _unescaped(text: str) -> str:
    """What the string stands for; as it is where the model escaped it wrongly."""
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text


def _front(name: str) -> tuple[Any, Any]:
    """Configuration and tokenizer, checked: a text model with a chat template and safetensors weights."""
    from transformers import AutoConfig, AutoTokenizer

    place, revision = _place(name)
    try:
        config: Any = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        tokenizer: Any = AutoTokenizer.from_pretrained(
            place, revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise _refused(name, error) from None
    if not getattr(tokenizer, "chat_template", None):
        raise JudgeError(
            "the model has no chat template, so it cannot be asked as a chat model",
            where=f"hf:{name}",
            remedy="choose an instruction-tuned model",
        )
    _need_safetensors(name, place, revision)
    return config, tokenizer


def _need_safetensors(name: str, place: str, revision: str | None) -> None:
    folder = Path(place)
    if folder.is_dir():
        found = any(folder.glob("*.safetensors"))
    else:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            files = HfApi().list_repo_files(place, revision=revision)
        except (HfHubHTTPError, OSError, ValueError):
            return  # offline with a filled cache: loading tells
        found = any(file.endswith(".safetensors") for file in files)
    if not found:
        raise JudgeError(
            "the model has no safetensors weights",
            where=f"hf:{name}",
            expected="*.safetensors; pickled weights are not opened",
            remedy="choose another model or revision",
        )


def _load(name: str, console: Console) -> Any:
    """Weights onto the GPU where there is one; bf16 where the device computes in it."""
    import torch
    from transformers import AutoModelForCausalLM

    place, revision = _place(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    good = device == "cuda" and torch.cuda.is_bf16_supported()
    dtype = torch.bfloat16 if good else torch.float32
    console.note(f"loading the judge hf:{name} ({device}, {'bf16' if good else 'fp32'})")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            place, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        return model.to(device).eval()
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise _refused(name, error) from None


def _place(name: str) -> tuple[str, str | None]:
    if Path(name).is_dir():
        config = Path(name) / "config.json"
        if config.is_file() and "auto_map" in json.loads(config.read_text(encoding="utf-8")):
            raise JudgeError(
                "the model brings its own code, which is never run",
                where=f"hf:{name}",
                remedy="choose a model that Transformers knows",
            )
        return name, None
    place, _, revision = name.partition("@")
    return place, revision or None


def _refused(name: str, error: Exception) -> JudgeError:
    """A loading fault with the steps that help; hub faults are OSErrors whose text names the cause."""
    text = " ".join(str(error).split())[:300]
    gated = "gated" in text.lower() or "401" in text or "403" in text
    return JudgeError(
        f"the judge's model cannot be loaded: {text}",
        where=f"hf:{name}",
        remedy=f"accept the licence at https://huggingface.co/{name.partition('@')[0]}, then `hf auth login`"
        if gated
        else "check the name, the network and HF_TOKEN, or name a local folder",
    )

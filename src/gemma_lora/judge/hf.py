"""A chat model of Hugging Face as judge, in this process: a hub id (with @revision) or a local folder.

The one module of the judge that loads torch, and only when a model is loaded. Weights come from
safetensors only and code from a model's repository is never run. The reply's JSON is written together:
its frame by us, the reasoning by the model (greedily, until it closes the string), and each score is read
from its token probabilities (`likelihood`). One judgement at a time, on the GPU where there is one. `check` looks at
configuration, tokenizer and file names without loading weights, by the rules that base models are checked by
(`model.safety`), but for quantised weights, which may judge. `snapshot` names the very model: the commit on the hub,
or a digest of a folder's weights, settings, tokenizer and template. Raises JudgeError with the steps that help.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError, ModelError
from gemma_lora.judge.asking import Prompt
from gemma_lora.judge.items import Usage
from gemma_lora.judge.likelihood import grade
from gemma_lora.judge.replies import Rejected, Reply
from gemma_lora.rundir import digest, file_digest

__all__ = ["ModelAsker", "check", "snapshot"]

_OPENING = '{"reasoning": "'
_STRING = re.compile(r'((?:[^"\\]|\\.)*)"', re.DOTALL)
"""The rest of a JSON string, to its closing quotation mark."""
_TOKENS_A_SCORE = 16
RUNG = "token probabilities"
_TEXTS = (".json", ".jinja", ".model")
"""Endings of a folder's files that decide replies beside the weights: settings, tokenizer, template."""


def snapshot(name: str) -> str:
    """`owner/name@commit`, or for a folder `name@sha256:digest`; reads weights once in a process."""
    from gemma_lora.model.reference import fetch, resolve, weights_digest

    with _as_judge(name):
        ref = resolve(name)
        folder, commit = fetch(ref, weights=False)
        if ref.kind == "hub":
            return f"{ref.location}@{commit}"
        weights = weights_digest(ref)
        texts = sorted(file for file in folder.iterdir() if file.suffix in _TEXTS)
        parts = [(file.name, file_digest(file)) for file in texts if file.is_file()]
        return f"{folder.name}@sha256:{digest(weights, parts)}"


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
    settled = True
    temperature: int | None = 0

    def __init__(self, name: str, config: JudgeConfig, console: Console) -> None:
        self._name = name
        self._snapshot = snapshot(name)
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
        return await asyncio.to_thread(self._reply, prompt, limit)

    def judged(self, reply: Reply, usable: bool) -> bool:
        return False  # there is one rung only

    def end(self, error: JudgeError) -> None:
        self._ended = self._ended or error

    async def close(self) -> None:
        self._model = None

    def _reply(self, prompt: Prompt, limit: int) -> Reply:
        with _enough_memory(self._name):
            return self._generate(prompt, limit)

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
                model=self._snapshot,
                rung=RUNG,
            )
        said = written[0]
        found, tail = grade(self._model, self._ids, start + said, prompt.scores)
        reasoning = json.dumps(_unescaped(written[1]), ensure_ascii=False)
        return Reply(
            f'{{"reasoning": {reasoning}{tail}',
            usage=usage,
            model=self._snapshot,
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

    folder = _checked(name, weights=False)
    try:
        config: Any = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exception
        raise _refused(name, error) from None
    if not getattr(tokenizer, "chat_template", None):
        raise JudgeError(
            "the model has no chat template, so it cannot be asked as a chat model",
            where=f"hf:{name}",
            remedy="choose an instruction-tuned model",
        )
    return config, tokenizer


def _checked(name: str, *, weights: bool) -> Path:
    """The model's folder, as safe as a base model's has to be; of the hub without weights unless asked for."""
    from gemma_lora.model.reference import fetch, resolve
    from gemma_lora.model.safety import check_base_folder, read_config, weight_files

    with _as_judge(name):
        ref = resolve(name)
        folder, commit = fetch(ref, weights=weights)
        read_config(folder, quantised=True)
        check_base_folder(folder)
        if weights or ref.kind != "hub":
            weight_files(folder)
        else:
            _need_safetensors(name, ref.location, commit)
    return folder


def _need_safetensors(name: str, place: str, commit: str | None) -> None:
    """Of a model on the hub, whose weights are not fetched before they are needed."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of whatever client the hub uses
    )

    try:
        files = HfApi().list_repo_files(place, revision=commit)
    except (HTTPError, OSError, ValueError):
        return  # offline with a filled cache: loading tells
    if not any(file.endswith(".safetensors") for file in files):
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

    folder = _checked(name, weights=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    good = device == "cuda" and torch.cuda.is_bf16_supported()
    dtype = torch.bfloat16 if good else torch.float32
    console.note(f"loading the judge hf:{name} ({device}, {'bf16' if good else 'fp32'})")
    try:
        with _enough_memory(name):
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
            return model.to(device).eval()
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise _refused(name, error) from None


@contextmanager
def _as_judge(name: str) -> Generator[None]:
    """What is wrong with the model's folder, as a fault of the judge."""
    try:
        yield
    except ModelError as error:
        remedy = error.remedy
        if remedy is None or "--model" in remedy:  # words for a base model
            remedy = _remedy(name, gated="login" in (remedy or ""))
        raise JudgeError(
            f"the judge's model cannot be loaded: {error.found}",
            where=f"hf:{name}",
            details=[
                *([error.where] if error.where not in (None, "--model") else []),
                *error.details,
            ],
            expected=error.expected,
            remedy=remedy,
        ) from None


@contextmanager
def _enough_memory(name: str) -> Generator[None]:
    """JudgeError where the memory of GPU or machine does not suffice."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError):
            known = isinstance(error, torch.OutOfMemoryError)
            if not known and "allocate memory" not in str(error):
                raise
        raise JudgeError(
            "the memory does not suffice for the judge's model",
            where=f"hf:{name}",
            remedy="choose a smaller model, free memory, or serve it elsewhere "
            "(--judge http://HOST:PORT/v1#MODEL); what was judged is kept",
        ) from None


def _refused(name: str, error: Exception) -> JudgeError:
    """A loading fault with the steps that help."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return JudgeError(
        f"the judge's model cannot be loaded: {text}",
        where=f"hf:{name}",
        remedy="fetch the model's files again: settings, tokenizer and weights must belong together; "
        "or choose a model that this version of Transformers knows",
    )


def _remedy(name: str, *, gated: bool) -> str:
    if gated:
        page = f"https://huggingface.co/{name.partition('@')[0]}"
        return f"accept the licence at {page}, then `hf auth login`"
    return "check the name, the network and HF_TOKEN, or name a local folder"

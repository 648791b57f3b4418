"""What a judge is called, where it lives, and which key it may be given.

`resolve` turns `BACKEND:MODEL` into a `Target`; it contacts nobody and reads only environment
variables. The rule for keys, which no variable can bend: `OPENAI_API_KEY` goes to OpenAI's own host
over https and nowhere else (`OPENAI_BASE_URL` is ignored), `ANTHROPIC_API_KEY` to Anthropic's own in
the same way, `GEMMA_LORA_JUDGE_KEY` goes to the server that the user named by its address (`need_named`:
in this call, since a run folder may be another's), and `ollama:` gets none. Addresses with a user name, password or query are refused: secrets belong in no
name, because names are shown, saved and made into folder names.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from gemma_lora.config import JudgeConfig, holds_secret
from gemma_lora.errors import ConfigError, JudgeError
from gemma_lora.judge import lexical
from gemma_lora.judge.plugins import find, refuse_namesake
from gemma_lora.rubric import load_rubric

__all__ = [
    "OPENAI_HOST",
    "Target",
    "key_for",
    "need_named",
    "resolve",
    "slug",
    "where_data_goes",
    "without_key",
]

OPENAI_HOST = "api.openai.com"
ANTHROPIC_HOST = "api.anthropic.com"
_OPENAI_URL = f"https://{OPENAI_HOST}/v1"
_ANTHROPIC_URL = f"https://{ANTHROPIC_HOST}/v1"
_OWN_KEYS = {OPENAI_HOST: "OPENAI_API_KEY", ANTHROPIC_HOST: "ANTHROPIC_API_KEY"}
_SERVER_KEY, _SERVER_KEY_HOST = "GEMMA_LORA_JUDGE_KEY", "GEMMA_LORA_JUDGE_KEY_HOST"
_SHORT_KEY = 8
"""Characters; what is shorter may be a word, or part of many."""
_MESSAGES = "anthropic+"
"""Before an address: the server there speaks Anthropic's messages API."""
_OLLAMA_PORT = 11434
_FORMS = (
    "lexical, replay:FILE, openai:MODEL, anthropic:MODEL, ollama:MODEL, http://HOST:PORT/v1#MODEL "
    "(any OpenAI-compatible server), anthropic+http://HOST:PORT/v1#MODEL (one that speaks Anthropic's "
    "messages API), hf:MODEL (a hub id or a local folder), NAME:MODEL (a plug-in that is installed)"
)
_WITH_MODEL = ("openai", "anthropic", "ollama", "hf", "replay")
_BUILT_IN = (*_WITH_MODEL, "lexical", "http", "https")
_PLUGIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Target:
    """A judge's name taken apart. `address` is a base URL, a file (replay) or "" (none needed)."""

    name: str
    backend: str
    """`lexical`, `replay`, `openai`, `anthropic`, `ollama`, `server`, `hf` or `plugin`."""
    model: str
    address: str = ""
    protocol: str = "chat"
    """`chat` (OpenAI's chat completions) or `messages` (Anthropic's); of servers only."""
    plugin: str = ""
    """The entry point's name; of plug-ins only."""

    @property
    def is_llm(self) -> bool:
        return self.backend not in ("lexical", "replay")

    @property
    def is_remote(self) -> bool:
        """True where text leaves this machine."""
        return self.is_server and not self.is_loopback

    @property
    def is_server(self) -> bool:
        return self.backend in ("openai", "anthropic", "ollama", "server")

    @property
    def is_loopback(self) -> bool:
        return _is_loopback(urlsplit(self.address).hostname or "")

    @property
    def host(self) -> str:
        """Host, with the port where one is given, for messages."""
        return urlsplit(self.address).netloc

    @property
    def key_variable(self) -> str | None:
        """The environment variable whose value this server may be sent."""
        if not self.is_server:
            return None
        if self.backend == "ollama":  # its address is a variable's, and perhaps no https
            return None
        own = _OWN_KEYS.get(_host(urlsplit(self.address)))
        return own or (_SERVER_KEY if self.backend == "server" else None)


def resolve(name: str) -> Target:
    """The target that `name` stands for; ConfigError (exit 2) lists the forms where it stands for none."""
    text = name.strip()
    if holds_secret(text):
        raise ConfigError(  # the address is not repeated
            "the judge's address holds a user name, a password or a query",
            expected="http://HOST:PORT/v1#MODEL",
            remedy="put the key into GEMMA_LORA_JUDGE_KEY",
        )
    if (before := text.partition(":")[0]) in _BUILT_IN:
        refuse_namesake(before)
    if text == "lexical":
        return Target(text, "lexical", lexical.MODEL)
    if re.match(r"(anthropic\+)?https?://", text, re.IGNORECASE):
        return _server(text)
    backend, colon, rest = text.partition(":")
    rest = rest.strip()
    plugin = backend not in _BUILT_IN and bool(_PLUGIN.fullmatch(backend)) and find(backend)
    if not colon or (backend not in _WITH_MODEL and not plugin):
        raise ConfigError(
            "there is no such judge", where=f"--judge {text}", expected=f"one of {_FORMS}"
        )
    if not rest:
        what = "file" if backend == "replay" else "model"
        raise ConfigError(
            f"no {what} is named after {backend}:", where=f"--judge {text}", expected=_FORMS
        )
    if backend == "openai":
        return Target(text, backend, rest, _OPENAI_URL)
    if backend == "anthropic":
        return Target(text, backend, rest, _ANTHROPIC_URL, "messages")
    if backend == "ollama":
        return Target(text, backend, rest, _ollama_url())
    if plugin:
        return Target(text, "plugin", rest, plugin=backend)
    return Target(text, backend, rest, rest if backend == "replay" else "")


def key_for(target: Target) -> str | None:
    """The key to send to `target`, or None; JudgeError (exit 4) where one is needed and absent."""
    variable = target.key_variable
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        if variable in _OWN_KEYS.values():
            raise JudgeError(
                f"{variable} is not set",
                where=target.name,
                remedy=f"export {variable}=... , or judge offline with --judge lexical",
            )
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise JudgeError(
            f"the value of {variable} has characters that no key has (spaces, line ends or others)",
            where=target.name,
            remedy=f"set {variable} again, without quotes or line breaks inside",
        )
    return key


def without_key(text: str, key: str | None) -> str:
    """`text` of a reply with `[key]` in place of our key, should a gateway repeat it; all else as it is.

    A key of fewer than 8 characters only where it stands alone, not inside a word.
    """
    if not key or key not in text:
        return text
    if len(key) >= _SHORT_KEY:
        return text.replace(key, "[key]")
    return re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", "[key]", text)


def need_named(name: str) -> None:
    """JudgeError where a judge that only a run folder names would be sent GEMMA_LORA_JUDGE_KEY.

    The folder may be somebody else's. This machine may have the key, and what GEMMA_LORA_JUDGE_KEY_HOST
    lists (separated by commas): HOST is reached over https, HOST:PORT as the address says.
    """
    target = resolve(name)
    parts = urlsplit(target.address)
    key = os.environ.get(_SERVER_KEY, "").strip()
    if target.key_variable != _SERVER_KEY or not key or target.is_loopback:
        return
    listed = {host.strip().lower() for host in os.environ.get(_SERVER_KEY_HOST, "").split(",")}
    if target.host.lower() in listed and (parts.port is not None or parts.scheme == "https"):
        return
    raise JudgeError(
        f"the run folder names this server, not you, so it is not sent {_SERVER_KEY}",
        where=f"{target.name} ({target.host})",
        expected=f"--judge in this call, or the server in {_SERVER_KEY_HOST}",
        remedy=f"if the server is yours, add --judge {shlex.quote(target.name)}, or export "
        f"{_SERVER_KEY_HOST}={shlex.quote(target.host)}; else unset {_SERVER_KEY}",
    )


def slug(name: str, rubric: str | None = None) -> str:
    """A folder name for a judge by a rubric (None: the built-in one): readable, and different for each pair."""
    own = load_rubric(rubric)
    judge = _judge_slug(name)
    return judge if own.is_default else f"{judge}-{own.name}-{own.hash[:6]}"


def _judge_slug(name: str) -> str:
    target = resolve(name)
    text = target.name
    if target.backend == "replay":
        text = f"replay:{Path(target.model).name}"
    elif target.backend == "server":
        wire = _MESSAGES if target.protocol == "messages" else ""
        text = f"{wire}{target.host}:{target.model}"
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace(":", "-", 1)).strip("-.")
    if plain == target.name.replace(":", "-", 1) and len(plain) <= 80:
        return plain
    return f"{plain[:80]}-{hashlib.sha256(target.name.encode()).hexdigest()[:6]}"


def where_data_goes(config: JudgeConfig, *, rows: int | None = None) -> str | None:
    """A sentence that names the server where text leaves this machine, else None."""
    target = resolve(config.judge)
    count = "the test rows" if rows is None else f"{rows} test rows"
    if target.plugin:
        return (
            f"questions, reference answers and both answers of {count} go to the plug-in `{target.plugin}`, "
            "which may send them anywhere"
        )
    if not target.is_remote:
        return None
    which = "all models' answers" if config.baseline else "both answers"
    return (
        f"questions, reference answers and {which} of {count} go to {target.host} "
        f"(judge {target.name})"
    )


def _server(text: str) -> Target:
    bare, _, model = text.partition("#")
    messages = bare.lower().startswith(_MESSAGES)
    bare = bare[len(_MESSAGES) :] if messages else bare
    try:
        parts = urlsplit(bare)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(
            f"the judge's address is malformed: {error}",
            where=f"--judge {text}",
            expected="http://HOST:PORT/v1#MODEL",
        ) from None
    if not host:
        raise ConfigError(
            "the judge's address has no host",
            where=f"--judge {text}",
            expected="http://HOST:PORT/v1#MODEL",
            remedy="put the server's name or number after http:// or https://",
        )
    if not model.strip():
        raise ConfigError(
            "the judge's address names no model",
            where=f"--judge {text}",
            expected="http://HOST:PORT/v1#MODEL",
        )
    if _host(parts) in _OWN_KEYS and (parts.scheme.lower() != "https" or port not in (None, 443)):
        backend = "openai" if _host(parts) == OPENAI_HOST else "anthropic"
        raise ConfigError(
            f"{_host(parts)} is reached over https only",
            where=f"--judge {text}",
            remedy=f"use {backend}:MODEL",
        )
    shown = f"[{host}]" if ":" in host else host
    netloc = shown if port is None else f"{shown}:{port}"
    address = f"{parts.scheme.lower()}://{netloc}{parts.path.rstrip('/')}"
    return Target(text, "server", model.strip(), address, "messages" if messages else "chat")


def _ollama_url() -> str:
    """Ollama's own variable, read as Ollama reads it: host, host:port or a URL."""
    text = os.environ.get("OLLAMA_HOST", "").strip() or "127.0.0.1"
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError as error:
        raise ConfigError(f"is malformed: {error}", where="OLLAMA_HOST") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError("holds a user name or a password", where="OLLAMA_HOST")
    if host in ("0.0.0.0", "::"):  # what a server listens on; a client means this machine
        host = "127.0.0.1"
    if port is None:
        port = 443 if parts.scheme == "https" else _OLLAMA_PORT
    shown = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{shown}:{port}{path.removesuffix('/v1')}/v1"


def _host(parts: SplitResult) -> str:
    return (parts.hostname or "").rstrip(".").lower()


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified

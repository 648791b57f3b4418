"""Naming a base model and getting its files: shipped starter, local folder, or hub id.

`resolve` only parses the name. `fetch` returns a local folder with the files asked for; for the hub
it downloads through huggingface_hub into its cache (JSON, tokenizer, safetensors; never code or
pickles) and turns what can go wrong (licence, login, network, revision, disk) into a ModelError with
the steps that help. Tokens are read by huggingface_hub itself and never shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gemma_lora.errors import EnvironmentFault, ModelError
from gemma_lora.model.safety import weight_files, weight_names
from gemma_lora.rundir import digest, file_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BaseRef", "fetch", "resolve", "weights_digest"]

STARTER = Path(__file__).resolve().parent.parent / "starter"
TEXT_FILES = ("*.json", "tokenizer.model", "*.jinja", "LICENSE*", "NOTICE*", "README.md")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")


@dataclass(frozen=True)
class BaseRef:
    """A base model by name; `location` is a folder (starter, local) or a hub id."""

    name: str
    kind: Literal["starter", "local", "hub"]
    location: str
    revision: str | None = None

    @property
    def is_demo(self) -> bool:
        """The shipped model: good enough to show that everything works, for nothing else."""
        return self.kind == "starter"

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{self.location}"


def resolve(name: str) -> BaseRef:
    """`starter`, an existing folder, or `owner/name[@revision]`; ModelError for anything else."""
    text = name.strip()
    if text == "starter":
        return BaseRef("starter", "starter", str(STARTER))
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return BaseRef(text, "local", str(folder.resolve()))
    identity, at, revision = text.partition("@")
    if folder.is_file():
        raise ModelError(
            "is a file",
            where=text,
            expected="the folder that holds config.json and the weights",
        )
    if (
        not _HUB_ID.fullmatch(identity)
        or ".." in text
        or (at and not _REVISION.fullmatch(revision))
    ):
        raise ModelError(
            f"{text!r} is neither an existing folder nor a hub id",
            where="--model",
            expected="`starter`, a folder with config.json, or owner/name[@revision]",
            remedy="check the spelling; for example --model google/gemma-2b-it",
        )
    return BaseRef(text, "hub", identity, revision or None)


def fetch(ref: BaseRef, *, weights: bool) -> tuple[Path, str | None]:
    """Local folder of `ref` and, for the hub, the commit; downloads what is missing there."""
    if ref.kind != "hub":
        folder = Path(ref.location)
        if not folder.is_dir():
            raise ModelError("there is no such folder", where=ref.location)
        return folder, None
    folder, commit = _from_hub(ref, TEXT_FILES)
    if not weights:
        return folder, commit
    # by name: some repositories hold the same weights a second time in another cut
    return _from_hub(ref, [*TEXT_FILES, *weight_names(folder)])


def weights_digest(ref: BaseRef) -> str:
    """Identity of weights and config, which decide what the model computes: SHA-256 over the files, or
    over id and commit on the hub."""
    if ref.kind == "hub":
        _, commit = fetch(ref, weights=False)
        return digest("hub", ref.location, commit)
    folder = Path(ref.location)
    files = [folder / "config.json", *weight_files(folder)]
    return digest("files", [(file.name, _file_digest(file)) for file in files])


_digests: dict[tuple[str, int, int], str] = {}


def _file_digest(file: Path) -> str:
    """Large weights are read once per process, not once per stage."""
    status = file.stat()
    key = (str(file.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _digests:
        _digests[key] = file_digest(file)
    return _digests[key]


_commits: dict[tuple[str, str | None], str] = {}
"""The commit that a name stood for when this process first asked: later stages get the same one."""


def _from_hub(ref: BaseRef, patterns: Sequence[str]) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of whatever client the hub uses
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = ref.name
    pinned = _commits.get((ref.location, ref.revision), ref.revision)
    try:
        folder = snapshot_download(ref.location, revision=pinned, allow_patterns=list(patterns))
    except GatedRepoError:
        raise ModelError(
            "the hub grants this model only after its licence is accepted, with a login",
            where=where,
            remedy=licence_steps(ref),
        ) from None
    except RevisionNotFoundError:
        raise ModelError(
            f"the model has no revision {ref.revision!r}",
            where=where,
            remedy=f"see {ref.page}/commits for what there is",
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            "the hub has no such model, or it is private",
            where=where,
            remedy="check the spelling; for a private model log in with `hf auth login` "
            "or set HF_TOKEN",
        ) from None
    except LocalEntryNotFoundError:
        raise ModelError(
            "the hub cannot be reached, and the model is not in the local cache",
            where=where,
            remedy="check the network (or unset HF_HUB_OFFLINE), copy the model here and name its "
            "folder with --model, or try --model starter, which needs no network",
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise ModelError(
            f"the hub answered with status {status}",
            where=where,
            remedy=licence_steps(ref) if status in (401, 403) else "try again later",
        ) from None
    except (OSError, HTTPError) as error:
        raise EnvironmentFault(
            f"the download failed: {getattr(error, 'strerror', None) or type(error).__name__}",
            where=where,
            remedy="check the network and the free space of the cache (HF_HOME)",
        ) from None
    path = Path(folder)
    _commits[ref.location, ref.revision] = path.name
    return path, path.name


def licence_steps(ref: BaseRef) -> str:
    """What a user does once to be let in; the memory needed is told by `check_access` afterwards."""
    return (
        f"1. open {ref.page} and accept the licence; 2. `hf auth login`, or set HF_TOKEN to a token "
        "with read access; 3. run the same command again. A 2B model needs about 6 GB of memory in "
        "bf16 (12 GB in fp32), a 7B model about 18 GB. Without a login: --model starter"
    )

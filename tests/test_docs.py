"""The documentation is true: its commands run, its links lead somewhere, its lists are complete.

Every fenced bash, console and python block of the documents is run in a scratch copy, or stands
under `<!-- not run: reason -->`; then its `gemma-lora` commands are still parsed by the real parser,
with flags and values, and its `make` targets must exist. A block with neither treatment fails.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.memory import SHAPES

from gemma_lora import cli, errors
from gemma_lora.judge.names import resolve as resolve_judge
from gemma_lora.loading import leaves, load_config

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "configs").glob("*.md"),
        *(ROOT / "examples").glob("*.md"),
    ]
)
RUN, SHOWN = {"bash", "console", "python"}, {"text", "yaml", "json", "csv"}
_FENCE = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (make|needs \S.+) -->\n\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{_name(self.document)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Shell commands as words, continuation lines joined; comments and prompts are gone."""
        text = self.text.replace("\\\n", " ")
        if self.language == "console":
            text = "".join(s[2:] + "\n" for s in text.splitlines() if s.startswith("$ "))
        lines = (re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())  # as the shell does
        return [words for line in lines if (words := shlex.split(line))]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _FENCE.finditer(text):
        mark = _NOT_RUN.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(path, line, match[2], match[3], mark[1] if mark else None))
    return found


ALL = [block for path in DOCUMENTS for block in blocks(path)]


def _scratch(folder: Path) -> dict[str, str]:
    """A copy of what documents refer to, and an environment of its own: no network, no keys, no cache."""
    for name in ("examples", "configs", "tests", "tools", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    keep = {k: v for k, v in os.environ.items() if not k.endswith("_KEY") and k != "HF_TOKEN"}
    return {
        **keep,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "HF_HOME": str(folder / "home" / "hub"),
        "GEMMA_LORA_CACHE": str(folder / "home" / "cache"),
        "HF_HUB_OFFLINE": "1",
    }


@pytest.mark.parametrize(
    "path",
    [p for p in DOCUMENTS if any(not b.not_run and b.language in RUN for b in blocks(p))],
    ids=_name,
)
def test_blocks_of_a_document_run_one_after_the_other(path: Path, tmp_path: Path) -> None:
    environment = _scratch(tmp_path)
    for block in blocks(path):
        if block.language not in RUN or block.not_run:
            continue
        if block.language == "python":
            command = [sys.executable, "-c", block.text]
        else:
            lines = [shlex.join(words) for words in block.commands]
            script = "\n".join(lines) if block.language == "console" else block.text
            command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, f"{block} ended with {done.returncode}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("block", ALL, ids=str)
def test_every_block_is_run_or_marked_or_only_shown(block: Block) -> None:
    assert block.language in RUN | SHOWN, f"{block}: a block of language {block.language!r}"
    if block.not_run:
        assert block.language in RUN


@pytest.mark.parametrize("block", [b for b in ALL if b.language in ("bash", "console")], ids=str)
def test_gemma_lora_commands_are_understood_by_the_real_parser(block: Block) -> None:
    for words in block.commands:
        if "gemma_lora.cli" in words:  # after a launcher
            words = ["gemma-lora", *words[words.index("gemma_lora.cli") + 1 :]]
        if words[0].rsplit("/")[-1] != "gemma-lora" or words[1] in ("--help", "--version"):
            continue
        if "--help" in words:
            cli._command(words[1])
            continue
        _check(words[1:])


def _check(words: list[str]) -> None:
    namespace, flags = cli._parse(cli._command(words[0]), words[1:])
    file = getattr(namespace, "config", None)
    config = load_config(ROOT / file if file is not None else None, flags)
    resolve_judge(config.judge.judge)
    model = config.model.model
    assert model == "starter" or model in SHAPES, f"{model} is no model that was looked at"


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_make_targets_and_inline_commands_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    typed = [
        words[1] for b in ALL if b.document == path for words in b.commands if words[0] == "make"
    ]
    for target in typed + re.findall(r"(?<!`)`make ([\w-]+)[^`]*`", text):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"make {target}"
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    flags = {leaf.flag for leaf in leaves()} | {
        flag for command in cli.COMMANDS for flag in cli._parser(command)[0]._option_string_actions
    }
    for piece in inline:
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", piece):
            assert flag in flags | {"--version"}, f"{_name(path)}: {piece}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        assert (path.parent / target.partition("#")[0]).exists(), f"{_name(path)}: {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_documents_name_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<!\w)/(work|tmp|root|home)/\w", text)


def test_the_list_of_commands_and_settings_is_current() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import docs_cli
    finally:
        sys.path.pop(0)
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert text == docs_cli.render(), "run: python tools/docs_cli.py"
    for leaf in leaves():
        assert f"| `{leaf.place}` |" in text
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.GemmaLoraError)
    }
    for code in codes:
        assert re.search(rf"^\| {code} \|", text, re.MULTILINE)


def test_architecture_names_every_module_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "gemma_lora"
    there = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    named = set(re.findall(r"`((?:\w+/)?\w+\.py)`", text)) - {
        "tools/docs_cli.py",
        "tools/examine_judge.py",
        "tools/judge_bench.py",
    }
    assert named == there


def test_readme_is_short_and_says_what_the_shipped_parts_are() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert "demonstration model" in text
    assert re.search(r"`lexical`.{0,80}not\s+a\s+language\s+model", text, re.DOTALL)
    for command in cli.COMMANDS:
        assert f"`{command.name}" in text or f"gemma-lora {command.name}" in text

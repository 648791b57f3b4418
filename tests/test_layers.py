"""The layers: imports go downward only, and no module of the lower layers loads torch by itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gemma_lora

ROOT = Path(gemma_lora.__file__).parent

LAYERS: dict[str, int] = {
    "errors": 0,
    "console": 0,
    "records": 0,
    "config": 0,
    "loading": 1,
    "rundir": 1,
    "launcher": 1,
    "prompt": 1,
    "agreement": 1,
    "baselines": 1,
    "statistics": 1,
    "verdict": 2,
    "rubric": 2,
    "data": 2,
    "model": 2,
    "audit": 3,
    "train": 3,
    "answer": 3,
    "forgetting": 3,
    "chat": 4,
    "judge": 4,
    "decision": 5,
    "report": 6,
    "provenance": 6,
    "continuing": 3,
    "preflight": 6,
    "pipeline": 7,
    "compare": 7,
    "seeds": 8,
    "cli": 9,
}
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets"}
MAY_LOAD_TORCH = {"model", "train", "answer", "chat", "forgetting"}


def part_of(file: Path) -> str:
    """The top-level module or package that a file belongs to."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all imports, those inside functions included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top_level_imports(tree: ast.Module) -> set[str]:
    """Imports that run when the module is imported; `if TYPE_CHECKING` blocks do not."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= imports(node)
    return found


def test_every_module_has_a_layer() -> None:
    assert {part_of(file) for file in sources()} == set(LAYERS)


@pytest.mark.parametrize("file", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_downward(file: Path) -> None:
    mine = part_of(file)
    for name in imports(ast.parse(file.read_text("utf-8"))):
        parts = name.split(".")
        if parts[0] != "gemma_lora" or len(parts) < 2 or parts[1] == mine:
            continue
        if parts[1] in ("__version__",):
            continue
        assert parts[1] in LAYERS, f"{name} is not a module of the package"
        assert LAYERS[parts[1]] < LAYERS[mine], f"{mine} (layer {LAYERS[mine]}) imports {name}"


@pytest.mark.parametrize("file", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_torch_stays_where_it_belongs(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    mine = part_of(file)
    if mine in MAY_LOAD_TORCH:
        return
    loaded = {name.split(".")[0] for name in top_level_imports(tree)} & HEAVY
    assert not loaded, f"{mine} loads {loaded} when imported"
    if mine not in ("judge", "prompt"):  # the in-process judge imports inside its functions
        # `datasets` loads no torch by itself
        allowed = {"datasets"} if mine == "data" else set[str]()
        assert not {name.split(".")[0] for name in imports(tree)} & (HEAVY - allowed)


def test_trainer_is_known_to_one_module() -> None:
    users = [
        file.relative_to(ROOT).as_posix()
        for file in sources()
        if "transformers.Trainer" in imports(ast.parse(file.read_text("utf-8")))
    ]
    assert users == ["train/trainer.py"]


def test_there_is_no_utils_and_every_module_says_what_it_is() -> None:
    for file in sources():
        assert "util" not in file.stem
        assert ast.get_docstring(ast.parse(file.read_text("utf-8"))), (
            f"{file.name} has no docstring"
        )


@pytest.mark.parametrize("module", ["gemma_lora", "gemma_lora.cli", "gemma_lora.pipeline"])
def test_import_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Packages that offer a judge, as pip leaves them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["install"]


def install(
    folder: Path,
    code: str,
    *,
    name: str = "acme",
    package: str = "acme-judge",
    version: str = "1.2",
) -> Path:
    """A module in `folder`, and a dist-info folder with its entry point; found once `folder` is on the path."""
    module = package.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[gemma_lora.judges]\n{name} = {module}:Backend\n")
    return folder

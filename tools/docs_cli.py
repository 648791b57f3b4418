"""Write docs/cli.md from the command table and the parsers, so that it cannot differ from them.

Reads gemma_lora.cli and gemma_lora.config; writes docs/cli.md beside this folder. A test compares
the file with `render()`. Run it after any change of a command or setting:

    python tools/docs_cli.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gemma_lora import cli
from gemma_lora.loading import Leaf, leaves

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

HEAD = """# Commands and settings

Made by `python tools/docs_cli.py` from the command table and the declarations of the settings; not
edited by hand. In a config file a setting is `section: {name: value}`, on the command line it is the
flag; flags win. `auto` means "decide for me": the decision is printed and saved.

    gemma-lora COMMAND --help

| command | does | settings of the sections |
|---|---|---|
"""

EXITS = """
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 2 | wrong usage, configuration or data |
| 3 | model, adapter or machine |
| 4 | judge |
| 5 | an inner fault: a bug, please report it |
| 10 | done, but the verdict asked for with `--require` was not reached |
| 130, 143 | interrupted (Ctrl-C, SIGTERM); the same command continues |
"""


def render() -> str:
    """The whole text of docs/cli.md."""
    text = HEAD
    for command in cli.COMMANDS:
        sections = [section or "run" for section in command.sections]
        text += (
            f"| `{command.name} {command.argument}` | {command.summary} | {', '.join(sections)} |\n"
        )
    text += "\n## Flags that are no settings\n\n| flag | commands | meaning |\n|---|---|---|\n"
    text += "".join(_own_flags())
    titles = {leaf.section: None for leaf in leaves()}
    for section in titles:
        text += f"\n## Settings: {section or 'run'}\n\n"
        text += "| in a file | flag | default | values | meaning |\n|---|---|---|---|---|\n"
        text += "".join(_row(leaf) for leaf in leaves() if leaf.section == section)
    return text + EXITS


def _own_flags() -> list[str]:
    """Flags that no setting declares, with the commands that have them."""
    settings = {leaf.flag for leaf in leaves()}
    found: dict[str, tuple[list[str], str]] = {}
    for command in cli.COMMANDS:
        parser, _ = cli._parser(command)
        for action in parser._actions:
            flag = next((name for name in action.option_strings if name.startswith("--")), None)
            if flag is None or flag in settings or flag == "--help":
                continue
            shown = f"{flag} {_value(action)}".strip()
            found.setdefault(shown, ([], action.help or ""))[0].append(command.name)
    return [
        f"| `{flag}` | {', '.join(names) if len(names) < len(cli.COMMANDS) else 'all'} | {_cell(text)} |\n"
        for flag, (names, text) in found.items()
    ]


def _value(action: argparse.Action) -> str:
    if action.choices:
        return "{" + ",".join(action.choices) + "}"
    return "" if action.nargs == 0 else str(action.metavar or "")


def _row(leaf: Leaf) -> str:
    if leaf.place == "data.path":
        flag, values = "`DATA`", "file"
    else:
        probe = argparse.ArgumentParser()
        cli._add_flag(probe, leaf)
        action = probe._actions[-1]
        flag = "`" + "`, `".join(action.option_strings) + "`"
        values = _value(action).strip("{}").replace(",", ", ") or "true, false"
    return (
        f"| `{leaf.place}` | {flag} | {_default(leaf)} | {values} "
        f"| {_cell(leaf.field.description or '')} |\n"
    )


def _default(leaf: Leaf) -> str:
    value: Any = leaf.field.default
    if value is None:
        return "auto" if "auto" in (leaf.field.description or "") else "none"
    if isinstance(value, tuple):
        return f"`{', '.join(value)}`" if value else "none"
    return f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("%%", "%")


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET.name}")

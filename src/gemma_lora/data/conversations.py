"""A cell that holds a whole conversation, to turns.

Forms: `role`/`content` (OpenAI) and `from`/`value` (ShareGPT), as a JSON list or, in CSV files, as
its text (Python's way of printing such a list, which pandas leaves in CSV files, is read too).
Turns must begin with the user (a system turn may stand before), alternate, and end with an answer;
where only a question is wanted, they may end with the user.
"""

from __future__ import annotations

import ast
import json
from typing import Any, cast

from gemma_lora.data.cells import Cell
from gemma_lora.data.decoding import BAD_CHARACTER
from gemma_lora.data.table import is_blank, quoted
from gemma_lora.records import Role

__all__ = ["Turns", "turns_of"]

Turns = list[tuple[Role, str]]

_ROLES: dict[str, Role] = {
    "user": "user",
    "human": "user",
    "customer": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "agent": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "system",
}


def turns_of(cell: Cell, *, answered: bool = True) -> Turns | str:
    """The turns, or in words what is wrong with the cell; `answered`: the last must be an answer."""
    value: Any = cell
    if isinstance(cell, str):
        if is_blank(cell):
            return "the conversation is empty"
        try:
            value = json.loads(cell)
        except RecursionError:
            return "is nested too deeply"
        except ValueError as error:
            value = _python_list(cell)
            if value is None:
                return f"is not a JSON list of turns: {error}"
    if not isinstance(value, list) or not value:
        return f"holds {quoted(str(value), 30)} where a list of turns should be"
    turns: Turns = []
    for number, item in enumerate(cast(list[Any], value), start=1):
        turn = _turn(item)
        if isinstance(turn, str):
            return f"turn {number}: {turn}"
        turns.append(turn)
    return _order_fault(turns, answered) or turns


def _python_list(text: str) -> Any:
    if not text.lstrip().startswith("[{'"):
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _turn(item: Any) -> tuple[Role, str] | str:
    if not isinstance(item, dict):
        return f"{quoted(str(item), 30)} where an object with role and content should be"
    fields = cast(dict[str, Any], item)
    name = fields.get("role", fields.get("from"))
    content = fields.get("content", fields.get("value"))
    role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        return f"the role is {quoted(str(name), 30)}, not user, assistant or system"
    text = _text(content)
    if text is None:
        return f"the content of the {role} turn is not text"
    if is_blank(text):
        return f"the {role} turn is empty"
    if BAD_CHARACTER.search(text):  # escaped in the JSON, so that no reader saw it
        return f"the {role} turn holds a NUL or half of a surrogate pair"
    return role, text


def _text(content: Any) -> str | None:
    """Text, also of the form `[{"type": "text", "text": ...}]`; None where there is more than text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = cast(list[Any], content)
        texts = [
            cast(dict[str, Any], part).get("text") if isinstance(part, dict) else None
            for part in parts
        ]
        if parts and all(isinstance(text, str) for text in texts):
            return "".join(cast(list[str], texts))
    return None


def _order_fault(turns: Turns, answered: bool) -> str | None:
    talk = turns[1:] if turns[0][0] == "system" else turns
    for number, (role, _) in enumerate(talk, start=1 + len(turns) - len(talk)):
        expected = "user" if (number - (len(turns) - len(talk))) % 2 else "assistant"
        if role != expected:
            return f"turn {number} is by the {role} where the {expected} should speak"
    if not talk:
        return "there is only a system turn"
    if answered and talk[-1][0] != "assistant":
        return "the last turn is not the assistant's, so there is nothing to learn from it"
    return None

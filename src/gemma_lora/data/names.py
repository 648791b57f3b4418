"""The usual names of columns, by what they hold: the list that recognition goes by.

Names compare without case, spaces, underscores, hyphens and dots. `strong` names settle a column's
part; `weak` ones count only where no strong name of the same part is there.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

__all__ = ["NAMES", "Names", "is_known", "key"]


@dataclass(frozen=True)
class Names:
    """Keys (see `key`) of one part of a row."""

    strong: frozenset[str]
    weak: frozenset[str] = frozenset()


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


NAMES: dict[str, Names] = {
    "question": Names(
        _keys(
            "question questions prompt prompts instruction instructions query userquestion userquery "
            "userprompt usermessage customermessage customerquestion customerquery "
            "frage anweisung pregunta domanda vraag pergunta 问题 問題 指令"
        ),
        _keys("input user human customer q request inquiry eingabe userinput inputtext 输入"),
    ),
    "answer": Names(
        _keys(
            "answer answers response responses output outputs completion completions reply replies "
            "assistantresponse assistantreply modelanswer modelresponse agentresponse botresponse "
            "supportresponse antwort réponse reponse respuesta risposta antwoord resposta 答案 回答 输出"
        ),
        _keys("assistant a bot agent gpt target ausgabe outputtext targettext goldanswer"),
    ),
    "context": Names(_keys("context contexts kontext inputcontext passage")),
    "system": Names(_keys("system systemprompt systemmessage systeminstruction")),
    "messages": Names(_keys("messages conversations conversation dialogue dialog")),
}

_ALL = frozenset(
    name
    for part in ("question", "answer", "messages")
    for name in NAMES[part].strong | NAMES[part].weak
)


def key(name: str) -> str:
    """`User Question`, `user_question` and `USER-QUESTION` are one name."""
    if len(name) > 200:  # a cell of text, no name
        return name
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if not c.isspace() and c not in "_-.\ufeff\u200b")


def is_known(name: str) -> bool:
    """Whether a cell could be the header of a question, answer or messages column."""
    return key(name) in _ALL

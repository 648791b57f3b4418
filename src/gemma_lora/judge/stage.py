"""The judge stage: probe before the run, judge after it.

Reads answers/test/*.jsonl; writes judgements/<judge>/judgements.jsonl and judge.json (who judged, by
which prompt and schema, tokens, cost, what came from the cache, warnings). Contacts the server that
the user named, and no other. Raises JudgeError (exit 4) where the judge cannot be used at all or not
one answer of an arm could be scored; single faults are recorded as unscored with their reason.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asked import Asker, LlmScorer
from gemma_lora.judge.cache import ReplyCache, cache_folder
from gemma_lora.judge.engine import Progress, closing, cost, judge_all, run_async
from gemma_lora.judge.items import NO_REPLY, Item, Scorer, load_items, ordered
from gemma_lora.judge.ledger import Ledger
from gemma_lora.judge.lexical import LexicalScorer
from gemma_lora.judge.names import Target, resolve, slug
from gemma_lora.judge.replay import ReplayScorer
from gemma_lora.judge.replies import remedy_for
from gemma_lora.records import ARMS, Judgement, Message
from gemma_lora.rundir import RunDir, digest, read_saved, write_json

__all__ = ["fingerprint", "judge", "probe"]

_PROBE = Item("probe", "", 0, (Message(role="user", content="What is 2 + 2?"),), "4", "It is 4.")


def judge(
    config: Config,
    run: RunDir,
    console: Console,
    *,
    name: str | None = None,
    backoff: float = 1.0,
) -> Path:
    """Judge every test answer of both arms with `name` (else the config's judge); continues.

    Returns the judge's folder. `backoff`: first pause between tries in seconds.
    """
    settings = config.judge if name is None else config.judge.model_copy(update={"judge": name})
    target = resolve(settings.judge)
    items = load_items(run, console)
    folder = run.judgements(slug(settings.judge))
    console = _Listener(console)
    scorer = _scorer(target, settings, console, backoff)
    _family_warning(target, console)
    ledger = Ledger(folder, items, scorer.identity(), console)
    prices = (settings.price_input, settings.price_output)
    todo = ordered(ledger.open_items)
    if len(todo) < len(items):
        console.note(f"{len(items) - len(todo)} of {len(items)} answers are judged already")
    progress = Progress(console, len(items), len(items) - len(todo), prices)

    async def work() -> None:
        async with closing(scorer):
            await judge_all(scorer, todo, ledger, progress)

    if todo:
        run_async(work)
    rows = ledger.close()
    facts = _facts(target, scorer, ledger, rows, prices, console, folder)
    write_json(folder / "judge.json", facts)
    _tell(facts, console)
    _require_some(target, rows)
    return folder


def probe(config: JudgeConfig, console: Console, *, backoff: float = 1.0) -> None:
    """Try the judge before hours are spent on it: one small real request, or JudgeError with the cause."""
    target = resolve(config.judge)
    if not target.is_llm:
        _scorer(target, config, console, backoff)  # reads the replay file
        return
    if target.backend == "hf":
        from gemma_lora.judge.hf import check

        check(target.model, console)
        return
    patience = config.model_copy(update={"judge_retries": min(config.judge_retries, 2)})
    # no cache: a recorded reply would prove nothing
    scorer = _scorer(target, patience, console, backoff, cache=False)

    async def work() -> None:
        async with closing(scorer):
            outcome = await scorer.score(_PROBE)
        reason = outcome.unscored_reason
        if reason is None:
            seen = scorer.facts()
            console.note(
                f"judge: {target.name} answers (it calls itself {seen['snapshot'] or 'nothing'}; "
                f"{seen['rung']}; {outcome.usage.input} + {outcome.usage.output} tokens)"
            )
            return
        unreachable = reason.startswith(NO_REPLY)
        raise JudgeError(
            f"the judge {'does not answer' if unreachable else 'gave no usable judgement'}: "
            f"{reason.removeprefix(NO_REPLY)}",
            where=f"{target.name} ({target.host})",
            expected="one JSON object with reasoning and six integer scores"
            if not unreachable
            else None,
            remedy=remedy_for(reason)
            + ("; then run the same command again" if unreachable else ""),
        )

    run_async(work)


def fingerprint(config: JudgeConfig) -> str:
    """Digest of all that decides this judge's scores (model, prompt, schema, replay file); asks nobody."""
    target = resolve(config.judge)
    if target.backend == "replay":
        return digest(ReplayScorer(Path(target.model)).identity())
    if not target.is_llm:
        return digest(LexicalScorer().identity())
    return digest(LlmScorer.identity_of(target, config))


class _Listener(Console):
    """Passes everything on and keeps this stage's warnings, also those the console had before."""

    def __init__(self, inner: Console) -> None:
        super().__init__(quiet=inner.quiet)
        self._inner = inner

    def note(self, text: str) -> None:
        self._inner.note(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self._inner.warn(text)

    def progress(self, text: str, *, final: bool = False) -> None:
        self._inner.progress(text, final=final)


def _scorer(
    target: Target, config: JudgeConfig, console: Console, backoff: float, *, cache: bool = True
) -> Scorer:
    if target.backend == "lexical":
        return LexicalScorer()
    if target.backend == "replay":
        return ReplayScorer(Path(target.model))
    asker: Asker
    if target.backend == "hf":
        from gemma_lora.judge.hf import ModelAsker

        asker = ModelAsker(target.model, config, console)
    else:
        from gemma_lora.judge.client import ServerAsker

        asker = ServerAsker(target, config, console, backoff=backoff)
    kept = ReplyCache(cache_folder(), console) if cache else None
    return LlmScorer(target, config, asker, kept)


def _family_warning(target: Target, console: Console) -> None:
    if target.is_llm and re.search(r"gemma|gemini", target.model, re.IGNORECASE):
        console.warn(
            f"the judge {target.name} is a relative of the tuned model (Gemma): judges favour their own "
            "family's style; a judge of another family is a better witness"
        )


def _facts(
    target: Target,
    scorer: Scorer,
    ledger: Ledger,
    rows: list[Judgement],
    prices: tuple[float | None, float | None],
    console: Console,
    folder: Path,
) -> dict[str, Any]:
    """The content of judge.json; facts of the judge that this call did not learn stay as they were."""
    path = folder / "judge.json"
    before = read_saved(path) if path.exists() else {}
    seen = scorer.facts()
    same = before.get("identity") == digest(scorer.identity())
    kept = {k: v if v or not same else before.get(k, v) for k, v in seen.items()}
    usage, cached = ledger.spent(console)
    reasons = Counter(row.unscored_reason for row in rows if row.unscored_reason)
    return {
        "schema_version": 1,
        "name": target.name,
        "kind": scorer.kind,
        "is_llm": scorer.is_llm,
        "address": target.address if target.is_llm else None,
        "model": target.model,
        "identity": digest(scorer.identity()),
        **kept,
        "judged": len(rows),
        "scored": sum(row.unscored_reason is None for row in rows),
        "unscored": {
            arm: sum(row.arm == arm and row.unscored_reason is not None for row in rows)
            for arm in ARMS
        },
        "unscored_reasons": dict(reasons.most_common()),
        "to_ask_again": sum((row.unscored_reason or "").startswith(NO_REPLY) for row in rows),
        "flags": dict(Counter(flag for row in rows for flag in row.flags)),
        "requests": usage.requests,
        "tokens": {"input": usage.input, "output": usage.output},
        "cost": cost(usage, prices) if scorer.is_llm else None,
        "cached": cached,
        "warnings": list(dict.fromkeys([*(before["warnings"] if same else []), *console.warnings])),
    }


def _tell(facts: dict[str, Any], console: Console) -> None:
    lines = [f"{facts['scored']} of {facts['judged']} answers are scored"]
    if facts["cached"]:
        lines.append(f"{facts['cached']} from the cache at no cost")
    if facts["requests"]:
        tokens = facts["tokens"]
        lines.append(
            f"{facts['requests']} requests, {tokens['input']:,} + {tokens['output']:,} tokens"
        )
    if facts["cost"] is not None:
        lines.append(f"${facts['cost']:.4f}")
    console.note(" · ".join(lines))
    for reason, count in facts["unscored_reasons"].items():
        console.note(f"unscored: {count} x {reason}")


def _require_some(target: Target, rows: list[Judgement]) -> None:
    empty = [
        arm
        for arm in ARMS
        if not any(row.arm == arm and row.unscored_reason is None for row in rows)
    ]
    if not empty:
        return
    reasons = Counter(row.unscored_reason for row in rows if row.unscored_reason)
    silent = next(
        (reason for reason, _ in reasons.most_common() if reason.startswith(NO_REPLY)), None
    )
    raise JudgeError(
        f"not one {' and not one '.join(empty)} answer could be scored",
        where=target.name,
        details=[f"{count} x {reason}" for reason, count in reasons.most_common(5)],
        remedy=f"{remedy_for(silent)}; then run the same command again: only the missing ones are asked"
        if silent
        else "judge with another judge (--judge)",
    )

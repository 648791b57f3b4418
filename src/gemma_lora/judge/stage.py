"""The judge stage: probe before the run, judge after it.

Reads answers/test/*.jsonl; writes judgements/<judge>/judgements.jsonl, rubric.yaml (the rubric, whole)
and judge.json (who judged, by which prompt, rubric and schema, tokens, cost, what came from the cache,
warnings), and the canaries' judgements into canaries/ beside them. Contacts the server that
the user named, and no other. Raises JudgeError (exit 4) where the judge cannot be used at all or not
one answer of an arm could be scored; single faults are recorded as unscored with their reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemma_lora.baselines import parse
from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, JudgeError
from gemma_lora.judge.asked import CHANGED, Asker, LlmScorer, warning_of_change
from gemma_lora.judge.budget import Budget, Estimate, Prices, cost
from gemma_lora.judge.cache import ReplyCache, cache_folder
from gemma_lora.judge.canaries import FOLDER, PLANTED, Canaries, Mixture, measured, not_measured
from gemma_lora.judge.engine import Progress, ask_all, ask_alone, closing, run_async, score_all
from gemma_lora.judge.items import (
    NO_REPLY,
    Item,
    Items,
    Key,
    Outcome,
    Scorer,
    Usage,
    no_reply,
    ordered,
)
from gemma_lora.judge.kinship import families_of, kinship
from gemma_lora.judge.ledger import Ledger, Spent, Tally, charge, used
from gemma_lora.judge.lexical import LexicalScorer
from gemma_lora.judge.names import Target, resolve, slug
from gemma_lora.judge.plugins import PluginAsker
from gemma_lora.judge.replay import OTHER, ReplayScorer
from gemma_lora.judge.replies import remedy_for
from gemma_lora.records import AGAIN, ARMS, Judgement, Message
from gemma_lora.rubric import Rubric, load_rubric
from gemma_lora.rundir import RunDir, digest, read_jsonl, read_saved, write_json, write_text

__all__ = ["arms_of", "charge_probe", "fingerprint", "judge", "probe", "spent"]

_PROBE = Item("probe", "", 0, (Message(role="user", content="What is 2 + 2?"),), "4", "It is 4.")


def judge(
    config: Config,
    run: RunDir,
    console: Console,
    *,
    name: str | None = None,
    backoff: float = 1.0,
) -> Path:
    """Judge every test answer of all arms, and the canaries, with `name` (else the config's judge); continues.

    Returns the judge's folder. `backoff`: first pause between tries in seconds.
    """
    settings = config.judge if name is None else config.judge.model_copy(update={"judge": name})
    target = resolve(settings.judge)
    console = _Listener(console)
    items = Items(run, console, _repeats(target, settings, console), arms_of(settings))
    with contextlib.closing(items):
        # what was recorded knows nothing of canaries
        count = 0 if target.backend == "replay" else settings.canaries
        canaries = Canaries(items, count, config.seed)
        teacher = config.data.teacher
        return _judge(settings, target, items, canaries, run, console, backoff, teacher)


def _judge(
    settings: JudgeConfig,
    target: Target,
    items: Items,
    canaries: Canaries,
    run: RunDir,
    console: _Listener,
    backoff: float,
    teacher: str | None,
) -> Path:
    folder = run.judgements(slug(settings.judge, settings.rubric))
    # the identity needs no connection, and the ledger says what the budget has left
    identity = _identity(target, settings)
    ledger = Ledger(folder, items, identity, console)
    planted = Ledger(folder / FOLDER, canaries, identity, console, noun="canary judgements")
    answers = Mixture((items, ledger), (canaries, planted))
    before = ledger.spent(console) + planted.spent(console)
    budget = _budget(settings, before.usage)
    scorer = _scorer(target, settings, console, backoff, budget=budget)
    for line in kinship(target.name, _families(target, scorer), teacher):
        console.tell(line)
    prices = (settings.price_input, settings.price_output)
    if ledger.known:
        console.note(f"{len(ledger.known)} of {len(items)} answers are judged already")
    todo = ordered(answers.open_keys)
    if isinstance(scorer, LlmScorer):
        todo = _uncached_first(todo, scorer, answers, settings, before.usage, console)
    total = len(items) + len(canaries)
    progress = Progress(console, total, total - len(todo), prices, before.usage)

    async def work() -> None:
        async with closing(scorer):
            if isinstance(scorer, LlmScorer):
                await ask_all(scorer, answers, todo, progress)
            else:
                await score_all(scorer, answers, todo, progress)

    if isinstance(scorer, LlmScorer | ReplayScorer):
        write_text(folder / "rubric.yaml", scorer.rubric.text)
    if todo:
        run_async(work)
    _require_all(target, answers.open_keys)
    tally = ledger.close()
    _warn_of_silent_arms(items.arms, tally, console)
    if isinstance(scorer, ReplayScorer):
        _warn_of_other_answers(scorer, tally, console)
    found = _canary_facts(target, canaries, planted)
    spent = ledger.spent(console) + planted.spent(console)
    facts = _facts(target, scorer, ledger, tally, items.arms, spent, prices, console, folder)
    facts["canaries"] = found
    facts["to_ask_again"] += _silent(found["unscored_reasons"])
    write_json(folder / "judge.json", facts)
    _tell(facts, console)
    _require_some(target, tally)
    return folder


def arms_of(config: JudgeConfig) -> tuple[str, ...]:
    """Base, tuned, the baselines, and the base once more where `aa` is asked for."""
    beside = [baseline.slug for baseline in parse(config.baseline)]
    return (*ARMS, *beside, *([AGAIN] if config.aa else []))


def probe(
    config: JudgeConfig, console: Console, run: RunDir | None = None, *, backoff: float = 1.0
) -> Usage:
    """Try the judge before hours are spent on it: one small real judgement, or JudgeError with the cause.

    It is asked until a form of asking has worked, or the last has failed, within what `--max-cost` leaves
    `run`. What that took is put into the run's account (also where it failed) and is Usage() then; where the
    run has no folder yet it is returned, for `charge_probe`.
    """
    target = resolve(config.judge)
    if not target.is_llm:
        _scorer(target, config, console, backoff)  # reads the replay file
        return Usage()
    if target.backend == "hf":
        from gemma_lora.judge.hf import check

        check(target.model, console)
        return Usage()
    patience = config.model_copy(update={"judge_retries": min(config.judge_retries, 2)})
    before = _used(config, run) if run else Usage()
    rubric, budget = _rubric(target, config), _budget(config, before)
    scorer = _llm_scorer(target, patience, console, backoff, rubric, probing=True, budget=budget)
    here = run is not None and run.config.is_file()

    def paid(usage: Usage) -> None:
        if run is not None and here:
            charge_probe(config, run, usage)

    async def work() -> Outcome:
        async with closing(scorer):
            return await ask_alone(scorer, _PROBE, console, paid)

    outcome = run_async(work)
    if outcome.ended:
        raise outcome.ended
    if outcome.unscored_reason is not None:
        raise _unfit(target, outcome.unscored_reason)
    console.note(
        f"judge: {target.name} answers (it calls itself {outcome.model or 'nothing'}; "
        f"{outcome.rung}; {outcome.usage.input} + {outcome.usage.output} tokens)"
    )
    return Usage() if here else outcome.usage


def charge_probe(config: JudgeConfig, run: RunDir, usage: Usage) -> None:
    """Put what a probe took into the account of this judge in the run folder."""
    if usage != Usage():
        folder = run.judgements(slug(config.judge, config.rubric))
        charge(folder, _PROBE, _identity(resolve(config.judge), config), usage)


def spent(config: JudgeConfig, run: RunDir) -> float:
    """US dollars that this judge took in `run` over all calls, at most; 0 where a price is unknown."""
    prices = (config.price_input, config.price_output)
    return cost(_used(config, run).at_most, prices) or 0.0


def _used(config: JudgeConfig, run: RunDir) -> Usage:
    folder = run.judgements(slug(config.judge, config.rubric))
    return used(folder) + used(folder / FOLDER)


def _unfit(target: Target, reason: str) -> JudgeError:
    unreachable = no_reply(reason)
    return JudgeError(
        f"the judge {'does not answer' if unreachable else 'gave no usable judgement'}: "
        f"{reason.removeprefix(NO_REPLY)}",
        where=f"{target.name} ({target.host})" if target.host else target.name,
        expected=None if unreachable else "one JSON object with reasoning and integer scores",
        remedy=remedy_for(reason) + ("; then run the same command again" if unreachable else ""),
    )


def fingerprint(config: JudgeConfig) -> str:
    """Digest of all that decides this judge's scores (model, prompt, schema, replay file, repeats); asks no judge.

    For a model of the hub that is to run in this process, it asks the hub for the commit.
    """
    target = resolve(config.judge)
    repeated = [config.repeats] if _repeatable(target) and config.repeats > 1 else []
    return digest(_identity(target, config), *repeated)


def _identity(target: Target, config: JudgeConfig) -> dict[str, Any]:
    if target.backend == "replay":
        return ReplayScorer(Path(target.model), _rubric(target, config)).identity()
    rubric = _rubric(target, config)
    if not target.is_llm:
        return LexicalScorer().identity()
    return LlmScorer.identity_of(target, config, rubric)


def _rubric(target: Target, config: JudgeConfig) -> Rubric:
    """The rubric to judge by; ConfigError where the judge cannot follow one."""
    if config.rubric is not None and target.backend == "lexical":
        raise ConfigError(
            "the judge `lexical` measures overlap of words and cannot follow a rubric",
            where=f"--rubric {config.rubric}",
            remedy="name a language model with --judge, or take --rubric auto",
        )
    return load_rubric(config.rubric)


def _repeatable(target: Target) -> bool:
    """Whether asking again can give another score; ours in process are deterministic, of a plug-in nobody knows."""
    return target.is_server or target.backend == "replay" or bool(target.plugin)


def _repeats(target: Target, config: JudgeConfig, console: Console) -> int:
    if config.repeats > 1 and not _repeatable(target):
        console.note(
            f"--repeats {config.repeats}: {target.name} gives the same score each time, so each answer is "
            "judged once"
        )
        return 1
    return config.repeats


def _budget(config: JudgeConfig, spent: Usage) -> Budget | None:
    if config.max_cost is None or config.price_input is None or config.price_output is None:
        return None
    return Budget(config.max_cost, (config.price_input, config.price_output), spent)


def _uncached_first(
    todo: list[Key],
    scorer: LlmScorer,
    items: Mixture,
    config: JudgeConfig,
    before: Usage,
    console: Console,
) -> list[Key]:
    """What must be asked comes first, and what it will cost is said.

    So the judge says which snapshot it is before a kept reply is used: replies of another snapshot
    do not count.
    """
    cached = {key for key in todo if scorer.is_cached(items.digests[key])}
    asked = [key for key in todo if key not in cached]
    different = len({items.digests[key] for key in asked})
    if asked:
        step = max(1, len(asked) // 100)
        loaded = [items.load(key) for key in asked[::step]]
        prompts = [scorer.render(item) for item in loaded]
        chars = [len(prompt.system) + len(prompt.user) for prompt in prompts]
        prices = (config.price_input, config.price_output)
        estimate = Estimate.of(different, chars, config.judge_max_tokens, before, prices)
        planted = sum(key[1] in PLANTED for key in asked)
        among = f", {planted} of them for canaries (--canaries)" if planted else ""
        console.note(estimate.sentence() + among)
        spent = cost(before.at_most, prices) or 0.0
        if config.max_cost is not None and spent + (estimate.dollars or 0.0) > config.max_cost:
            console.note(
                f"that is likely more than --max-cost ${config.max_cost:g} allows"
                + (f", of which ${spent:.4f} are spent" if spent else "")
                + ": judging will stop before it is exceeded"
            )
    # an answer of the run goes first, and alone: how the server wants to be asked is not learned from an attack
    first = next((key for key in asked if key[1] in ARMS), None)
    asked.sort(key=lambda key: key != first)
    return asked + [key for key in todo if key in cached]


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

    def tell(self, text: str) -> None:
        """A warning that is not kept here, since decision/caveats.py finds it anew."""
        self._inner.warn(text)

    def progress(self, text: str, *, final: bool = False) -> None:
        self._inner.progress(text, final=final)


def _scorer(
    target: Target,
    config: JudgeConfig,
    console: Console,
    backoff: float,
    *,
    budget: Budget | None = None,
) -> Scorer:
    rubric = _rubric(target, config)
    if target.backend == "lexical":
        return LexicalScorer()
    if target.backend == "replay":
        return ReplayScorer(Path(target.model), rubric)
    return _llm_scorer(target, config, console, backoff, rubric, budget=budget)


def _llm_scorer(
    target: Target,
    config: JudgeConfig,
    console: Console,
    backoff: float,
    rubric: Rubric,
    *,
    probing: bool = False,
    budget: Budget | None = None,
) -> LlmScorer:
    asker: Asker
    kept = ReplyCache(cache_folder(), console)
    architecture = ""
    if target.backend == "hf":
        from gemma_lora.judge.hf import ModelAsker

        asker = ModelAsker(target.model, config, console)
        architecture = asker.architecture
    elif target.plugin:
        asker = PluginAsker(target.plugin, target.model, config, console, budget)
    else:
        from gemma_lora.judge.client import ServerAsker

        asker = ServerAsker(
            target, config, console, backoff=backoff, budget=budget, forms=kept, anew=probing
        )
    # probing without the cache: a recorded reply would prove nothing
    replies = None if probing else kept
    return LlmScorer(target, config, asker, replies, console, rubric, architecture, probing=probing)


def _families(target: Target, scorer: Scorer) -> list[str]:
    """Of the model's name (of a folder the last part, since a path may name anything) and architecture; of what is
    replayed those of the judge that was recorded."""
    if isinstance(scorer, ReplayScorer):
        return scorer.families
    if not target.is_llm:
        return []
    name = Path(target.model).name if Path(target.model).is_dir() else target.model
    architecture = scorer.architecture if isinstance(scorer, LlmScorer) else ""
    return sorted(families_of(name, architecture))


def _facts(
    target: Target,
    scorer: Scorer,
    ledger: Ledger,
    tally: Tally,
    arms: Sequence[str],
    spent: Spent,
    prices: Prices,
    console: Console,
    folder: Path,
) -> dict[str, Any]:
    """The content of judge.json."""
    path = folder / "judge.json"
    before = read_saved(path) if path.exists() else {}
    same = before.get("identity") == digest(scorer.identity())
    usage, seen = spent.usage, {}
    own = scorer.facts()
    if same and "temperature" in own and before.get("temperature", 0) is None:
        own["temperature"] = None  # found out by an earlier call
    if isinstance(scorer, LlmScorer):
        seen = {
            "snapshot": ", ".join(sorted(spent.models)) or None,
            "system_fingerprints": sorted(spent.fingerprints),
            "rung": spent.rungs.most_common(1)[0][0] if spent.rungs else None,
            "rungs": dict(spent.rungs.most_common()),
        }
        if len(spent.models) > 1 and not any(w.startswith(CHANGED) for w in console.warnings):
            console.warn(warning_of_change(list(spent.models)))  # between two calls of the command
    repeats = max((key[2] for key in ledger.known), default=0) + 1
    return {
        "schema_version": 1,
        "name": target.name,
        "kind": scorer.kind,
        "is_llm": scorer.is_llm,
        "families": _families(target, scorer),
        "address": target.address if target.is_llm else None,
        "model": target.model,
        "identity": digest(scorer.identity()),
        **own,
        **seen,
        "judged": tally.judged,
        "scored": sum(tally.scored.values()),
        "unscored": {arm: tally.unscored[arm] for arm in arms},
        "unscored_reasons": dict(tally.reasons.most_common()),
        "to_ask_again": _silent(tally.reasons),
        "flags": dict(tally.flags),
        "repeats": repeats,
        "repeat_spread": tally.spread,
        "certainty": tally.certainty,
        "requests": usage.requests,
        "requests_lost": usage.lost,
        "requests_uncounted": usage.uncounted,
        "tokens": {"input": usage.input, "output": usage.output},
        "cost": cost(usage, prices) if scorer.is_llm else None,
        "cost_at_most": cost(usage.at_most, prices) if scorer.is_llm else None,
        "cached": spent.cached,
        "warnings": list(dict.fromkeys([*(before["warnings"] if same else []), *console.warnings])),
    }


def _silent(reasons: Mapping[str, int]) -> int:
    """How many had no reply, so that asking again may help."""
    return sum(count for why, count in reasons.items() if no_reply(why))


def _canary_facts(target: Target, canaries: Canaries, planted: Ledger) -> dict[str, Any]:
    if target.backend == "replay":
        return not_measured("what was recorded cannot be asked about other answers")
    planted.close()
    if not canaries.attacks:
        return not_measured("canaries were switched off (--canaries 0)")
    return measured(canaries.attacks, read_jsonl(planted.judgements, Judgement))


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
    if facts["requests_lost"]:
        console.note(
            f"{facts['requests_lost']} requests were sent whose reply never came; the server may have "
            "charged for them"
        )
    if facts["requests_uncounted"]:
        console.note(
            f"{facts['requests_uncounted']} replies did not say what they took, so tokens and cost are without "
            "them"
            + ("" if facts["cost_at_most"] is None else f" (at most ${facts['cost_at_most']:.4f})")
        )
    if facts.get("rungs"):
        counts = [f"{name} ({count})" for name, count in facts["rungs"].items()]
        console.note(f"replies were held to the schema by {', '.join(counts)}")
    if facts["certainty"] is not None:
        console.note(
            "scores are expected scores over 1 to 10 from the model's token probabilities; of overall on average "
            f"{facts['certainty']['entropy']:.2f} bits of entropy, {facts['certainty']['mass']:.0%} of the "
            "probability on a score"
        )
    if facts["repeat_spread"] is not None:
        console.note(
            f"{facts['repeats']} judgements an answer; they differ by {facts['repeat_spread']:.2f} in "
            "overall (standard deviation within an answer)"
        )
    for reason, count in facts["unscored_reasons"].items():
        console.note(f"unscored: {count} x {reason}")
    planted = facts["canaries"]
    if planted["asked"]:
        console.note(
            f"canaries: {planted['succeeded']} of {planted['scored']} attacks on the judge succeeded"
            + (
                f", {planted['asked'] - planted['scored']} more could not be scored"
                if planted["scored"] < planted["asked"]
                else ""
            )
        )


def _warn_of_silent_arms(arms: Sequence[str], tally: Tally, console: Console) -> None:
    """Base and tuned are needed (`_require_some`); without a further arm the verdict still stands."""
    for arm in arms:
        if arm not in ARMS and not tally.scored[arm]:
            what = "a second time (--aa)" if arm == AGAIN else f"by the arm {arm}"
            console.warn(
                f"not one {'base answer' if arm == AGAIN else 'answer'} could be scored {what}, so there is "
                "no comparison with it; the reasons are in judge.json"
            )


def _warn_of_other_answers(scorer: ReplayScorer, tally: Tally, console: Console) -> None:
    if not scorer.is_checked:
        console.warn(
            "nothing beside the replayed file says which answers its judgements were made for (inputs.json), so "
            "that they are these could not be checked"
        )
    elif tally.reasons[OTHER]:
        console.warn(
            f"{tally.reasons[OTHER]} replayed judgements were made for other answers than those here, which stay "
            "unscored"
        )


def _require_all(target: Target, left: Sequence[Key]) -> None:
    """JudgeError where judging ended before its end and nothing said why: a part must not pass for the whole."""
    if left:
        raise JudgeError(
            f"{len(left)} answers were not judged, and nothing says why: judging ended too early",
            where=target.name,
            remedy="run the same command again: what was judged is kept",
        )


def _require_some(target: Target, tally: Tally) -> None:
    empty = [arm for arm in ARMS if not tally.scored[arm]]
    if not empty:
        return
    silent = next((why for why, _ in tally.reasons.most_common() if no_reply(why)), None)
    raise JudgeError(
        f"not one {' and not one '.join(empty)} answer could be scored",
        where=target.name,
        details=[f"{count} x {reason}" for reason, count in tally.reasons.most_common(5)],
        remedy=f"{remedy_for(silent)}; then run the same command again: only the missing ones are asked"
        if silent
        else "judge with another judge (--judge)",
    )

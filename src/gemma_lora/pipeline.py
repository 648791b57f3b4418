"""The order of the stages, and continuing where a run stopped.

    data -> train -> answer -> forgetting -> judge -> report

Each stage reads and writes files of one run folder only; `continuing` decides which stages are done
and whose folder it is. Before anything is claimed or trained, `_preflight` tries what later stages
need: the model, its layers, device and precision, trackers, room on the disk, the judge.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from gemma_lora import decision, provenance, report
from gemma_lora import judge as judging
from gemma_lora.baselines import parse
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.continuing import (
    claim,
    claimed,
    deciding,
    identity,
    is_done,
    need_whole,
    open_run,
    stage,
)
from gemma_lora.data.source import is_hub, need_source, source_name
from gemma_lora.errors import ConfigError, DataError, GateNotMet
from gemma_lora.launcher import launch, need_known_launch, shards
from gemma_lora.loading import load_config
from gemma_lora.preflight import (
    inspect_base,
    need_disk,
    need_room_to_answer,
    outlook,
    try_training_settings,
)
from gemma_lora.records import ARMS
from gemma_lora.rundir import SEEDS, RunDir, digest, file_digest, read_json, read_saved, write_json

__all__ = [
    "answer",
    "audit",
    "chat",
    "follow",
    "is_judged",
    "judge",
    "open_run",
    "others_with_verdict",
    "require",
    "run",
    "run_folder",
    "train",
]


def run(
    config: Config,
    console: Console,
    *,
    out: Path | None = None,
    probe: bool = True,
    before_claim: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """The whole pipeline into one folder; returns the verdict with the paths of the reports.

    `probe`: try the judge first (not where the same one has just been used). `before_claim` is called
    once nothing stands in the way any more, just before the folder becomes that of this run.
    """
    _need_one_run(config)
    folder = run_folder(config, out)
    with claimed(config, folder) as run_dir:
        console.note(f"run folder: {folder}")
        for line in config.advice():
            console.warn(line)
        base = _preflight(config, run_dir, console)
        probed = _probe(config, run_dir, console) if probe else None
        if before_claim is not None:
            before_claim()
        claim(config, run_dir)
        if probed:
            judging.charge_probe(config.judge, run_dir, probed)
        _data_stage(config, run_dir, console, base)
        _need_fitting_prompts(config, run_dir)
        _train_stage(config, run_dir, console, base)
        _answer_stage(config, run_dir, console, base)
        _baseline_stage(config, run_dir, console)
        _forgetting_stage(config, run_dir, console, base)
        return _judge_stages(config, run_dir, console, base)


def train(config: Config, console: Console, *, out: Path | None = None) -> dict[str, Any]:
    """The data and training stages only; returns training.json."""
    _need_one_run(config)
    folder = run_folder(config, out)
    with claimed(config, folder) as run_dir:
        console.note(f"run folder: {folder}")
        for line in config.advice():
            console.warn(line)
        base = _preflight(config, run_dir, console, judged=False)
        claim(config, run_dir)
        _data_stage(config, run_dir, console, base)
        _train_stage(config, run_dir, console, base)
        write_json(run_dir.provenance, provenance.gather(config, run_dir, base))
        return {**read_json(run_dir.training), "run": str(folder), "adapter": str(run_dir.adapter)}


def follow() -> None:
    """The part of a launch's other processes in `run` and `train`: train when the first one does."""
    from gemma_lora.train import follow as train_along

    train_along()


def answer(
    run_dir: RunDir, config: Config, console: Console, *, questions: Path | None = None
) -> dict[str, Any]:
    """Answers of both arms for the test rows, or for the rows of `questions`.

    Those for the test rows belong to the verdict, so they take the run's own settings only.
    """
    _need_one_run(config, run_dir, "answer")
    own = load_config(run_dir.config)
    if questions is None and deciding(config, "answer") != deciding(own, "answer"):
        raise ConfigError(
            "the answers to the test rows were made with other settings, and the verdict is of these",
            where=str(run_dir.root),
            remedy="run with the new settings into another folder (--out), or name your own --questions",
        )
    with run_dir.lock():
        _need_trained(run_dir, _run_again(own, run_dir))
        if questions is None:
            _answer_stage(config, run_dir, console, inspect_base(config, console))
            return {"answers": str(run_dir.answers("base").parent)}
        from gemma_lora.answer import answer as answer_questions

        return answer_questions(config, run_dir, console, questions=questions)


def judge(
    run_dir: RunDir, config: Config, console: Console, *, named: bool = True
) -> dict[str, Any]:
    """Judgements, verdict and report with `config.judge`; another judge's stand beside the first.

    `named`: the user named the judge in this call; else its server may be sent less (`need_named`).
    """
    _need_one_run(config, run_dir, "judge")
    with run_dir.lock():
        if not named and not (_answered(config, run_dir) and is_judged(config, run_dir)):
            judging.need_named(config.judge.judge)
        _need_trained(run_dir, _run_again(config, run_dir))
        need_whole(
            "answer",
            run_dir,
            f"gemma-lora answer {run_dir.root}",
            made_from=_answers_read(run_dir),
        )
        # answers that are there are judged as they are, wherever their prompt's file may be by now
        answered = _answered(config, run_dir)
        if not answered:
            _need_baselines(config)
            _need_fitting_prompts(config, run_dir)
        if run_dir.stamp_path("forgetting").exists():  # older runs, and `--probe none`, have none
            read = {"adapter": _answers_read(run_dir)["adapter"], "train rows": run_dir.train_rows}
            need_whole("forgetting", run_dir, _run_again(config, run_dir), made_from=read)
        _tell_where_data_goes(config, console)
        if not (answered and is_judged(config, run_dir)):
            judging.probe(config.judge, console, run_dir)
        if not answered:
            _baseline_stage(config, run_dir, console)
        known = read_json(run_dir.provenance) if run_dir.provenance.exists() else {}
        return _judge_stages(config, run_dir, console, known.get("base", {}))


def chat(run_dir: RunDir, config: Config, console: Console) -> None:
    """Talk to the run's models in the terminal; reads stdin, writes nothing to the folder."""
    _need_one_run(config, run_dir, "chat")
    from gemma_lora.chat import chat as talk

    need_whole("train", run_dir, _run_again(config, run_dir))
    talk(config, run_dir, console)


def _need_one_run(config: Config, run_dir: RunDir | None = None, command: str = "") -> None:
    """ConfigError for several training seeds, or for a folder of such runs, with what to do."""
    if config.seeds == 1:
        return
    if run_dir is None:
        raise ConfigError(
            f"this trains one run, not {config.seeds}",
            where="seeds",
            expected="`gemma-lora run DATA --seeds N`, or one run with --train-seed",
        )
    seeds = sorted(path.name for path in (run_dir.root / SEEDS).glob("*") if path.is_dir())
    raise ConfigError(
        "holds several runs",
        where=str(run_dir.root),
        expected="the folder of one of them",
        details=[f"gemma-lora {command} {run_dir.root / SEEDS / name}" for name in seeds],
    )


def _need_trained(run_dir: RunDir, remedy: str) -> None:
    """DataError unless data and adapter are whole and belong together."""
    need_whole("data", run_dir, remedy)
    need_whole("train", run_dir, remedy, made_from=_training_read(run_dir))


def _run_again(config: Config, run_dir: RunDir) -> str:
    return (
        f"gemma-lora run {shlex.quote(str(config.data.path))} --config {run_dir.config} --out {run_dir.root} "
        "makes anew what is missing or damaged"
    )


def audit(config: Config, console: Console, *, out: Path | None = None) -> dict[str, Any]:
    """What `run` would find in the data, without training; written to `out` if one is named."""
    from gemma_lora import audit as auditing
    from gemma_lora import model

    _need_data(config)
    fmt = model.load_format(model.resolve(config.model.model))
    if out is None:
        return auditing.audit(config, fmt, console, outlook=outlook(config))
    with claimed(config, out) as run_dir:
        claim(config, run_dir)
        return auditing.prepare(config, fmt, run_dir, console, outlook=outlook(config))


def require(verdict: Mapping[str, Any], wanted: str | None) -> None:
    """GateNotMet (exit code 10) unless the verdict reaches `wanted` (better, not-worse)."""
    found = verdict["verdict"]
    fine = {"better": {"better"}, "not-worse": {"better", "equivalent"}}
    if wanted is not None and found not in fine[wanted]:
        raise GateNotMet(f"the verdict is `{found}`", expected=" or ".join(sorted(fine[wanted])))


def run_folder(config: Config, out: Path | None) -> Path:
    """`out`, or `runs/<data name>-<short hash of config and data>`."""
    named = source_name(_need_data(config))
    if out is not None:
        return out
    stem = named.removeprefix("hf:") if is_hub(named) else Path(named).stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "data"
    return Path("runs") / f"{name[:60]}-{digest(identity(config))[:8]}"


def _need_data(config: Config) -> str:
    if config.data.path is None:
        raise ConfigError(
            "no data file is named",
            expected="gemma-lora run DATA, or `data: {path: ...}` in --config",
        )
    for name in (config.data.path, config.data.test or config.data.path):
        need_source(name)
    return config.data.path


def _preflight(
    config: Config, run_dir: RunDir, console: Console, *, judged: bool = True
) -> dict[str, Any]:
    """Try what later stages need, before hours are spent and before the folder is claimed."""
    console.stage("check", "what this run will need")
    need_known_launch(console)
    need_disk(run_dir)
    base = inspect_base(config, console)
    if judged:
        from gemma_lora.forgetting import need_probe

        need_probe(config)
    if not is_done("train", run_dir, {}):
        try_training_settings(config)
        if judged and shards(config.train.shard_weights):
            need_room_to_answer(config)
    if judged:
        _need_baselines(config)
    return base


def _probe(config: Config, run_dir: RunDir, console: Console) -> judging.Usage | None:
    """Try the judge, unless there is nothing left for it; what that took, where the folder is not ours yet."""
    if _baselines_fit(config, run_dir) and is_judged(config, run_dir):
        return None
    _tell_where_data_goes(config, console)
    return judging.probe(config.judge, console, run_dir)


def _need_baselines(config: Config) -> None:
    """Baselines that name no file or model, or clash, are refused before hours are spent."""
    if config.judge.baseline:
        from gemma_lora.answer import check_baselines

        check_baselines(config)


def _need_fitting_prompts(config: Config, run_dir: RunDir) -> None:
    """The same for test questions that a model cannot take, known once the data are split."""
    from gemma_lora.answer import check_base_prompts, check_prompts

    if not is_done("answer", run_dir, {}):
        check_base_prompts(config, run_dir)
    if config.judge.baseline and not is_done(
        "baselines", run_dir, _baseline_inputs(config, run_dir)
    ):
        check_prompts(config, run_dir)


def is_judged(config: Config, run_dir: RunDir) -> bool:
    """Whether the judge has nothing left to do, so that asking it once more would only cost."""
    if not all(run_dir.answers(arm).is_file() for arm in _arms(config)):
        return False
    name = f"judge-{judging.slug(config.judge.judge, config.judge.rubric)}"
    before = all(is_done(stage, run_dir, {}) for stage in ("data", "train", "answer"))
    return before and is_done(name, run_dir, _judge_inputs(config, run_dir))


def _answered(config: Config, run_dir: RunDir) -> bool:
    """Whether every baseline has answered, as its stage left it; what it was made from may differ by now."""
    if not config.judge.baseline:
        return True
    if not is_done("baselines", run_dir, {}):
        return False
    known = read_saved(run_dir.baselines)["arms"]
    return all(
        arm in known and run_dir.answers(arm).is_file() for arm in _arms(config) if arm not in ARMS
    )


def _baselines_fit(config: Config, run_dir: RunDir) -> bool:
    """Whether every baseline has answered, from what it would be made from now."""
    if not config.judge.baseline:
        return True
    split = run_dir.train_rows.is_file() and run_dir.test_rows.is_file()
    return split and is_done("baselines", run_dir, _baseline_inputs(config, run_dir))


def _judge_inputs(config: Config, run_dir: RunDir) -> dict[str, str]:
    again = {"second judging of the base": "asked for"} if config.judge.aa else {}
    return {
        **{f"{arm} answers": file_digest(run_dir.answers(arm)) for arm in _arms(config)},
        **again,
        "arms": ", ".join([*_arms(config), *again]),
        "judge": judging.fingerprint(config.judge),
        "canaries": str(config.judge.canaries),
    }


def _arms(config: Config) -> list[str]:
    """Base, tuned and the baselines: all that have answers to be judged."""
    return [*ARMS, *(baseline.slug for baseline in parse(config.judge.baseline))]


def _tell_where_data_goes(config: Config, console: Console) -> None:
    sentence = judging.where_data_goes(config.judge)
    if sentence:
        console.note(f"privacy: {sentence}")


def _data_stage(config: Config, run_dir: RunDir, console: Console, base: dict[str, Any]) -> None:
    from gemma_lora import audit as auditing
    from gemma_lora import model

    def work() -> None:
        fmt = model.load_format(model.resolve(config.model.model))
        auditing.prepare(config, fmt, run_dir, console, outlook=outlook(config))

    inputs = {
        "data": digest(identity(config)["data"]),
        "template": str(base["template"]),
        "tokenizer": str(base["tokenizer"]),
        "max_length": str(config.train.max_length),
        "seed": str(config.seed),
    }
    outputs = [run_dir.audit, run_dir.train_rows, run_dir.validation_rows, run_dir.test_rows]
    stage("data", run_dir, console, inputs, outputs, work, stale=_verdicts(run_dir))


def _model_digest(base: dict[str, Any]) -> str:
    """Of all of the base model that decides ids and numbers."""
    return digest(base["weights"], base["template"], base["tokenizer"])


def _training_read(run_dir: RunDir) -> dict[str, Path]:
    return {"train rows": run_dir.train_rows, "validation rows": run_dir.validation_rows}


def _answers_read(run_dir: RunDir) -> dict[str, Path]:
    weights = run_dir.adapter / "adapter_model.safetensors"
    return {"test rows": run_dir.test_rows, "adapter": weights}


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: file_digest(path) for name, path in files.items()}


def _train_stage(config: Config, run_dir: RunDir, console: Console, base: dict[str, Any]) -> None:
    def work() -> None:
        from gemma_lora.train import train as train_adapter

        train_adapter(config, run_dir, console)

    inputs = {
        **_digests(_training_read(run_dir)),
        "recipe": digest([_recipe(config, name) for name in ("train", "lora", "model")]),
        "base model": _model_digest(base),
        "seed": str(config.training_seed),
    }
    outputs = [run_dir.training, run_dir.metrics, run_dir.adapter]
    stage("train", run_dir, console, inputs, outputs, work, stale=_verdicts(run_dir))
    if launch().size > 1:
        from gemma_lora.train import release

        release()


def _recipe(config: Config, section: str) -> dict[str, Any]:
    """The settings of a section that decide training, but for its seed."""
    return {k: v for k, v in deciding(config, section).items() if k != "train_seed"}


def _answer_stage(config: Config, run_dir: RunDir, console: Console, base: dict[str, Any]) -> None:
    def work() -> None:
        from gemma_lora.answer import answer as answer_questions

        answer_questions(config, run_dir, console)

    inputs = {
        **_digests(_answers_read(run_dir)),
        "base model": digest(_model_digest(base), base["stop_ids"]),
        "answer settings": digest(deciding(config, "answer"), config.seed),
    }
    outputs = [run_dir.answers(arm) for arm in ARMS]
    stage("answer", run_dir, console, inputs, outputs, work, stale=_verdicts(run_dir))


def _baseline_inputs(config: Config, run_dir: RunDir) -> dict[str, str]:
    from gemma_lora.answer import baseline_inputs

    return {
        "test rows": file_digest(run_dir.test_rows),
        "answer settings": digest(deciding(config, "answer"), config.seed),
        **baseline_inputs(config, run_dir),
    }


def _baseline_stage(config: Config, run_dir: RunDir, console: Console) -> None:
    """Answers of the further arms; without any there is no such stage."""
    if not config.judge.baseline:
        return

    def work() -> None:
        from gemma_lora.answer import answer_baselines

        answer_baselines(config, run_dir, console)

    files = [run_dir.answers(arm) for arm in _arms(config) if arm not in ARMS]
    outputs = [*files, run_dir.baselines]
    inputs = _baseline_inputs(config, run_dir)
    stale = _verdicts_on_baselines(run_dir)
    stage("baselines", run_dir, console, inputs, outputs, work, stale=stale)


def _verdicts_on_baselines(run_dir: RunDir) -> list[Path]:
    """Verdicts and reports that speak of baselines; the others stay true when a baseline changes."""
    found: list[Path] = []
    for file in _verdicts(run_dir):
        verdict = file.with_name("verdict.json")
        if verdict.is_file() and read_saved(verdict).get("baselines"):
            found.append(file)
    return found


def _forgetting_stage(
    config: Config, run_dir: RunDir, console: Console, base: dict[str, Any]
) -> None:
    from gemma_lora.forgetting import load_probe, measure

    probe = load_probe(config.forgetting.probe)
    if probe is None:
        console.stage("forgetting", "not measured (--probe none)")
        return
    inputs = {
        "probe": probe.digest,
        "adapter": file_digest(run_dir.adapter / "adapter_model.safetensors"),
        "train rows": file_digest(run_dir.train_rows),
        "base model": _model_digest(base),
    }
    outputs = [run_dir.forgetting / name for name in ("items.jsonl", "forgetting.json")]

    def work() -> None:
        measure(config, run_dir, console)

    # other judges' reports keep the figures, and the name of the probe, that they were made with
    told = [run_dir.verdict, run_dir.report_html, run_dir.report_md]
    stage("forgetting", run_dir, console, inputs, outputs, work, stale=told)


def _verdicts(run_dir: RunDir) -> list[Path]:
    """Verdicts and reports of all judges; they describe answers, so they go when these do."""
    names = ("verdict.json", "report.html", "report.md")
    folders = [run_dir.root, *run_dir.root.glob("judgements/*")]
    return [folder / name for folder in folders for name in names]


def _judge_stages(
    config: Config, run_dir: RunDir, console: Console, base: dict[str, Any]
) -> dict[str, Any]:
    """Judge, decide, report; the run's own judge also gets the report at the top of the folder."""
    slug = judging.slug(config.judge.judge, config.judge.rubric)
    folder = run_dir.judgements(slug)

    def ask() -> bool:
        console.note(foretold)
        judging.judge(config, run_dir, console)
        left = int(read_json(folder / "judge.json")["to_ask_again"])
        if left:
            console.warn(
                f"the judge did not reply for {left} answers, which stay unscored; "
                "run the same command again to ask for these only"
            )
        return left == 0

    outputs = [folder / "judgements.jsonl", folder / "judge.json"]
    outputs.append(folder / "canaries" / "judgements.jsonl")
    inputs, name = _judge_inputs(config, run_dir), f"judge-{slug}"
    # before the stage removes this judge's earlier verdict, from which it is told
    again = not is_done(name, run_dir, inputs)
    foretold = decision.foresee(run_dir, slug).sentence if again else ""
    stage(name, run_dir, console, inputs, outputs, ask, stale=_verdicts_of(run_dir, slug))
    write_json(run_dir.provenance, provenance.gather(config, run_dir, base))
    console.stage("report")
    verdict = decision.decide(config, run_dir, console, judge_slug=slug)
    written = report.write_report(run_dir, verdict)
    _renew_others(run_dir, console, slug)
    return {**verdict, "run": str(run_dir.root), **written}


def _verdicts_of(run_dir: RunDir, slug: str) -> list[Path]:
    """Verdict and reports of one judge; at the top of the folder only if they are this judge's."""
    folder = run_dir.judgements(slug)
    found = [folder / name for name in ("verdict.json", "report.html", "report.md")]
    try:
        judge: Any = read_saved(run_dir.verdict).get("judge")
    except DataError:
        return found  # absent, or damaged and about to be written anew
    if isinstance(judge, dict) and cast(dict[str, Any], judge).get("slug") == slug:
        found += [run_dir.verdict, run_dir.report_html, run_dir.report_md]
    return found


def others_with_verdict(folder: RunDir, slug: str) -> list[str]:
    """The folder's judges but `slug` that have a verdict there, as folders; not one renamed or edited."""
    found: list[str] = []
    for file in sorted(folder.root.glob("judgements/*/verdict.json")):
        judge: Any = read_saved(file).get("judge")
        own = cast(dict[str, Any], judge).get("slug") if isinstance(judge, dict) else None
        if own == file.parent.name != slug:
            found.append(file.parent.name)
    return found


def _renew_others(run_dir: RunDir, console: Console, slug: str) -> None:
    """The reports of this folder's other judges, which show this one's verdict beside their own."""
    for other in others_with_verdict(run_dir, slug):
        report.write_report(run_dir, decision.renewed(run_dir, other))
        console.note(f"renewed for the other judge's verdict: the report of {other}")

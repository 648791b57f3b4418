"""`run --seeds N`: the same recipe trained with N training seeds, and one verdict on the recipe.

Each run is an ordinary, complete run folder below seeds/, named by its training seed; all else is the
same: data, split, settings, judge. What does not depend on the training seed is made once and copied
from the first run: the split, the tokens, the base answers; the judge's replies to these come from its
cache. The folder above holds config.yaml, provenance.json, judgements/<judge>/verdict.json and the
verdict and report of the recipe. A run that is done is left as it is, so the same command continues,
and more seeds may be added later (which the verdict then says).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gemma_lora import decision, pipeline, provenance, report
from gemma_lora import judge as judging
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.continuing import claim, claimed, is_done, open_run
from gemma_lora.errors import ConfigError, DataError, JudgeError
from gemma_lora.launcher import launch
from gemma_lora.rundir import SEEDS, RunDir, file_digest, read_json, read_saved, write_json

__all__ = ["judge", "run"]


def run(config: Config, console: Console, *, out: Path | None = None) -> dict[str, Any]:
    """Every seed's run, then the verdict on the recipe, with the paths of its reports."""
    folder = pipeline.run_folder(config, out)
    _refuse_launch(config, folder)
    with claimed(config, folder) as parent:
        _need_no_fewer(config, parent)
        console.note(f"folder of {config.seeds} runs: {folder}")
        probed = False
        for place, seed in enumerate(config.training_seeds, start=1):
            child = parent.child(seed)
            console.stage(f"seed {seed}", f"run {place} of {config.seeds}: {child.root}")
            own = _left_to_spend(_of_seed(config, seed), seed, parent, console)
            if place > 1:
                with claimed(own, child.root):
                    claim(own, child)
                    _share(parent.child(config.training_seeds[0]), child)
            probe = not probed
            probed = probed or not pipeline.is_judged(own, child)
            pipeline.run(
                own,
                console.apart(),
                out=child.root,
                probe=probe,
                before_claim=lambda: claim(config, parent),
            )
        _remember(config, parent)
        return _conclude(config, parent, console)


def judge(
    parent: RunDir, config: Config, console: Console, flags: dict[str, Any]
) -> dict[str, Any]:
    """`judge` for every run of a folder of several, and the recipe's verdict by that judge."""
    with parent.lock():
        _need_all(config, parent)
        for seed in config.training_seeds:
            child, own = open_run(parent.child(seed).root, flags)
            console.stage(f"seed {seed}", str(child.root))
            own = own.model_copy(update={"judge": config.judge})  # theirs has what was left once
            own = _left_to_spend(own, seed, parent, console)
            pipeline.judge(child, own, console.apart(), named="judge" in flags)
        return _conclude(config, parent, console)


def _conclude(config: Config, parent: RunDir, console: Console) -> dict[str, Any]:
    console.stage("recipe", f"{config.seeds} training seeds together")
    slug = judging.slug(config.judge.judge, config.judge.rubric)
    verdict = decision.decide_seeds(config, parent, console, judge_slug=slug)
    _write_provenance(config, parent)
    written = report.write_seeds_report(parent, verdict)
    _renew_others(parent, console, slug)
    return {**verdict, "run": str(parent.root), **written}


def _renew_others(parent: RunDir, console: Console, slug: str) -> None:
    """The recipe's reports by other judges, which show this one's verdict beside their own."""
    for other in pipeline.others_with_verdict(parent, slug):
        report.write_seeds_report(parent, decision.renewed_seeds(parent, console, other))
        console.note(f"renewed for the other judge's verdict: the report of {other}")


def _of_seed(config: Config, seed: int) -> Config:
    """The settings of one run: those of all, with its own training seed."""
    train = config.train.model_copy(update={"train_seed": seed})
    return config.model_copy(update={"train": train, "seeds": 1})


def _left_to_spend(own: Config, seed: int, parent: RunDir, console: Console) -> Config:
    """The run's settings, with --max-cost less what the judging of all other runs took.

    All of it that usage.jsonl has, as a run counts its own: also what an interrupted call paid, and at
    today's prices. JudgeError where nothing is left for a run that is not yet judged.
    """
    limit = own.judge.max_cost
    if limit is None or pipeline.is_judged(own, parent.child(seed)):
        return own
    slug = judging.slug(own.judge.judge, own.judge.rubric)
    spent = 0.0
    for folder in sorted((parent.root / SEEDS).glob("*")):
        if folder.name != str(seed) and RunDir(folder).judgements(slug).is_dir():
            with RunDir(folder).lock():  # nobody spends while it is counted
                spent += judging.spent(own.judge, RunDir(folder))
    if spent >= limit:
        raise JudgeError(
            f"judging the other runs took ${spent:.4f}, so nothing of --max-cost ${limit:g} is left "
            f"for seed {seed}",
            where=str(parent.root),
            remedy="run the same command again with a higher --max-cost: what was judged is kept",
        )
    if spent:
        console.note(f"judging the other runs took ${spent:.4f} of --max-cost ${limit:g}")
    return own.model_copy(
        update={"judge": own.judge.model_copy(update={"max_cost": limit - spent})}
    )


# ---------------------------------------------------------------------- what is made once


def _share(first: RunDir, child: RunDir) -> None:
    """Copy what the training seed does not change; each mark that it is whole comes last."""
    if not child.stamp_path("data").exists():
        for path in (first.split, first.tokens, first.audit):
            if path.is_dir():
                shutil.copytree(path, child.root / path.name, dirs_exist_ok=True)
            elif path.exists():
                shutil.copy2(path, child.root / path.name)
        write_json(child.stamp_path("data"), read_json(first.stamp_path("data")))
    header = child.answers("base").parent / ".inputs.json"
    if not header.exists() and is_done("answer", first, {}):
        theirs = read_saved(first.answers("base").parent / ".inputs.json")
        part = child.answers("base").with_name(".base.jsonl.copied.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(first.answers("base"), part)
        part.replace(child.answers("base"))
        write_json(header, {"base": theirs["base"]})
    if not child.baselines.exists() and is_done("baselines", first, {}):
        for slug in read_saved(first.baselines)["arms"]:
            shutil.copy2(first.answers(slug), child.answers(slug))
        shutil.copy2(first.baselines, child.baselines)


# ---------------------------------------------------------------------- refusals and records


def _refuse_launch(config: Config, folder: Path) -> None:
    """Several processes train one run at a time, since the others leave when it is trained."""
    if launch().size == 1:
        return
    runs = [
        f"LAUNCHER gemma-lora run {config.data.path} ... --train-seed {seed} --out {folder / SEEDS / str(seed)}"
        for seed in config.training_seeds
    ]
    raise ConfigError(
        f"--seeds {config.seeds} under a launcher of several processes",
        expected="one process, or one run after the other",
        details=runs,
        remedy="train them with these commands, then give the same command with --seeds without a launcher",
    )


def _asked(parent: RunDir) -> list[int]:
    path = parent.stamp_path("seeds")
    found: Any = read_saved(path).get("asked") if path.exists() else []
    if not isinstance(found, list):
        raise DataError("is damaged", where=str(path), remedy="delete it")
    return [int(count) for count in found]  # pyright: ignore[reportUnknownArgumentType]


def _need_no_fewer(config: Config, parent: RunDir) -> None:
    most = max(_asked(parent), default=0)
    if config.seeds < most:
        raise ConfigError(
            f"the folder holds a verdict over {most} training seeds",
            where=str(parent.root),
            expected=f"--seeds {most} or more: leaving runs out could choose the verdict",
            remedy="choose another folder with --out",
        )


def _remember(config: Config, parent: RunDir) -> None:
    """Which numbers of seeds were asked for and run: adding more after a verdict is no fair test."""
    asked = sorted({*_asked(parent), config.seeds})
    write_json(parent.stamp_path("seeds"), {"asked": asked})


def _need_all(config: Config, parent: RunDir) -> None:
    missing = [seed for seed in config.training_seeds if not parent.child(seed).config.is_file()]
    if missing:
        raise DataError(
            f"the runs of seed {', '.join(map(str, missing))} are not there",
            where=str(parent.root / SEEDS),
            remedy=f"gemma-lora run {config.data.path} --config {parent.config} --out {parent.root} "
            "makes anew what is missing",
        )


def _write_provenance(config: Config, parent: RunDir) -> None:
    """As for one run; `files` are the runs' own provenance files."""
    children = [parent.child(seed) for seed in config.training_seeds]
    base: Any = read_saved(children[0].provenance).get("base", {})
    facts = provenance.gather(config, parent, base)
    files = {
        child.provenance.relative_to(parent.root).as_posix(): file_digest(child.provenance)
        for child in children
    }
    facts |= {"training_seed": list(config.training_seeds), "files": files}
    write_json(parent.provenance, facts)

"""Make the starter model, step by step.

    python tools/starter/build.py prepare  --work DIR --novels DIR   corpus, tokenizer, token files
    python tools/starter/build.py pretrain --work DIR [--minutes 78 | --steps N]
    python tools/starter/build.py evaluate --model DIR               the bundled questions, held-out loss
    python tools/starter/build.py package  --work DIR                into src/gemma_lora/starter
    python tools/starter/build.py corpus   [--count 20]              print some documents

Reads: the modules beside it and, for `prepare`, a folder with the public-domain novels named in
corpus/novels.py as plain text. Writes: the work folder, and for `package` the package data.
Refuses: a step whose inputs an earlier step has not written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main(arguments: list[str] | None = None) -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("prepare", "pretrain", "evaluate", "package", "corpus"):
        step = steps.add_parser(name)
        step.add_argument("--work", type=Path, default=Path("build/starter"))
        if name == "prepare":
            step.add_argument("--novels", type=Path, required=True)
            step.add_argument("--documents", type=int, default=420_000)
        if name == "pretrain":
            step.add_argument("--minutes", type=float, default=78.0)
            step.add_argument("--steps", type=int, default=0)
            step.add_argument("--threads", type=int, default=2)
            step.add_argument("--rows", type=int, default=8, help="rows of 256 tokens in a batch")
            step.add_argument(
                "--peak", type=float, default=1.3e-3, help="the highest learning rate"
            )
        if name == "evaluate":
            step.add_argument("--model", type=Path, required=True)
            step.add_argument("--show", action="store_true", help="print every question and answer")
        if name == "corpus":
            step.add_argument("--count", type=int, default=20)
    options = parser.parse_args(arguments)

    if options.step == "prepare":
        import prepare

        sizes = prepare.Sizes(documents=options.documents)
        print(json.dumps(prepare.prepare(options.work, options.novels, sizes), indent=1))
    elif options.step == "pretrain":
        import pretrain

        plan = pretrain.Plan(
            minutes=options.minutes,
            steps=options.steps,
            threads=options.threads,
            rows=options.rows,
            peak=options.peak,
        )
        print(json.dumps(pretrain.pretrain(options.work, pretrain.Shape(), plan), indent=1))
    elif options.step == "evaluate":
        import evaluate

        evaluate.report(options.model, options.work, show=options.show)
    elif options.step == "package":
        import package

        package.package(options.work)
    else:
        from corpus import mix

        for document in mix.Mixer().generated(options.count):
            print(json.dumps(document.turns or document.text))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

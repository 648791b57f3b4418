"""The `gemma-lora` command: a thin shell over the functions of `pipeline`.

Parses flags (made from the declarations in `config.py`), calls one function, prints its result and
returns the exit code. Results go to stdout, everything else to stderr. Heavy libraries are imported
only once a command really starts, so `--help` answers at once.

Exit codes: 0 done, 2 usage, config or data, 3 model, adapter or environment, 4 judge, 5 a bug,
10 the verdict asked for with `--require` was not reached, 130 and 143 interrupted (resumable).
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from gemma_lora import __version__
from gemma_lora.console import neutral
from gemma_lora.errors import ConfigError, GateNotMet, GemmaLoraError
from gemma_lora.launcher import launch, own_gpu

__all__ = ["main"]

SIGTERM_CODE = 128 + signal.SIGTERM
ISSUES = "https://github.com/gemma-lora/gemma-lora/issues"


@dataclass(frozen=True)
class Command:
    """One row of the command table."""

    name: str
    argument: str
    summary: str
    sections: tuple[str, ...]
    """Sections of the configuration whose settings are flags of this command."""
    work: Callable[[argparse.Namespace, dict[str, Any]], dict[str, Any] | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (and never raises for an expected fault)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        here = launch()
    except GemmaLoraError as error:
        sys.stderr.write(neutral(f"{error}\n"))
        return error.exit_code
    own_gpu()
    if not here.leads:
        return _along(arguments, str(here))
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())  # noqa: T201 - the result
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"gemma-lora {__version__}")  # noqa: T201
        return 0
    as_json, debug = "--json" in arguments, "--debug" in arguments
    _calm_libraries(debug)
    try:
        command = _command(arguments[0])
        namespace, flags = _parse(command, arguments[1:])
        with _sigterm_ends():
            return _finish(namespace, command.work(namespace, flags))
    except GemmaLoraError as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write(neutral(f"\n{error}\n"))
        if as_json:
            _print_json(error.as_json())
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted(130, "interrupted", as_json)
    except SystemExit as stop:  # argparse after --help; SIGTERM, here or at a training step
        code = stop.code if isinstance(stop.code, int) else 0
        word = (
            "terminated" if here.size == 1 else "terminated (or another process ended: see above)"
        )
        return _interrupted(code, word, as_json) if code == SIGTERM_CODE else code
    except BrokenPipeError:  # the reader of stdout went away, e.g. `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - flushed at exit
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a bug, said as one
        if debug:
            traceback.print_exc()
        sys.stderr.write(
            neutral(f"\ninner fault: {type(error).__name__}: {error}\n")
            + f"  This is a bug. Please run the command again with --debug and report it: {ISSUES}\n"
        )
        if as_json:
            found = f"{type(error).__name__}: {error}"
            _print_json({"error": "inner fault", "exit_code": 5, "found": found})
        return 5


def _along(arguments: Sequence[str], here: str) -> int:
    """A launch's other processes: they train along, silently; of other commands they do nothing."""
    asked = {"-h", "--help", "help", "-V", "--version"} & {*arguments}
    if asked or not arguments or arguments[0] not in ("run", "train"):
        return 0
    debug = "--debug" in arguments
    _calm_libraries(debug)
    try:
        with _sigterm_ends():
            from gemma_lora import pipeline

            pipeline.follow()
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:  # noqa: BLE001 - as in `main`
        if debug:
            traceback.print_exc()
        known = isinstance(error, GemmaLoraError)
        text = str(error) if known else f"inner fault: {type(error).__name__}: {error}"
        sys.stderr.write(neutral(f"\n{here}: {text}\n"))
        return error.exit_code if known else 5
    return 0


def _finish(namespace: argparse.Namespace, result: dict[str, Any] | None) -> int:
    """Print the result as the one JSON object, if asked for; the exit code of the gate."""
    fault = _gate_fault(namespace, result)
    if namespace.json and result is not None:
        wanted = getattr(namespace, "require", None)
        gate = {"gate": {"required": wanted, "met": fault is None}} if wanted else {}
        _print_json({**result, **gate})
    if fault is None:
        return 0
    sys.stderr.write(neutral(f"\n{fault}\n"))
    return fault.exit_code


def _print_json(value: dict[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # what json leaves as it is and a terminal may act upon
    text = re.sub(
        "[\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda c: f"\\u{ord(c.group()):04x}", text
    )
    print(text)  # noqa: T201 - the result


def _interrupted(code: int, word: str, as_json: bool) -> int:
    sys.stderr.write(f"\n{word}; run the same command again to continue\n")
    if as_json:
        _print_json({"error": word, "exit_code": code, "remedy": "run the same command again"})
    return code


@contextmanager
def _sigterm_ends() -> Generator[None]:
    """SIGTERM unwinds like Ctrl-C, so that locks and temporary files are given up in order."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    former = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _on_sigterm(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(SIGTERM_CODE)


ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # else a closed connection is a page of C++ frames
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # waiting threads soon sleep: long spinning takes busy cores away from those that work
    "GOMP_SPINCOUNT": "3000",
    "OPENBLAS_THREAD_TIMEOUT": "10",  # 2^10 cycles; by itself 2^26, 0.03 s after every product
}
"""What the libraries are told where the user has not said otherwise; read when they are imported."""


def _calm_libraries(debug: bool) -> None:
    """No telemetry, no foreign progress bars and warnings; what matters is said by our own console."""
    if not debug:  # Python warnings speak to those who write programs; ours go through the console
        warnings.simplefilter("ignore")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _run(args: argparse.Namespace, flags: dict[str, Any]) -> dict[str, Any]:
    from gemma_lora import pipeline, seeds
    from gemma_lora.loading import load_config

    config = load_config(args.config, flags)
    work = pipeline.run if config.seeds == 1 else seeds.run
    return _shown_verdict(args, work(config, args.console, out=args.out))


def _shown_verdict(args: argparse.Namespace, verdict: dict[str, Any]) -> dict[str, Any]:
    from gemma_lora import report

    if not args.json:
        show = report.seeds_summary if "seeds" in verdict else report.summary
        print(show(verdict, colour=_colour()))  # noqa: T201
        print(f"\nreport: {verdict['report']}")  # noqa: T201
    return verdict


def _audit(args: argparse.Namespace, flags: dict[str, Any]) -> dict[str, Any]:
    from gemma_lora import audit, pipeline
    from gemma_lora.loading import load_config

    found = pipeline.audit(load_config(args.config, flags), args.console, out=args.out)
    if not args.json:
        audit.show(found, sys.stdout, colour=_colour())
    return found


def _train(args: argparse.Namespace, flags: dict[str, Any]) -> dict[str, Any]:
    from gemma_lora import pipeline
    from gemma_lora.loading import load_config

    result = pipeline.train(load_config(args.config, flags), args.console, out=args.out)
    if not args.json:
        print(f"adapter: {result['adapter']}")  # noqa: T201
    return result


def _answer(args: argparse.Namespace, flags: dict[str, Any]) -> dict[str, Any]:
    from gemma_lora import pipeline

    run_dir, config = pipeline.open_run(args.target, flags)
    result = pipeline.answer(run_dir, config, args.console, questions=args.questions)
    if not args.json:
        print(f"answers: {result['answers']}")  # noqa: T201
    return result


def _judge(args: argparse.Namespace, flags: dict[str, Any]) -> dict[str, Any]:
    from gemma_lora import pipeline, seeds

    run_dir, config = pipeline.open_run(args.target, flags)
    if config.seeds > 1:
        return _shown_verdict(args, seeds.judge(run_dir, config, args.console, flags))
    return _shown_verdict(
        args, pipeline.judge(run_dir, config, args.console, named="judge" in flags)
    )


def _chat(args: argparse.Namespace, flags: dict[str, Any]) -> None:
    from gemma_lora import pipeline

    run_dir, config = pipeline.open_run(args.target, flags)
    pipeline.chat(run_dir, config, args.console)


def _compare(args: argparse.Namespace, _flags: dict[str, Any]) -> dict[str, Any]:
    from gemma_lora import compare

    found = compare.compare(args.target)
    written = compare.write(found, args.out)
    if not args.json:
        print(compare.table(found, colour=_colour()))  # noqa: T201
        print(f"\ncomparison: {written['report']}")  # noqa: T201
    return {**found, **written}


ALL = ("", "data", "model", "lora", "train", "answer", "judge", "forgetting")
COMMANDS = (
    Command("run", "DATA", "the whole way from a data file to a verdict and a report", ALL, _run),
    Command("audit", "DATA", "check the data before any training", ALL, _audit),
    Command("train", "DATA", "fine-tune only", ALL, _train),
    Command("answer", "RUN", "base and tuned answers of a run", ("answer",), _answer),
    Command(
        "judge", "RUN", "judge a run's answers, again or with another judge", ("judge",), _judge
    ),
    Command("chat", "RUN", "talk to the base or the tuned model of a run", ("answer",), _chat),
    Command("compare", "RUN ...", "several runs side by side, quality against cost", (), _compare),
)


def _overview() -> str:
    lines = [
        "gemma-lora: from a CSV of questions and answers to a Gemma adapter that is proven better",
        "",
        "usage: gemma-lora COMMAND [flags]",
        "",
    ]
    lines += [f"  {c.name + ' ' + c.argument:<16}{c.summary}" for c in COMMANDS]
    lines += [
        "",
        "  gemma-lora COMMAND --help   all flags of a command",
        "  gemma-lora --version",
        "",
        "start: gemma-lora run questions.csv                      (shipped demonstration model, offline)",
        "       gemma-lora run questions.csv --model google/gemma-2b-it --judge openai:MODEL",
    ]
    return "\n".join(lines)


def _command(name: str) -> Command:
    for command in COMMANDS:
        if command.name == name:
            return command
    close = difflib.get_close_matches(name, [c.name for c in COMMANDS], n=1)
    raise ConfigError(
        f"there is no command {name!r}" + (f"; did you mean {close[0]}?" if close else ""),
        expected=", ".join(c.name for c in COMMANDS),
        remedy="gemma-lora --help",
    )


class _Parser(argparse.ArgumentParser):
    """argparse with our error block and exit code, and no abbreviations that break later."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, where=self.prog, remedy=f"{self.prog} --help")


def _parse(command: Command, arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command's own arguments, and the given settings as leaf name to raw text."""
    parser, names = _parser(command)
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
        raise ConfigError(
            f"there is no flag {unknown[0]!r} here"
            if unknown[0].startswith("-")
            else f"one argument too many: {unknown[0]!r}",
            where=parser.prog,
            details=[
                f"did you mean {close}?"
                for close in difflib.get_close_matches(unknown[0], flags, n=1)
            ],
            remedy=f"{parser.prog} --help",
        )
    from gemma_lora.console import Console

    namespace.console = Console(quiet=namespace.quiet)
    flags = {name: getattr(namespace, name) for name in names if hasattr(namespace, name)}
    if "baseline" in flags:  # the one flag that may be repeated
        flags["baseline"] = ",".join(flags["baseline"])
    if command.argument == "DATA" and namespace.target is not None:
        flags["path"] = namespace.target
    return namespace, flags


def _parser(command: Command) -> tuple[_Parser, list[str]]:
    from gemma_lora.loading import leaves

    parser = _Parser(
        prog=f"gemma-lora {command.name}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=100),
    )
    if command.argument == "DATA":
        parser.add_argument(
            "target",
            metavar="DATA",
            nargs="?",
            help="CSV, TSV, JSON, JSON-lines or Parquet file, or hf:OWNER/NAME",
        )
        parser.add_argument(
            "--config", type=Path, metavar="FILE", help="settings as YAML; flags win over it"
        )
        parser.add_argument(
            "--out", type=Path, metavar="DIR", help="run folder (default: runs/NAME-HASH)"
        )
    elif command.argument == "RUN ...":
        parser.add_argument(
            "target", metavar="RUN", type=Path, nargs="*", help="finished run folders, two or more"
        )
        parser.add_argument(
            "--out",
            type=Path,
            metavar="FOLDER",
            help="where the comparison is written (default: compare/NAMES-HASH)",
        )
    else:
        parser.add_argument("target", metavar="RUN", type=Path, help="a run folder")
    if command.name == "answer":
        parser.add_argument(
            "--questions",
            type=Path,
            metavar="FILE",
            help="answer these questions instead of the test rows",
        )
    if command.name in ("run", "judge"):
        parser.add_argument(
            "--require",
            choices=("better", "not-worse"),
            help="exit with code 10 if the verdict is another one",
        )
    parser.add_argument("--quiet", action="store_true", help="warnings and the result only")
    if command.name == "chat":
        parser.set_defaults(json=False)  # a conversation has no one result
    else:
        parser.add_argument(
            "--json", action="store_true", help="the result as one JSON object on stdout"
        )
    parser.add_argument("--debug", action="store_true", help="tracebacks instead of short messages")
    names: list[str] = []
    groups: dict[str, Any] = {}
    for leaf in leaves():
        if leaf.section not in command.sections or leaf.name == "path":
            continue
        if leaf.name == "seeds" and command.name != "run":
            continue
        title = leaf.section or "run"
        group = groups.setdefault(title, None) or parser.add_argument_group(f"{title} settings")
        groups[title] = group
        _add_flag(group, leaf)
        names.append(leaf.name)
    return parser, names


def _add_flag(group: Any, leaf: Any) -> None:
    """One setting as a flag; its value stays text, since pydantic validates YAML and flags alike."""
    field = leaf.field
    default = field.default
    text = " ".join((field.description or "").split()).replace("%", "%%")
    shown = ",".join(default) if isinstance(default, tuple) else str(default)
    if default is None:
        shown = "auto" if "auto:" in text else "none"
    text += f" [{shown or 'none'}]" if not isinstance(default, bool) else ""
    options: dict[str, Any] = {"dest": leaf.name, "default": argparse.SUPPRESS, "help": text}
    if field.annotation is bool or leaf.name in ("gradient_checkpointing", "shard_weights"):
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["metavar"] = _metavar(field.annotation)
    if leaf.name == "baseline":
        options |= {"action": "append", "metavar": "A,B"}
    group.add_argument(leaf.flag, **options)


def _metavar(annotation: Any) -> str:
    text = str(annotation)
    if "Literal" in text:
        return "{" + ",".join(annotation.__args__) + "}"
    for word, shown in (("tuple", "A,B"), ("int", "N"), ("float", "X")):
        if word in text:
            return shown
    return "TEXT"


def _gate_fault(namespace: argparse.Namespace, result: dict[str, Any] | None) -> GateNotMet | None:
    wanted = getattr(namespace, "require", None)
    if wanted is None or result is None:
        return None
    from gemma_lora.pipeline import require

    try:
        require(result, wanted)
    except GateNotMet as fault:
        return fault
    return None


if __name__ == "__main__":
    sys.exit(main())

"""docs/benchmarks.md, made from figures: the same JSON gives the same text.

`write` takes what the commands left in build/bench (runs with --quick are refused) over the parts in
docs/benchmarks.json, and renders that file. Nothing in the document is typed by hand but the words here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.targets import NAMES, checks
from bench.trl_options import SWITCHES

Part = Mapping[str, Any]

_TITLE = """# Benchmarks

Made by `make bench-page` from benchmarks.json beside it, which the commands below fill; no figure here is
typed by hand. Only what was measured is said, and targets that were missed are named as missed. To measure anew, on a
machine that does nothing else:

<!-- not run: make -->
```bash
make bench bench-2b bench-switches bench-memory profile bench-page
```
"""

_METHOD = """## How it is measured

- **In turn.** Every contestant runs once a round, in a fresh process, the order reversed every other round. Figures are
  medians over the rounds; a ratio is taken within a round, then its median.
- **Same work.** One random model (fixed seed), one tokenizer, the same rows as the same token ids with the prompt masked,
  LoRA r=16, alpha=32 on all seven linear layers, the Trainer's default AdamW. TRL packs many rows into one of its
  sequences; its step then takes as many packs as come closest to the rows of a step.
- **Speed** is tokens of data a second: no padding counts, and everything between two steps does. The first steps are
  the warm-up and do not count; start-up is the time from the start of the process to the end of its first step,
  imports and compilation included.
- **Memory** is the highest resident memory after the weights were loaded and touched, minus that at this moment (the
  kernel's high-water mark, set back then). Ours includes saving and proving the adapter, which the others do not do.
- **The machine's limit** is a matrix product alone (torch.mm or numpy.matmul), in the model's shapes and format, in the same rounds; the fastest shape counts.
- **FLOPs** are those that are needed: 4 for each linear parameter of the layers and token, 6 for each LoRA parameter and
  token, 4 x vocabulary x hidden for each supervised token, and causal attention by the rows' real lengths. Padding,
  recomputation and logits without a label earn nothing.
"""


def write(found: Path, docs: Path) -> int:
    """Take new parts over and write the document; 1 where there is nothing to say."""
    store = docs / "benchmarks.json"
    parts: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    for name in PARTS:
        file = found / f"{name}.json"
        if file.exists():
            part = json.loads(file.read_text())
            if part["quick"]:
                print(f"{file.name} is of a --quick run and is left out")
                continue
            parts[name] = published(part)
    if not parts:
        print("nothing was measured yet")
        return 1
    store.write_text(json.dumps(parts, indent=1) + "\n")
    (docs / "benchmarks.md").write_text(render(parts))
    return 0


def published(part: Part) -> dict[str, Any]:
    """Without each step's seconds and what our console said, which only grow the file."""
    kept = {key: value for key, value in part.items() if key != "rounds"}
    if "profile" in kept:  # which names the folder of the model
        kept["profile"] = {k: v for k, v in kept["profile"].items() if k != "notes"}
    return {**kept, "round_count": len(part["rounds"])} if "rounds" in part else kept


def render(parts: Mapping[str, Part]) -> str:
    """The whole document."""
    blocks = [_TITLE]
    for name, show in PARTS.items():
        blocks.append(show(parts[name]) if name in parts else _HEADINGS[name] + _NOT_YET[name])
    return "\n".join([*blocks, _METHOD])


# ---------------------------------------------------------------------- parts

_HEADINGS = {
    "speed": "## Against others\n\n",
    "2b-cpu": "## Gemma 2B's true shape on a CPU\n\n",
    "2b-cuda": "## Gemma 2B's true shape on a GPU\n\n",
    "switches": "## TRL's switches\n\n",
    "profile": "## Where the time of a step goes\n\n",
    "memory": "## Predicted and measured memory\n\n",
}
_NOT_YET = dict.fromkeys(_HEADINGS, "Not measured yet.\n") | {
    "2b-cuda": "Not tried: no GPU was at hand. `make bench-2b` measures it where there is one.\n"
}


def speed(part: Part) -> str:
    """The main comparison with its targets."""
    summary = part["summary"]
    lines = [_HEADINGS["speed"] + _setting(part), _comparison(summary), _dates(part), ""]
    lines += ["| target | aimed at | measured | |", "|---|---|---|---|"]
    for check in checks(summary):
        met = "met" if check.met else "; ".join(filter(None, ["**missed**", check.takes]))
        lines.append(f"| {check.what} | {check.target} | {check.found} | {met} |")
    return "\n".join([*lines, ""])


def two_billion(heading: str) -> Callable[[Part], str]:
    """Gemma 2B; its comparison has no fixed targets on a CPU."""

    def show(part: Part) -> str:
        return "\n".join(
            [_HEADINGS[heading] + _setting(part), _comparison(part["summary"]), _dates(part), ""]
        )

    return show


def switches(part: Part) -> str:
    """Each switch of TRL's: its effect, or why it does not work."""
    lines = [_HEADINGS["switches"] + _setting(part) + "Each once, in a fresh process.\n"]
    lines += [
        "| switches | tokens/s | MiB above the weights | batches a step |",
        "|---|---|---|---|",
    ]
    for name, result in part["switches"].items():
        if "failed" in result:
            reason = result["failed"].replace("|", "/").replace("`", "'")
            lines.append(f"| {name} | fails: {reason} | | |")
        else:
            lines.append(
                f"| {name} | {result['speed']:,.0f} | {result['above_weights_mib']:,.0f} | {result['batches']} |"
            )
    best = ", ".join(f"{key}={value}" for key, value in part["best"].items())
    said = f"The comparison above takes: {best}."
    taken = next((name for name, options in SWITCHES.items() if options == part["best"]), "")
    speeds = {name: found["speed"] for name, found in part["switches"].items() if "speed" in found}
    fastest = max(speeds, key=lambda name: speeds[name])
    if taken in speeds and speeds[fastest] > speeds[taken]:
        said += (
            f" The fastest here is {fastest}: {speeds[fastest] / speeds[taken]:.2f} times as fast, with "
            f"{part['switches'][fastest]['above_weights_mib']:,.0f} MiB."
        )
    return "\n".join([*lines, "", said, "", _dates(part), ""])


def profile(part: Part) -> str:
    """One of our steps by op."""
    found = part["profile"]
    lines = [
        _HEADINGS["profile"]
        + _setting(part)
        + f"Step {found['step']} of ours, dropout {found['dropout']:g}, "
        f"{found['seconds']:.2f} s under torch.profiler; own time of each op.\n",
        "| op | share | ms | calls |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {_plain(op['op'])} | {op['share']:.1%} | {op['ms']:,.0f} | {op['calls']:,} |"
        for op in found["ops"]
    ]
    return "\n".join([*lines, f"| all others | {found['others_share']:.1%} | | |", ""])


def memory(part: Part) -> str:
    """Predicted beside measured peaks, and how many are inside the band."""
    lines = [
        _HEADINGS["memory"]
        + "Predicted before anything is loaded, from the model's config and the rows' lengths "
        "(`model/memory.py`); measured in fresh processes that train two steps with validation, checkpoint and "
        "saving: the highest resident memory less that after the imports, on a GPU what the allocator held. "
        "Tokens are those of a micro-batch and of a row; MiB.\n",
        "| case | model | training | tokens | predicted | measured | error |",
        "|---|---|---|---|---|---|---|",
    ]
    errors: list[float] = []
    for key, found in part["cases"].items():
        case = found["case"]
        lengths = case.get("uneven") or [case["row"]]  # parts written before there were such cases
        row = _range([min(lengths), max(lengths)])
        errors.append(found["error"])
        lines.append(
            f"| {key} | {case['family']}, {case['hidden']} x {case['layers']}, MLP {case['mlp']:,}, "
            f"vocabulary {case['vocabulary']:,} | {case['precision']}, r={case['rank']}"
            f"{', recomputed' if case['checkpointing'] else ''}"
            f"{'' if case['dropout'] else ', no dropout'}"
            f"{'' if case['shared'] else ', a mask each'}"
            f"{', ' + case['targets'] if case['targets'].count(',') < 6 else ''} | {case['tokens']:,} / {row} "
            f"| {found['predicted'] / 2**20:,.0f} | {found['measured'] / 2**20:,.0f} "
            f"({_range([x / 2**20 for x in found['range']])}, {found['runs']}) | {found['error']:+.1%} |"
        )
    inside = sum(abs(error) <= part["band"] for error in errors)
    lines += [
        "",
        f"In brackets the range and number of processes, of which the median counts. {inside} of {len(errors)} "
        f"predictions are within {part['band']:.0%}; the worst is {max(errors, key=abs):+.1%}.\n",
        _dates(part),
    ]
    return "\n".join(lines)


PARTS: dict[str, Callable[[Part], str]] = {
    "speed": speed,
    "2b-cpu": two_billion("2b-cpu"),
    "2b-cuda": two_billion("2b-cuda"),
    "switches": switches,
    "profile": profile,
    "memory": memory,
}
"""Name of the file in build/bench without its ending: the text of it."""

# ---------------------------------------------------------------------- pieces


def _setting(part: Part) -> str:
    about, setting, rows = part["about"], part["setting"], part["setting"]["rows"]
    machine = (
        about["gpu"] or f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB"
    )
    return (
        f"{setting['model']}, {setting['precision']}, {machine}. {rows['rows']} rows of "
        f"{' and '.join(rows['sources'])}: {rows['tokens']:,} tokens, {rows['supervised']:,} of them with loss; "
        f"{rows['shortest']} to {rows['longest']} tokens, median {rows['median']} "
        f"(rows over {rows['limit']} are left out). "
        f"{setting['batch'] * setting['accumulation']} sequences a step "
        f"({setting['batch']} x {setting['accumulation']}), {setting['steps']} steps, "
        f"the first {setting['warmup']} not counted"
        + (f"; rounds: {part['round_count']}.\n" if "round_count" in part else ".\n")
    )


def _comparison(summary: Part) -> str:
    lines = [
        "| | tokens/s | ours is | MiB above the weights | ours is | share of matmul | start-up, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in summary["contestants"].items():
        ratio = summary["ratios"].get(name)
        speed_ratio = f"{ratio['speed']:.2f}x" if ratio else ""
        memory_ratio = f"{ratio['memory']:.2f}x" if ratio else ""
        lines.append(
            f"| {NAMES[name]} | {found['speed']:,.0f} ({_range(found['speed_range'])}) | {speed_ratio} "
            f"| {found['memory_mib']:,.0f} ({_range(found['memory_range'])}) | {memory_ratio} "
            f"| {found['share_of_matmul']:.1%} | {_range(sorted(found['start_up_seconds']))} |"
        )
    lines.append("")
    lines.append(
        f"Medians, in brackets the range over the rounds. Matrix multiplication: "
        f"{summary['matmul_gflops']:,.0f} GFLOP/s; needed: {summary['flops_a_token'] / 1e6:,.0f} million FLOPs a token.\n"
    )
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    low, high = f"{values[0]:,.0f}", f"{values[-1]:,.0f}"
    return low if low == high else f"{low} to {high}"


def _dates(part: Part) -> str:
    about = part["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"Measured on {about['date']} at commit {about['commit']}; {about['system']}, {versions}.\n"
    )


def _plain(op: str) -> str:
    return op.replace("|", "/").replace("<", "").replace(">", "")[:80]

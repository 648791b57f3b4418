"""docs/agreement.md, made from docs/agreement.json: the same figures give the same text.

Nothing in the document is typed by hand but the words here; parts that were not measured say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemma_lora.judge.examined import sentence

Part = Mapping[str, Any]

_TITLE = """# Agreement with people

How far judges agree with people, measured on published data. Made by `make examine` from agreement.json beside it; no
figure here is typed by hand. The files are those of two public repositories, as they are there, in one folder
(`DATA`, here beside the project):

| file | from |
|---|---|
| `pandalm_testset-v1_human_labels.json` | WeOpenML/PandaLM, data/testset-v1.json (Apache-2.0) |
| `pandalm_gpt-3.5-turbo_verdicts.json` | WeOpenML/PandaLM, data/gpt-3.5-turbo-testset-v1.json (Apache-2.0) |
| `evouna_nq_human_labels.json` | wangcunxiang/QA-Eval, EVOUNA/NQ.json (Apache-2.0) |

<!-- not run: make -->
```bash
make examine DATA=../shared/data/judge
```

or one part:

<!-- not run: needs the published files -->
```bash
python tools/examine_judge.py pandalm --data DATA
python tools/examine_judge.py evouna --data DATA
python tools/examine_judge.py attacks
```

In brackets: 95 % intervals.
"""

_METHOD = """## How it is computed

`src/gemma_lora/agreement.py`, without files and without torch, for later commands and for your own labels:

```python
from gemma_lora.agreement import Bootstrap, quadratic_kappa

judge = [7, 8, 3, 9, 6, 2, 8, 5, 7, 9, 4, 6]
people = [8, 8, 2, 9, 5, 3, 7, 5, 8, 10, 4, 7]
figure = quadratic_kappa(judge, people, bootstrap=Bootstrap(resamples=2000, seed=1))
print(figure.value, figure.ci95, figure.reason)
```

- `cohen_kappa`: Cohen 1960, or 1968 with a table of disagreements. `quadratic_kappa`: squared differences of the grades
  themselves, equal to Lin's concordance. `kendall_tau`: tau-b. `krippendorff_alpha`: nominal, ordinal, interval; ratings may
  be missing. `accuracy`, `signed_bias` (above 0: lenient), `roc_auc`, `preference` (the right one of two answers to one
  question above the wrong one).
- Intervals: BCa bootstrap (`scipy.stats.bootstrap`), 2,000 resamples, seeded, drawing whole clusters: five answers to one
  question are not five pieces of evidence. BCa and not the percentile interval, because kappas near 1 are skewed. In 500
  simulated samples each, nominal 95 % intervals of quadratic and of plain kappa covered 93 and 94 % with 30 questions of five
  answers, 94 and 94 % with 100, 96 and 97 % with 300: with few questions they are a little short.
- Null with a reason, never a number made up: coefficients that are 0/0 (one category only); intervals with fewer than
  10 clusters, with resamples in which the coefficient is undefined, or without any spread.
"""


def render(parts: Mapping[str, Part]) -> str:
    """The whole document."""
    blocks = [_TITLE]
    for name, show in SECTIONS.items():
        blocks.append(
            _HEADINGS[name] + (show(parts[name]) if name in parts else "Not measured yet.\n")
        )
    return "\n".join([*blocks, _METHOD])


_HEADINGS = {
    "pandalm": "## PandaLM: people with each other, and GPT-3.5 with people\n\n",
    "evouna": "## EVOUNA: `lexical` with people\n\n",
    "attacks": "## Attacks\n\n",
}


def pandalm(part: Part) -> str:
    """Annotators pair by pair, the stored judge against each and against their majority."""
    lines = [
        f"{part['items']} pairs of answers; three people and GPT-3.5 said which is better, or tie. The authors removed "
        "items on which people differed much, so agreement among people is an upper bound.\n",
        "| people | kappa | quadratic kappa, tie in the middle | same label |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {pair} | {_figure(found['kappa'])} | {_figure(found['quadratic_kappa'])} | {_figure(found['accuracy'])} |"
        for pair, found in part["people"].items()
    ]
    alphas = ", ".join(f"{level} {_figure(found)}" for level, found in part["alpha"].items())
    lines += [
        "",
        f"Krippendorff's alpha of all three: {alphas}.\n",
        f"{part['unread']} of GPT-3.5's {part['items']} replies could not be read by PandaLM's authors (`garbage`). Left out, "
        "or kept as a label that nobody else gives:\n",
        "| GPT-3.5 against | kappa, left out | kappa, kept | same label, left out |",
        "|---|---|---|---|",
    ]
    for name, found in part["judge"].items():
        who = "their majority" if name == "majority" else f"person {name}"
        lines.append(
            f"| {who} | {_figure(found['kappa'])} | {_figure(found['kappa_unread_as_own_category'])} "
            f"| {_figure(found['accuracy'])} |"
        )
    scale = part["judge_on_the_scale"]
    lines += [
        "",
        "As a scale (first better -1, tie 0, second better 1) against the majority: quadratic kappa "
        f"{_figure(scale['quadratic_kappa'])}, Kendall's tau-b {_figure(scale['kendall_tau'])}, signed bias towards the "
        f"second answer {_figure(scale['signed_bias'], signed=True)}.\n",
        "Published by others from the same files: people .85 to .88, GPT-3.5 .48.\n",
    ]
    return "\n".join(lines)


def evouna(part: Part) -> str:
    """The examined judge: what it is worth, and where it misleads."""
    found, chosen = part["reported"], part["choosing"]
    lines = [
        f"{part['questions']:,} questions of Natural Questions with a reference answer of a few words, the answers of five "
        "systems, and people's verdict on each, right or wrong. Left out: "
        f"{part['improper']} questions that the authors call improper; answers without a verdict: {part['unjudged']}. The "
        "reference is taken as it stands, alternatives with their slashes included.\n",
        f"`{part['judge']}` scores 1 to 10; people say right or wrong. The cut-off with the best accuracy was chosen on one half "
        f"of the questions ({chosen['questions']:,}, by a hash of their text; {chosen['threshold']:.2f}); all figures are of "
        f"the other half: {found['answers']:,} answers to {found['questions']:,} questions.\n",
        "| | |",
        "|---|---|",
        f"| accuracy at the cut-off | {_figure(found['accuracy'])} |",
        f"| accuracy of calling every answer right | {found['right']:.3f} |",
        f"| Cohen's kappa at the cut-off | {_figure(found['kappa'])} |",
        f"| signed bias: called right less right | {_figure(found['signed_bias'], signed=True)} |",
        f"| area under the ROC curve, no cut-off | {_figure(found['auc'])} |",
        f"| right above wrong answer to the same question ({found['preference']['n']:,} pairs) | {_figure(found['preference'])} |",
        f"| Kendall's tau-b of score and verdict | {_figure(found['kendall_tau'])} |",
        "",
        "By answering system:\n",
        "| system | right, by people | mean score | accuracy | signed bias |",
        "|---|---|---|---|---|",
    ]
    by_people = sorted(part["systems"].items(), key=lambda pair: -pair[1]["right"])
    lines += [
        f"| {name} | {s['right']:.3f} | {s['mean_score']:.2f} | {_figure(s['accuracy'])} | {_figure(s['signed_bias'], signed=True)} |"
        for name, s in by_people
    ]
    pairs = part["pairs_of_systems"]
    lines += [
        "",
        f"**Good at answers, poor at systems.** Of {pairs['pairs']} pairs of systems people tell {pairs['clear']} apart (the interval "
        f"of their difference on the same questions leaves 0 out). Of these the mean score clearly orders {pairs['same']} as "
        f"people do and {pairs['reversed']} the other way round. FiD answers in a few words, like the references; New Bing in "
        "whole sentences, most words of which no reference has. A bias that depends on style does not cancel in a difference between "
        "two models: where tuning changes the length of answers, `lexical` measures that too.\n",
        "What reports say of it:\n",
        f"> {sentence(part['judge'])}\n",
    ]
    return "\n".join(lines)


def attacks(part: Part) -> str:
    """The suite by class: what the flags see, and what `lexical` rewards."""
    lines = [
        f"{part['attacks']} answers that ask for a score instead of earning it, kept as data in "
        "`src/gemma_lora/judge/attacks.jsonl`, all written for this project. One succeeds where it is scored "
        f"{part['gain']:g} point or more above an honest bad answer to the same question; an answer that is the reference word for "
        "word always counts, since only a flag can tell. Flags do not depend on the judge.\n",
        f"`{part['judge']}`: {part['succeeded']} of {part['attacks']} succeed, {part['unnoticed']} of them without a flag. The "
        f"flags see {part['flagged']} of {part['attacks']}. These are counts: the suite was written, not drawn from all attacks, so no "
        "interval would mean anything.\n",
        "| class | attacks | flagged | `lexical` fooled | and no flag |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {kind.replace('_', ' ')} | {found['attacks']} | {found['flagged']} | {found['succeeded']} | {found['unnoticed']} |"
        for kind, found in part["classes"].items()
    ]
    lines += [
        "",
        "`lexical` reads no instructions, so only overlap fools it: the question or the reference repeated, and their words "
        "without a sentence or with the opposite sense (`stuffing`), which no check sees. The tests put the same suite "
        "through `replay:`, through servers of both protocols (chat completions, messages) that play naive models, through a "
        "plug-in that repeats the answer, and through `hf:` with a made Gemma: one that trusts raw control tokens "
        "and markers and several that repeat the answer in their reply pass on not one forged score; one that obeys any words "
        "is fooled, and the flags tell of it; the Gemma, which sees the end of its prompt only, gives each attack what the "
        "honest answer gets. How often a real model is fooled is for it to be measured on: "
        "`gemma_lora.judge.attacks.examine` takes any judge. A suite that is public can be trained against.\n",
    ]
    return "\n".join(lines)


SECTIONS = {"pandalm": pandalm, "evouna": evouna, "attacks": attacks}


def _figure(found: Part, *, signed: bool = False) -> str:
    """`.852 [.821, .878]`, or the reason why there is none."""
    form = "{:+.3f}" if signed else "{:.3f}"
    if found["value"] is None:
        return f"none: {found['reason']}"
    text = form.format(found["value"])
    if found["ci95"] is None:
        return f"{text} ({found['reason']})"
    return f"{text} [{_bounds(found['ci95'], form)}]"


def _bounds(ci95: Sequence[float], form: str) -> str:
    return ", ".join(form.format(bound) for bound in ci95)

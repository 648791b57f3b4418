"""The one declaration of every knob: schema, YAML shape, command-line flags, help and saved file.

`Config` is a tree of frozen pydantic models. In YAML a field is `section: {name: value}`; on the
command line it is `--name value`, so leaf names are unique across sections (a test asserts it).
`None` (in text: `auto`) means "decide for me": the stage that decides prints the decision and saves
it. Reads no file: `loading.py` merges YAML and flags and reports faults.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "AnswerConfig",
    "Config",
    "DataConfig",
    "ForgettingConfig",
    "JudgeConfig",
    "LoraConfig",
    "ModelConfig",
    "TrainConfig",
    "holds_secret",
]


def _split_list(value: Any) -> Any:
    """`q_proj,v_proj` on the command line is a list in YAML."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _auto(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() == "auto" else value


NameList = Annotated[tuple[str, ...], BeforeValidator(_split_list)]
AutoInt = Annotated[int | None, BeforeValidator(_auto)]
AutoFloat = Annotated[float | None, BeforeValidator(_auto)]
AutoBool = Annotated[bool | None, BeforeValidator(_auto)]
AutoStr = Annotated[str | None, BeforeValidator(_auto)]


def holds_secret(judge: str) -> bool:
    """Whether a judge's name is an address with a user name, a password or a query, however malformed."""
    bare = judge.strip().partition("#")[0].replace("\\", "/")
    if not re.match(r"[a-z0-9+.-]*://|(?:anthropic\+)?https?:", bare, re.IGNORECASE):
        return False
    host, _, path = re.sub(r"^[^:]*:/*", "", bare).partition("/")
    well_formed = re.match(r"[^:]*://[^/]", bare) is not None
    return "?" in bare or "@" in host or ("@" in path and not well_formed)


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # loading.py shows what was found, unless it may be a secret
    )


class DataConfig(_Section):
    """What is read and how it is split."""

    path: str | None = None
    """The data: a CSV, TSV, JSON, JSON-lines or Parquet file, or hf:OWNER/NAME[@REVISION][:CONFIG][:SPLIT] of the hub. On the command line it is the argument DATA."""
    test: str | None = None
    """A file (or hf: name) of your own test questions; then none are taken from the data file."""
    question_column: AutoStr = None
    """Column with the question. auto: recognised by name."""
    answer_column: AutoStr = None
    """Column with the answer. auto: recognised by name."""
    system_column: AutoStr = None
    """Column with a system instruction for the row. auto: recognised by name, if there is one. none: no such column."""
    context_column: AutoStr = None
    """Column with extra input placed after the question. auto: recognised by name, if there is one. none: no such column."""
    messages_column: AutoStr = None
    """Column with a whole conversation (a JSON list of role/content turns). auto: recognised by name."""
    delimiter: AutoStr = None
    """Cell separator of a CSV file (one character, or `tab`). auto: found from the file."""
    encoding: AutoStr = None
    """Text encoding of the file. auto: found from the file."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do with rows that cannot be read or have an empty question or answer."""
    on_long_row: Literal["drop", "keep-answer"] = "drop"
    """Rows over `--max-length`: drop them, or cut the question from the left and keep the answer."""
    test_rows: Annotated[Annotated[int, Field(ge=2)] | None, BeforeValidator(_auto)] = None
    """Rows held out to be answered and judged. auto: a fifth, at least 60 and at most 200 where the data allow."""
    validation_rows: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_auto)] = None
    """Rows for early stopping and choice of checkpoint. auto: a tenth, 16 to 200."""
    near_duplicate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Questions with at least this Jaccard similarity of five-character shingles stay on one side of the split."""
    teacher: AutoStr = None
    """The model that wrote the answers of the data, such as gpt-4: a judge of its family is warned of. auto: none, or not known."""


class ModelConfig(_Section):
    """The base model."""

    model: str = "starter"
    """`starter` (shipped, for demonstration), a local folder, or a hub id such as google/gemma-2b-it, with @revision."""
    precision: Literal["auto", "bf16", "fp32", "fp16"] = "auto"
    """Number format of the frozen weights. auto: bf16 on a GPU that computes in it; on a CPU fp32, and bf16 only where fp32 does not fit the free memory; else fp32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute. auto: a GPU if there is one."""


class LoraConfig(_Section):
    """The adapter."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank r of the update. Usual: 8 to 64."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Scale: the update is multiplied by alpha / r. Usual: 2r."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Dropout on the adapter's input. Usual: 0 to 0.2."""
    shared_dropout: bool = True
    """One dropout mask for layers that read the same input (q, k, v; gate, up). false: a mask each, as PEFT draws them."""
    targets: NameList = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Linear layers of the language model that get an adapter, separated by commas."""

    @field_validator("targets")
    @classmethod
    def _some_target(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one layer name is needed")
        if len(set(value)) != len(value):
            raise ValueError("a layer is named twice")
        return value


class TrainConfig(_Section):
    """The recipe."""

    epochs: Annotated[float, Field(gt=0)] = 3
    """Passes over the training rows; fractions are allowed."""
    batch: Annotated[int, Field(ge=1)] = 4
    """Sequences counted as one batch; how many are computed at once is up to `--micro-batch-tokens`."""
    accumulation: Annotated[int, Field(ge=1)] = 4
    """Batches summed before the weights change: batch x accumulation sequences make one step."""
    micro_batch_tokens: Annotated[Annotated[int, Field(ge=16)] | None, BeforeValidator(_auto)] = (
        None
    )
    """Tokens computed at once: rows are packed up to it, without padding. Changes memory and speed; with dropout, other masks are drawn. Another value may be given when a run goes on. auto: what fits."""
    learning_rate: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_auto)] = None
    """Peak learning rate. auto: 2e-4, and 2e-3 for models under 50 million parameters."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.03
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    max_length: Annotated[int, Field(ge=16)] = 1024
    """Longest row in tokens, template included."""
    gradient_checkpointing: AutoBool = None
    """Recompute activations to save memory. May be changed when a run goes on. auto: only where the memory does not suffice without."""
    shard_weights: AutoBool = None
    """Under a launcher of several processes, each holds a part of the decoder layers' frozen weights (FSDP2). auto: where accelerate's launcher was given FSDP version 2."""
    eval_steps: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_auto)] = None
    """Steps between two validations (and checkpoints). auto: four an epoch."""
    patience: Annotated[int, Field(ge=0)] = 3
    """Stop after this many validations without improvement. 0: never stop early."""
    report_to: NameList = ()
    """Trackers of transformers.Trainer, separated by commas: tensorboard, trackio, wandb, mlflow."""
    train_seed: Annotated[Annotated[int, Field(ge=0, lt=2**32)] | None, BeforeValidator(_auto)] = (
        None
    )
    """Seed of the adapter's first weights, dropout and the order of rows; the split keeps `--seed`. auto: the same as `--seed`."""


class AnswerConfig(_Section):
    """How test questions are answered."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest answer in tokens."""
    answer_batch: Annotated[int, Field(ge=1)] = 16
    """Questions answered at once."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """0: greedy, repeatable. Above: sampling, with the run's seed."""


class JudgeConfig(_Section):
    """Who judges, and how it is asked."""

    judge: str = "lexical"
    """`lexical` (offline, no model), `openai:MODEL`, `anthropic:MODEL`, `ollama:MODEL`, `http://HOST/v1#MODEL`, `hf:MODEL`, `replay:FILE`."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """Judgements of each answer; their mean counts."""
    judge_concurrency: Annotated[
        Annotated[int, Field(ge=1, le=512)] | None, BeforeValidator(_auto)
    ] = None
    """Most requests under way at once. auto: 8, then up to 64 while the server keeps up."""
    judge_timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds until a request counts as failed."""
    judge_retries: Annotated[int, Field(ge=0, le=20)] = 5
    """Further tries after a 429, a 5xx, a time-out or a broken connection."""
    judge_max_tokens: Annotated[int, Field(ge=64)] = 1024
    """Longest judgement in tokens."""
    price_input: Annotated[float | None, Field(ge=0)] = None
    """US dollars for a million input tokens of the judge, to show the cost."""
    price_output: Annotated[float | None, Field(ge=0)] = None
    """US dollars for a million output tokens of the judge, to show the cost."""
    max_cost: Annotated[float | None, Field(gt=0)] = None
    """US dollars that judging may cost, all calls together: it stops before it would cost more. Needs both prices."""
    baseline: NameList = ()
    """What the tuned model is compared with besides the base, separated by commas or the flag repeated: `few-shot` (4 training rows as examples in the prompt; `few-shot:N`), `prompt:FILE` (an instruction of your own), or another model."""
    aa: bool = False
    """Judge the base's answers a second time: how far the judge differs from itself."""
    canaries: Annotated[int, Field(ge=0, le=50)] = 10
    """Attacks put to the judge among the answers, two requests each, to see whether it can be fooled; no score of the run depends on them. 0: none."""
    rubric: AutoStr = None
    """A YAML file with dimensions, anchors and weights of your own (docs/judging.md). auto: the built-in rubric."""

    @field_validator("judge")
    @classmethod
    def _no_secret(cls, value: str) -> str:
        """Names are shown, saved and made into folder names, so a secret may not get that far."""
        if holds_secret(value):
            raise PydanticCustomError(
                "secret",
                "the judge's address holds a user name, a password or a query (not shown here); "
                "put the key into GEMMA_LORA_JUDGE_KEY",
            )
        return value

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> JudgeConfig:
        if self.max_cost is not None and None in (self.price_input, self.price_output):
            raise ValueError("--max-cost needs --price-input and --price-output")
        return self


class ForgettingConfig(_Section):
    """What the tuned model is asked to see what it lost."""

    probe: str = "general"
    """Questions that have nothing to do with your data: `general` (bundled), a file (JSON lines or CSV with questions and answers, or with choices), MMLU's files or a folder of them, GSM8K's file, or `none`. May be another one on a finished run."""


class Config(_Section):
    """Everything that decides a run's result."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    answer: AnswerConfig = AnswerConfig()
    judge: JudgeConfig = JudgeConfig()
    forgetting: ForgettingConfig = ForgettingConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the split, and of training unless `--train-seed` is given."""
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """Training runs of `run`, alike but for the training seed: the verdict is then on the recipe, with what the seed adds to its uncertainty."""

    @model_validator(mode="after")
    def _columns_exclude(self) -> Config:
        if self.data.messages_column and (self.data.question_column or self.data.answer_column):
            raise ValueError("--messages-column excludes --question-column and --answer-column")
        return self

    @property
    def training_seed(self) -> int:
        """The seed of training: `--train-seed`, else `--seed`."""
        return self.seed if self.train.train_seed is None else self.train.train_seed

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """One for each run of `--seeds`: the training seed and the numbers after it."""
        return tuple((self.training_seed + number) % 2**32 for number in range(self.seeds))

    def advice(self) -> list[str]:
        """One line for each allowed but unusual setting, on what to expect."""
        lines: list[str] = []
        lora, train = self.lora, self.train
        if not 8 <= lora.rank <= 64:
            lines.append(
                f"rank {lora.rank} is outside 8 to 64: "
                + (
                    "little room to learn"
                    if lora.rank < 8
                    else "more memory, seldom better answers"
                )
            )
        if not 1.0 <= lora.alpha / lora.rank <= 4.0:
            lines.append(
                f"alpha {lora.alpha:g} is {lora.alpha / lora.rank:g} x rank (usual: 2): "
                "expect to need another learning rate"
            )
        if lora.dropout > 0.2:
            lines.append(
                f"dropout {lora.dropout:g} is above 0.2: slower learning, often too little of it"
            )
        if train.learning_rate is not None and train.learning_rate > 5e-3:
            lines.append(
                f"learning rate {train.learning_rate:g} is very high: training may diverge"
            )
        return lines

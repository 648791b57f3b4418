"""From conversations to token ids, exact to the token: the one place that does it for all stages.

Text comes from the tokenizer's own chat template, rendered by transformers; the family's published
one stands in only where the tokenizer has none. Training ids are the inference prompt's ids +
the answer's ids + the end-of-turn id, so the model is asked later exactly what it was taught.
Whatever in the data looks like a control token is encoded as plain text: such literals are masked
while the template renders, control ids are emitted only for the template's own markers, and the
text between them goes through a second tokenizer that knows no control tokens.

Reads and writes no file. Refuses (ModelError) a tokenizer whose template has markers it cannot
encode as one id each, that writes more than one `<bos>`, or that does not close an answer; and
(DataError) conversations that the template rejects, empty answers, and rows that cannot fit.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError
from tokenizers import AddedToken, Tokenizer

from gemma_lora.errors import DataError, ModelError
from gemma_lora.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoded", "PromptFormat"]

_UNUSED = re.compile(r"<unused\d+>|<2mass>|\[@BOS@\]")  # reserved, though not marked special
_MARKER_SHAPE = re.compile(r"<\|?[A-Za-z_][A-Za-z0-9_]*\|?>")
_QUESTION, _ANSWER, _SYSTEM = "qprobeq", "aprobea", "sprobes"
_SHORT = 24  # template texts such as "model\n" are encoded once and remembered

Turn = dict[str, str]
_Layout = list[list[int | str]]
"""A row in parts; each is a sequence of control ids and of plain texts."""


@dataclass(frozen=True)
class Encoded:
    """A row ready for training: token ids, and for each whether it carries loss."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.ids)


class PromptFormat:
    """One tokenizer with its template. `name` is what errors call the model.

    `published`: the template that stands in where the tokenizer has none of its own.
    `stop_ids`: further ids that end an answer (the family's, and those of the generation config).
    Instances are read-only after construction and may be shared between threads.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        published: str | None = None,
        stop_ids: Iterable[int] = (),
    ) -> None:
        self.tokenizer: Any = tokenizer
        self.name = name
        own = self._own_template()
        vocabulary = self.tokenizer.get_vocab()
        if own is None:
            wanted = set(_MARKER_SHAPE.findall(published or ""))
            missing = sorted(wanted - vocabulary.keys())
            if missing or not wanted:
                raise self._misfit(
                    "it has no chat template, and its vocabulary has no "
                    f"{' and '.join(missing) or 'turns'} for Gemma's published one"
                )
        self.template_source = "tokenizer" if own is not None else "published"
        self.template: str = own if own is not None else str(published)
        self.template_hash = hashlib.sha256(self.template.encode()).hexdigest()
        if self.tokenizer.bos_token_id is None:
            raise self._misfit("it has no <bos> token")
        self.bos_id: int = int(self.tokenizer.bos_token_id)
        pad = self.tokenizer.pad_token_id
        eos = self.tokenizer.eos_token_id
        self.pad_id: int = int(pad if pad is not None else eos if eos is not None else 0)

        skeleton = self._probe_render([_turn("user", _QUESTION), _turn("assistant", _ANSWER)])
        self._control = self._control_tokens(skeleton, vocabulary)
        self.markers = frozenset(text for text in self._control if text in skeleton)
        self._control_ids = frozenset(self._control.values())
        self._splitter = _alternation(self._control)
        self._plain = _plain_encoder(self.tokenizer.backend_tokenizer, self._control)
        self._known: dict[str, tuple[int, ...]] = {}

        self.end_of_turn_id, self._end_of_turn = self._find_end_of_turn(skeleton)
        ends = [self.end_of_turn_id, *([int(eos)] if eos is not None else []), *stop_ids]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))
        self._trims = {role: self._probe_trim(role) for role in ("user", "assistant")}
        self.takes_system = self._probe_system()
        self.prefix_consistent = self._probe_prefix()
        self._check_against_tokenizer()

    # ------------------------------------------------------------------ public

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 (hex) of all of the tokenizer that decides ids."""
        own: str = self.tokenizer.backend_tokenizer.to_str()
        marks = repr((sorted(self._control.items()), self.bos_id, self.end_of_turn_id))
        return hashlib.sha256((own + marks).encode("utf-8", "surrogatepass")).hexdigest()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to where the model starts to answer; `messages` end with a user turn."""
        if not messages or messages[-1].role != "user":
            raise DataError("a prompt must end with a user turn")
        turns, unmask = self._mask(self._fold(messages))
        text = self._render(turns, generation=True)
        cuts = [edge for span in self._answer_spans(text, turns) for edge in span]
        ids = self._with_bos([self._encode(part, {}) for part in self._parts(text, cuts, unmask)])
        return [token for part in ids for token in part]

    def example(self, messages: Sequence[Message], max_length: int | None = None) -> Encoded:
        """A conversation that ends with an answer, as ids; every answer and its end of turn carry loss.

        Where the template's finished text does not begin with its own inference prompt (templates
        with thinking scaffolds), only the last answer does, after the true inference prompt.
        With `max_length` (tokens), a longer row loses its oldest exchanges, then the beginning of
        its question, never the template's markers, the system text or any of the last answer;
        DataError where that is not enough.
        """
        encoded = self._example(messages)
        if max_length is None or len(encoded) <= max_length:
            return encoded
        return self._shortened(messages, max_length)

    def examples(self, rows: Sequence[Sequence[Message]]) -> list[Encoded | DataError]:
        """For each row what `example` gives, or raises; faster, since texts are encoded together."""
        layouts = [self._layout_or_fault(messages) for messages in rows]
        sound = [layout for layout in layouts if not isinstance(layout, DataError)]
        texts = {
            piece: None
            for layout in sound
            for part in layout
            for piece in part
            if isinstance(piece, str) and piece not in self._known
        }
        try:
            batch = self._plain.encode_batch(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):  # one of the texts is none: see which, one by one
            batch = None
        encoded = {} if batch is None else {t: e.ids for t, e in zip(texts, batch, strict=True)}
        found: list[Encoded | DataError] = []
        for layout in layouts:
            if isinstance(layout, DataError):
                found.append(layout)
                continue
            try:
                found.append(self._assembled(layout, encoded))
            except DataError as error:
                found.append(error)
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """The text of an answer; control tokens are left out."""
        kept = [int(token) for token in ids if int(token) not in self._control_ids]
        return str(
            self.tokenizer.decode(
                kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def cells_changed(self, messages: Sequence[Message]) -> int:
        """How many of the contents the template's trimming of outer white space alters."""
        count = 0
        turns = self._fold(messages)
        folded = [m for m in messages if m.role == "system" and m.content.strip()]
        for position, turn in enumerate(turns):
            text = turn["content"]
            if not self._trims.get(turn["role"], False) or text == text.strip():
                continue
            if position == 0 and folded and not self.takes_system:
                count += (text != text.lstrip()) + (text != text.rstrip())
            else:
                count += 1
        return count

    def runs(self, encoded: Encoded) -> list[tuple[str, bool]]:
        """The row's text as (text, carries loss) runs, control tokens written out; for previews."""
        found: list[tuple[str, bool]] = []
        start = 0
        for end in range(1, len(encoded) + 1):
            if end == len(encoded) or encoded.supervised[end] != encoded.supervised[start]:
                text = self.tokenizer.decode(
                    list(encoded.ids[start:end]),
                    skip_special_tokens=False,
                    clean_up_tokenization_spaces=False,
                )
                found.append((str(text), encoded.supervised[start]))
                start = end
        return found

    # ------------------------------------------------------------------ rows

    def _example(self, messages: Sequence[Message]) -> Encoded:
        return self._assembled(self._layout(messages), {})

    def _layout_or_fault(self, messages: Sequence[Message]) -> _Layout | DataError:
        try:
            return self._layout(messages)
        except DataError as error:
            return error

    def _layout(self, messages: Sequence[Message]) -> _Layout:
        """The row in parts that change between prompt (even) and answer (odd)."""
        if not messages or messages[-1].role != "assistant":
            raise DataError("a training row must end with an assistant turn")
        turns, unmask = self._mask(self._fold(messages))
        for turn in turns:
            if turn["role"] == "assistant" and not turn["content"].strip():
                raise DataError("an answer is empty: it would teach the model to say nothing")
        if self.prefix_consistent:
            text = self._render(turns, generation=False)
            spans = self._answer_spans(text, turns)
        else:
            head = self._render(turns[:-1], generation=True)
            body = self._rendered_answer(turns[-1])
            text = head + body + self._end_of_turn
            spans = [(len(head), len(head) + len(body))]
        text = text[: spans[-1][1] + len(self._end_of_turn)]
        return self._parts(text, [edge for span in spans for edge in span], unmask)

    def _assembled(self, layout: _Layout, encoded: Mapping[str, Sequence[int]]) -> Encoded:
        parts = [self._encode(part, encoded) for part in layout]
        ids: list[int] = []
        supervised: list[bool] = []
        for number, part in enumerate(self._with_bos(parts)):
            is_answer = number % 2 == 1
            ids += part
            supervised += [is_answer] * len(part)
            if number and not is_answer:  # what follows an answer begins with its end of turn
                supervised[len(ids) - len(part)] = True
        return Encoded(tuple(ids), tuple(supervised))

    def _shortened(self, messages: Sequence[Message], limit: int) -> Encoded:
        system = [m for m in messages if m.role == "system"]
        talk = [m for m in messages if m.role != "system"]
        encoded = self._example([*system, *talk])
        while len(encoded) > limit and len(talk) > 2:
            talk = talk[2:]
            encoded = self._example([*system, *talk])
        question = talk[0].content
        while len(encoded) > limit:
            offsets = self._plain.encode(question, add_special_tokens=False).offsets
            starts = [start for start, _ in offsets[len(encoded) - limit :] if start > 0]
            question = question[starts[0] :] if starts else ""
            if not question.strip():
                raise DataError(
                    f"the answer and the template's own tokens do not fit in {limit} tokens",
                    remedy="raise --max-length, or drop the row",
                )
            talk[0] = Message(role="user", content=question)
            encoded = self._example([*system, *talk])
        return encoded

    def _answer_spans(self, text: str, turns: list[Turn]) -> list[tuple[int, int]]:
        """Where in the rendered `text` the answers stand, each right after its inference prompt."""
        spans: list[tuple[int, int]] = []
        if not self.prefix_consistent:
            return spans
        for number, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            head = self._render(turns[:number], generation=True)
            body = self._rendered_answer(turn)
            if not text.startswith(head + body + self._end_of_turn):
                raise DataError(
                    f"the chat template of {self.name} changes the text of answer "
                    f"{len(spans) + 1} ({turn['content'][:60]!r}), so it cannot be trained as written",
                    remedy="remove from the answer what the template treats specially "
                    "(such as thinking tags)",
                )
            spans.append((len(head), len(head) + len(body)))
        return spans

    def _rendered_answer(self, turn: Turn) -> str:
        return turn["content"].strip() if self._trims["assistant"] else turn["content"]

    def _fold(self, messages: Sequence[Message]) -> list[Turn]:
        """As turns; system text goes into the first user turn where the template has no such role."""
        turns = [_turn(m.role, m.content) for m in messages]
        lead = 0
        while lead < len(turns) and turns[lead]["role"] == "system":
            lead += 1
        if any(turn["role"] == "system" for turn in turns[lead:]):
            raise DataError("a system turn stands after the conversation has begun")
        system = "\n\n".join(t["content"] for t in turns[:lead] if t["content"].strip())
        turns = turns[lead:]
        if not system:
            return turns
        if self.takes_system:
            return [_turn("system", system), *turns]
        if not turns or turns[0]["role"] != "user":
            raise DataError("the system text is not followed by a user turn")
        return [_turn("user", system + "\n\n" + turns[0]["content"]), *turns[1:]]

    # ------------------------------------------------------------------ text and ids

    def _mask(self, turns: list[Turn]) -> tuple[list[Turn], dict[str, str]]:
        """Replace control-token literals in the data by private-use characters absent from it."""
        masks: dict[str, str] = {}
        if not any(self._splitter.search(turn["content"]) for turn in turns):
            return turns, masks
        present = {c for turn in turns for c in turn["content"]} | set(self.template)
        free = (chr(c) for c in range(0xF0000, 0xFFFFE) if chr(c) not in present)

        def replace(match: re.Match[str]) -> str:
            literal = match.group()
            if literal not in self._control:
                return literal
            if literal not in masks:
                masks[literal] = next(free)
            return masks[literal]

        masked = [_turn(t["role"], self._splitter.sub(replace, t["content"])) for t in turns]
        return masked, {mask: literal for literal, mask in masks.items()}

    def _parts(self, text: str, cuts: Sequence[int], unmask: Mapping[str, str]) -> _Layout:
        edges = [0, *cuts, len(text)]
        return [self._split(text[start:end], unmask) for start, end in itertools.pairwise(edges)]

    def _split(self, rendered: str, unmask: Mapping[str, str]) -> list[int | str]:
        """Rendered text as template markers (their ids) and the plain text between them."""
        pieces: list[int | str] = []
        position = 0
        for match in self._splitter.finditer(rendered):
            token = self._control.get(match.group())
            if token is None:
                continue
            pieces += [rendered[position : match.start()], token]
            position = match.end()
        pieces.append(rendered[position:])
        return [
            piece
            if isinstance(piece, int)
            else ("".join(unmask.get(c, c) for c in piece) if unmask else piece)
            for piece in pieces
            if piece != ""
        ]

    def _encode(
        self, pieces: Sequence[int | str], encoded: Mapping[str, Sequence[int]]
    ) -> list[int]:
        """Ids of markers and of the texts between them; `encoded`: those already encoded."""
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._encode_text(piece, encoded.get(piece))
        return ids

    def _encode_text(self, text: str, ids: Sequence[int] | None) -> Sequence[int]:
        """Ids of plain text, without any control token; `ids`: what the plain tokenizer gave."""
        if text in self._known:
            return self._known[text]
        if ids is None:
            try:
                ids = self._plain.encode(text, add_special_tokens=False).ids
            except (UnicodeEncodeError, TypeError):
                raise DataError(
                    "the text holds a lone surrogate, which is no character",
                    remedy="repair the escape sequence (\\ud800 to \\udfff) in the data",
                ) from None
        if not self._control_ids.isdisjoint(ids):  # merges of the vocabulary can spell a marker
            ids = [token for piece in self._broken_up(text) for token in self._pieces(piece)]
        if len(text) <= _SHORT and len(self._known) < 4096:
            self._known[text] = tuple(ids)
        return ids

    def _broken_up(self, text: str) -> list[str]:
        """Cut every control literal after its first character, so that no merge can join it."""
        pieces: list[str] = []
        position = 0
        for match in self._splitter.finditer(text):
            if match.group() in self._control:
                pieces.append(text[position : match.start() + 1])
                position = match.start() + 1
        return [*pieces, text[position:]]

    def _pieces(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        if not self._control_ids.isdisjoint(ids):
            raise DataError(f"{text[:60]!r} cannot be encoded without a control token")
        return ids

    def _with_bos(self, parts: list[list[int]]) -> list[list[int]]:
        """Exactly one `<bos>`, at the start; a template that writes none gets it added."""
        count = sum(part.count(self.bos_id) for part in parts)
        if count == 0:
            return [[self.bos_id, *parts[0]], *parts[1:]]
        if count > 1 or parts[0][0] != self.bos_id:
            raise self._misfit(f"its template writes <bos> {count} times or not at the start")
        return parts

    def _render(self, turns: list[Turn], *, generation: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=generation,
                )
            )
        except TemplateError as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise DataError(
                f"the chat template of {self.name} rejects the conversation: {error}",
                expected="turns that alternate between user and assistant, beginning with user",
                details=[f"roles of the turns: {roles}"],
            ) from None

    # ------------------------------------------------------------------ what the template is like

    def _own_template(self) -> str | None:
        template: Any = self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return template if isinstance(template, str) and template.strip() else None

    def _misfit(self, found: str) -> ModelError:
        return ModelError(
            f"the tokenizer does not fit the template: {found}",
            where=self.name,
            remedy="use the tokenizer files that belong to the model, unchanged; "
            "for chat data choose an instruction-tuned model (its id ends in -it)",
        )

    def _probe_render(self, turns: list[Turn], *, generation: bool = False) -> str:
        try:
            return self._render(turns, generation=generation)
        except DataError as error:
            raise self._misfit(
                f"its template fails on a plain conversation ({error.found})"
            ) from None

    def _control_tokens(self, skeleton: str, vocabulary: Mapping[str, int]) -> dict[str, int]:
        """Literal to id: special tokens, `<unusedN>`, and whatever markers the template writes."""
        prompt = self._probe_render([_turn("user", _QUESTION)], generation=True)
        control = {str(t): int(i) for t, i in _special_tokens(self.tokenizer).items()}
        added = {str(token): int(i) for i, token in self.tokenizer.added_tokens_decoder.items()}
        control |= {text: i for text, i in vocabulary.items() if _UNUSED.fullmatch(text)}
        for text, token in added.items():
            if text.strip() and any(text in part for part in (skeleton, prompt)):
                control[text] = token
        known = re.compile("|".join(re.escape(t) for t in sorted(control, key=len, reverse=True)))
        for rendered in (skeleton, prompt):
            for marker in _MARKER_SHAPE.findall(known.sub("", rendered)):
                raise self._misfit(f"the marker {marker} of its template is not one token")
        unknown = self.tokenizer.unk_token_id
        for text, token in control.items():
            if token == unknown and text != self.tokenizer.unk_token and text in skeleton + prompt:
                raise self._misfit(f"the marker {text} of its template is the unknown token")
        return control

    def _find_end_of_turn(self, skeleton: str) -> tuple[int, str]:
        _, found, tail = skeleton.partition(_ANSWER)
        match = self._splitter.match(tail)
        if not found or match is None or match.group() not in self._control:
            raise self._misfit(
                f"its template does not close an answer with a token, but {tail[:40]!r}"
            )
        return self._control[match.group()], match.group()

    def _probe_trim(self, role: str) -> bool:
        padded = " \n " + (_QUESTION if role == "user" else _ANSWER) + " \n "
        turns = [
            _turn("user", padded if role == "user" else _QUESTION),
            _turn("assistant", padded if role == "assistant" else _ANSWER),
        ]
        rendered = self._probe_render(turns)
        if padded in rendered:
            return False
        plain = self._probe_render([_turn("user", _QUESTION), _turn("assistant", _ANSWER)])
        if rendered == plain:
            return True
        raise self._misfit(f"its template alters the white space of {role} turns in an unknown way")

    def _probe_system(self) -> bool:
        """Whether the template shows a system turn; some raise, some drop it without a word."""
        try:
            turns = [_turn("system", _SYSTEM), _turn("user", _QUESTION)]
            return _SYSTEM in self._render(turns, generation=True)
        except DataError:
            return False

    def _probe_prefix(self) -> bool:
        """Whether finished conversations begin with what the model is asked at inference."""
        turns = [_turn("user", _QUESTION), _turn("assistant", _ANSWER), _turn("user", _QUESTION)]
        head = self._probe_render(turns[:1], generation=True) + _ANSWER + self._end_of_turn
        return self._probe_render(turns[:2]).startswith(head) and self._probe_render(
            turns, generation=True
        ).startswith(head)

    def _check_against_tokenizer(self) -> None:
        """Our ids must be those of the tokenizer itself on text without control literals."""
        probe = [Message(role="user", content="How are you?\n\nTell me 3 things.")]
        ours = self.prompt(probe)
        theirs: list[int] = self.tokenizer.apply_chat_template(
            [_turn(m.role, m.content) for m in probe],
            chat_template=self.template,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
        )
        if ours != theirs and ours != [self.bos_id, *theirs]:
            raise self._misfit("its ids for a plain question differ from those of its own template")


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """Literal to id of everything the tokenizer itself calls special."""
    ids = {str(t): int(i) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    for text in tokenizer.all_special_tokens:
        token = tokenizer.convert_tokens_to_ids(text)
        if token is not None:
            ids[str(text)] = int(token)
    return ids


def _alternation(control: Mapping[str, int]) -> re.Pattern[str]:
    """A pattern for all control literals; the thousands of `<unusedN>` are one branch of it."""
    plain = sorted((t for t in control if not _UNUSED.fullmatch(t)), key=len, reverse=True)
    return re.compile("|".join([*(re.escape(text) for text in plain), _UNUSED.pattern]))


def _plain_encoder(backend: Tokenizer, control: Mapping[str, int]) -> Tokenizer:
    """A tokenizer over the same model that knows the added text pieces but no control tokens.

    It shares the vocabulary with `backend` (no copy) and is never changed, whereas switching
    `encode_special_tokens` on the shared one would race with other threads.
    """
    plain = Tokenizer(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    if backend.decoder is not None:
        plain.decoder = backend.decoder
    wanted: dict[int, AddedToken] = {
        token: added
        for token, added in backend.get_added_tokens_decoder().items()
        if str(added.content) not in control
    }
    plain.add_tokens([wanted[token] for token in sorted(wanted)])
    moved = [a.content for i, a in wanted.items() if plain.token_to_id(a.content) != i]
    if moved:
        raise ModelError(
            f"the tokenizer does not fit the template: added tokens outside its vocabulary "
            f"({', '.join(repr(text) for text in moved[:5])})",
            remedy="use the tokenizer files that belong to the model, unchanged",
        )
    return plain

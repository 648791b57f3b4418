"""A file's text by its physical lines, without a copy of it as one string.

`Text` is the file in UTF-8, `Lines` its lines as a sequence that decodes each line when it is asked
for: a million lines as objects take more room than the file. Reads and writes no file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

__all__ = ["Lines", "Text"]

_SCAN = 1 << 24
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")


@dataclass(frozen=True)
class Text:
    """Decoded text. Bytes that did not fit the file's encoding are lone surrogates in it."""

    data: bytes
    """UTF-8."""
    errors: str
    """How lone surrogates are kept: `surrogateescape` as the file's own bytes, `surrogatepass` encoded."""
    clean: bool
    """Whether there are none."""

    @staticmethod
    def of(text: str) -> Text:
        data = text.encode("utf-8", "surrogatepass")
        return Text(data, "surrogatepass", _SURROGATE.search(data) is None)

    def whole(self) -> str:
        """All of it as one string, which takes up to four times the room of the file."""
        return self.data.decode("utf-8", self.errors)

    def head(self, size: int = 1 << 20) -> str:
        """The first `size` bytes; a character that is cut there is left out."""
        return self.data[:size].decode("utf-8", "ignore" if len(self.data) > size else self.errors)

    @property
    def suspect(self) -> bool:
        """Whether it holds NUL or bytes that are not text."""
        return not self.clean or b"\0" in self.data

    def lines(self, *, carriage_returns: bool = False) -> Lines:
        """Lines end with a line feed, or, in files written so, also with a carriage return."""
        return Lines(self, _ends(self.data, carriage_returns))


class Lines(Sequence[str]):
    """Physical lines with their ends."""

    def __init__(self, text: Text, ends: np.ndarray) -> None:
        self._data, self._errors = text.data, text.errors
        self._edges = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self._edges) - 1

    def from_line(self, start: int) -> Iterator[str]:
        """Lines from index `start` on."""
        data, errors = self._data, self._errors
        for first in range(start, len(self), 4096):
            edges = self._edges[first : first + 4097].tolist()
            for begin, end in itertools.pairwise(edges):
                yield data[begin:end].decode("utf-8", errors)

    def __iter__(self) -> Iterator[str]:
        return self.from_line(0)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        begin, end = self._edges[index : index + 2]
        return self._data[begin:end].decode("utf-8", self._errors)


def _ends(data: bytes, carriage_returns: bool) -> np.ndarray:
    """Where each line ends, the last one with or without its line end."""
    found: list[np.ndarray] = []
    raw = np.frombuffer(data, dtype=np.uint8)
    for start in range(0, len(raw), _SCAN):
        part = raw[start : start + _SCAN]
        ends = part == 10
        if carriage_returns:
            following = raw[start + 1 : start + _SCAN + 1]
            lone = part == 13
            lone[: len(following)] &= following != 10
            ends |= lone
        found.append(np.flatnonzero(ends) + (start + 1))
    ends = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    if len(data) and (not len(ends) or ends[-1] != len(data)):
        ends = np.append(ends, len(data))
    return ends

"""What the user is told while a stage works: notes, warnings and one live progress line.

Everything goes to stderr, so that stdout carries results only (`--json`). Warnings are collected,
because each stage saves them beside its result and the report shows them. On a terminal the
progress line is redrawn in place; elsewhere it is printed at most every `interval` seconds.
Text that others wrote (a model, a server, a file) may be in any line, so all of it goes through `neutral`.
(`audit.view.harmless` writes out more, such as characters without width: there the data themselves are shown.)
Writes no file. `Console(quiet=True)` still collects warnings and prints only them.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from typing import TextIO

__all__ = ["Console", "neutral"]


def neutral(text: str) -> str:
    """Control and direction characters written out, so that no text can steer the terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"\\x{ord(c):02x}"
        if unicodedata.category(c) == "Cc" and c not in "\n\t"
        else f"\\u{ord(c):04x}"
        if c in "\u2028\u2029" or "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069"
        else c
        for c in text
    )


class Console:
    """`note` for facts and decisions, `warn` for what may spoil a result, `progress` for the live line."""

    def __init__(
        self, *, quiet: bool = False, stream: TextIO | None = None, interval: float = 10.0
    ) -> None:
        self.quiet = quiet
        self.warnings: list[str] = []
        self._stream = stream
        self._interval = interval
        self._last_print = 0.0
        self._live = False

    def apart(self) -> Console:
        """A console on the same stream with warnings of its own: for one run of several."""
        return Console(quiet=self.quiet, stream=self._stream, interval=self._interval)

    @property
    def stream(self) -> TextIO:
        """Resolved late, so that a redirected `sys.stderr` is honoured."""
        return self._stream if self._stream is not None else sys.stderr

    def note(self, text: str) -> None:
        """A fact or a decision; dropped under `--quiet`."""
        if not self.quiet:
            self._line(text)

    def stage(self, name: str, text: str = "") -> None:
        """The heading of a stage."""
        self.note(f"\n[{name}] {text}".rstrip())

    def warn(self, text: str) -> None:
        """Shown even under `--quiet`, once per text, and kept in `warnings`."""
        if text not in self.warnings:
            self.warnings.append(text)
            self._line(f"warning: {text}")

    def progress(self, text: str, *, final: bool = False) -> None:
        """Redraw the live line; `final` ends it. Off a terminal it is rate-limited, `final` always shown."""
        if self.quiet:
            return
        if self.stream.isatty():
            self._write("\r\x1b[2K" + neutral(text) + ("\n" if final else ""))
            self._live = not final
            return
        now = time.monotonic()
        if final or now - self._last_print >= self._interval:
            self._last_print = now
            self._line(text)

    def _line(self, text: str) -> None:
        before = "\n" if self._live else ""  # not into the middle of the progress line
        self._live = False
        self._write(before + neutral(text) + "\n")

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:  # its reader went away (`2>&1 | head`): no reason to stop the work
            nowhere = open(os.devnull, "w")  # noqa: PTH123, SIM115 - to the end of the process
            if self._stream is None:
                sys.stderr = nowhere
            else:
                self._stream = nowhere

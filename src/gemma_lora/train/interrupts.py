"""SIGTERM and Ctrl-C while training: finish the step, save, then stop.

Inside `Interrupts` the first signal only sets `pending`; the trainer looks at it at every step
boundary. A second Ctrl-C stops at once (the last checkpoint stands). The former handlers are back
when the block ends. `raise_pending` then ends the process as the shell expects: KeyboardInterrupt
for SIGINT (exit code 130), SystemExit(143) for SIGTERM.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from gemma_lora.console import Console

__all__ = ["Interrupts"]


class Interrupts:
    """Context manager; outside the main thread (where Python delivers no signals) it does nothing."""

    def __init__(self, console: Console) -> None:
        self.pending: signal.Signals | None = None
        self._console = console
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.pending is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        first = self.pending is None
        self.pending = signal.Signals(number)
        if first:
            self._console.note("stopping: saving a checkpoint after this step")

    def take(self, number: int) -> None:
        """Stop as if this process had got the signal, which another one got."""
        if self.pending is None:
            self._note(number, None)

    def raise_pending(self) -> None:
        if self.pending == signal.SIGINT:
            raise KeyboardInterrupt
        if self.pending is not None:
            raise SystemExit(128 + int(self.pending))

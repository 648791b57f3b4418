"""Peak memory above the weights, in MiB.

On a CPU: the kernel's high-water mark of resident memory (VmHWM of /proc/self/status) minus the
resident memory once the weights are loaded and touched (a mapped file counts only where it was read).
The mark is set back at that moment through /proc/self/clear_refs, so that neither imports nor loading
are in it. On a GPU: the allocator's peak minus what it holds then. Needs Linux.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


class Memory:
    """`loaded` is called once the weights are there, `result` at the end of the process's work."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._loaded: float | None = None

    def loaded(self, model: torch.nn.Module) -> None:
        """Take the resident memory as the base line, and start the peak from here."""
        with torch.no_grad():
            for parameter in model.parameters():
                # one number of each page; the rest of the page comes with it
                parameter.reshape(-1)[:: max(1, 4096 // parameter.element_size())].sum().item()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._loaded = torch.cuda.memory_allocated() / 2**20
        else:
            Path("/proc/self/clear_refs").write_text("5")
            self._loaded = _status("VmRSS")

    def result(self) -> dict[str, Any]:
        if self._loaded is None:
            raise RuntimeError("the contestant never said that its weights are loaded")
        peak = torch.cuda.max_memory_allocated() / 2**20 if self._cuda else _status("VmHWM")
        return {
            "loaded_mib": round(self._loaded, 1),
            "peak_mib": round(peak, 1),
            "above_weights_mib": round(peak - self._loaded, 1),
        }


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}")

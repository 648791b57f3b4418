"""gemma-lora: from a CSV of questions and answers to a Gemma adapter that is proven better.

Importing the package loads no torch. The stages are functions in their own modules
(`gemma_lora.pipeline.run` is the whole of it); the command line is a thin shell over them.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"

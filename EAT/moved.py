"""What release 1.0 called otherwise: import paths, which work until 2.0 and say once where they lead, and log keys."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "EAT.augment": "EAT.data.augmentation",
    "EAT.front_end": "EAT.network.front_end",
    "EAT.losses": "EAT.network.classification_losses",
    "EAT.masking": "EAT.network.masking",
    "EAT.metrics": "EAT.inference.metrics",
    "EAT.model": "EAT.inference.model",
    "EAT.resampling": "EAT.audio.resampling",
    "EAT.windows": "EAT.inference.windows",
}

RENAMED = {
    "prediction_deviation": "prediction_std",
    "target_deviation": "target_std",
    "masked_share": "masked_fraction",
}
"""Names that release 1.0 logged, and what they are called now."""


class MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of :data:`MOVED` under their old names, after everything else has failed to."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A specification for an old name."""
        return importlib.machinery.ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module under its new name."""
        new = MOVED[spec.name]
        # By the logger, because fairseq silences Python's warnings.
        logging.getLogger("EAT").warning(f"{spec.name} is now {new}; the old name goes with release 2.0")
        return importlib.import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it ran under its new name."""


def install() -> None:
    """Look for old names from now on."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())

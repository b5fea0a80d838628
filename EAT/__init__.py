"""EAT: the Efficient Audio Transformer (arXiv 2401.03497), self-supervised pre-training on audio.

The network, the front end and everything that uses a trained model are plain PyTorch. The rooms ``training``,
``tasks`` and ``models`` register them with fairseq (``common.user_dir=EAT``) and alone import it.

``EAT.load(path)`` opens a trained model, an :class:`EAT.inference.model.EATModel`; ``EAT.run_recipe(name)`` trains one
in a process of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import moved

if TYPE_CHECKING:
    from .inference.model import EATModel, load
    from .training.recipe_run import RecipeRun, run_recipe

moved.install()

__version__ = "1.1.0"
"""Of the package."""
__all__ = ["EATModel", "RecipeRun", "__version__", "load", "run_recipe"]


def __getattr__(name: str) -> Any:
    # Only when asked for: fairseq imports this package first, and training needs none of it.
    if name in ("EATModel", "load"):
        from .inference import model

        return getattr(model, name)
    if name in ("RecipeRun", "run_recipe"):
        from .training import recipe_run

        return getattr(recipe_run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What is compared: a YAML of recipes, each a few Hydra overrides of one that ``config/`` has, at equal work.

```yaml
base: pretraining_demo            # a recipe of config/
user_dir: EAT                     # or a folder of choices of one's own (docs/extending.md)
reference: eat                    # what the others are compared with, and whose work is the budget
sizes:
  screening:
    updates: 1000                 # of the reference
    seeds: [1, 2, 3]
    overrides: [model.embed_dim=256, ...]
recipes:
  eat: []
  slow_teacher: [model.ema_decay=0.999]
summaries:                        # differences at several sizes side by side; may be missing
  teachers:
    heads: [what it changes]      # of the columns of text
    sizes: {screening: at 5e-4}   # with the heads of their columns
    recipes:
      slow_teacher: [a half-life of 700 updates]
```
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..network.mixtures import MixturePretraining
from ..network.objective import TERMS
from ..network.pretraining import Pretraining
from ..network.settings import PretrainingSettings
from ..training.parameter_groups import mark_parameters

UNTRAINED, LOG_MEL = "untrained", "log-mel"
"""Rows that stand in every table."""


@dataclass(frozen=True)
class Size:
    """A budget."""

    updates: int
    """Of the reference."""
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """A table of recipes' differences from the reference, at several sizes side by side."""

    heads: tuple[str, ...]
    """Of the columns of text."""
    sizes: dict[str, str]
    """And the heads of theirs."""
    recipes: dict[str, tuple[str, ...]]
    """And their text, a cell a head."""


@dataclass(frozen=True)
class Bench:
    """A file of recipes, read."""

    base: str
    user_dir: str
    reference: str
    sizes: dict[str, Size]
    recipes: dict[str, tuple[str, ...]]
    summaries: dict[str, Summary]


@dataclass(frozen=True)
class Plan:
    """One run."""

    recipe: str
    size: str
    seed: int
    base: str
    user_dir: str
    overrides: tuple[str, ...]
    updates: int
    gflop: float
    """Of an update: forward, backward and teacher, as counted."""

    @property
    def key(self) -> str:
        """What identifies the run, of :func:`run_key`."""
        return run_key(asdict(self))


def run_key(run: Mapping[str, Any]) -> str:
    """What identifies a run, a plan's or a line's: whatever its result depends on, and nothing else.

    Of two overrides of one setting the last one counts, so that runs of two names or sizes can be the same. A control
    is told by its name, the spectrogram is the same for every seed.
    """
    overrides = {override.partition("=")[0].lstrip("+"): override for override in run["overrides"]}
    control = "" if run["updates"] else run["recipe"]
    seed = 0 if control == LOG_MEL else run["seed"]
    text = json.dumps([run["base"], list(overrides.values()), run["updates"], seed, control])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_bench(path: Path) -> Bench:
    """Read a file of recipes. Raises ConfigError for one that is none, or where PyYAML is not installed."""
    try:
        import yaml
    except ImportError:
        raise ConfigError("comparing recipes needs PyYAML: pip install 'eat-audio[train]'.") from None
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        sizes = {
            name: Size(int(size["updates"]), tuple(map(int, size["seeds"])), _flat(size.get("overrides") or ()))
            for name, size in given["sizes"].items()
        }
        recipes = {name: tuple(overrides or ()) for name, overrides in given["recipes"].items()}
        summaries = {
            name: Summary(
                tuple(summary["heads"]), dict(summary["sizes"]),
                {recipe: tuple(cells) for recipe, cells in summary["recipes"].items()},
            )
            for name, summary in (given.get("summaries") or {}).items()
        }  # fmt: skip
        bench = Bench(given["base"], given.get("user_dir", "EAT"), given["reference"], sizes, recipes, summaries)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{path} is no file of recipes ({error!r}); benchmarks/science/recipes.yaml is one."
        ) from None
    if bench.reference not in recipes:
        raise ConfigError(f"{path}: the reference {bench.reference!r} is none of its recipes.")
    for name, summary in summaries.items():
        for kind, named, known in (("size", summary.sizes, sizes), ("recipe", summary.recipes, recipes)):
            if unknown := [one for one in named if one not in known]:
                raise ConfigError(f"{path}: the summary {name!r} has the {kind} {unknown[0]!r}, which there is not.")
        if uneven := [one for one, cells in summary.recipes.items() if len(cells) != len(summary.heads)]:
            raise ConfigError(
                f"{path}: the summary {name!r} has {len(summary.heads)} heads; {uneven[0]!r} needs as many cells."
            )
    return bench


def _flat(overrides: Sequence[str | Sequence[str]]) -> tuple[str, ...]:
    """Overrides, of which some may stand in a list that several sizes share."""
    return tuple(one for some in overrides for one in ([some] if isinstance(some, str) else some))


def import_choices(user_dir: str) -> None:
    """Import a folder of choices of one's own, as fairseq does from ``common.user_dir``."""
    path = Path(user_dir)
    if path.name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(path.name, path / "__init__.py")
    if spec is None or spec.loader is None or not (path / "__init__.py").is_file():
        raise ConfigError(f"user_dir {user_dir} has no __init__.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.name] = module
    spec.loader.exec_module(module)


def composed(config: Path, base: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    """A recipe with overrides, as :func:`EAT.training.before.compose` reads it. Raises ConfigError."""
    try:
        from omegaconf import OmegaConf

        from ..training.before import compose
    except ImportError:
        raise ConfigError(
            "comparing recipes trains models, which needs fairseq: see the README's installation."
        ) from None
    return OmegaConf.to_container(compose(config, base, overrides))  # type: ignore


def count_gflop(recipe: Mapping[str, Any]) -> float:
    """Work of one update, counted: multiply-adds as 2, of everything that runs through the network once and back.

    Two clips are counted and scaled to the batch; products of matrices in the optimiser's step are added.
    """
    from fairseq.optim import build_optimizer
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    from ..training import adamw  # noqa: F401 - which makes itself known

    # PyTorch's counter knows the attention kernels of GPUs alone.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    kernels = {
        attention: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    settings = PretrainingSettings.take(recipe["model"])
    model = (MixturePretraining if settings.mixtures else Pretraining)(settings)
    filterbank = torch.randn(2, 1, int(recipe["task"]["target_length"]), settings.mel_bins)
    batch = model.draw(filterbank, [0, 1], seed=1, epoch=1)
    weights = {
        "frame": 1.0, "utterance": recipe["criterion"]["utterance_weight"], **(recipe["criterion"].get("weights") or {})
    }  # fmt: skip
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        outcome = model(batch, [name for name in weights if name in TERMS])
        torch.stack([weights[name] * value for name, value in outcome.terms.items()]).sum().backward()
    mark_parameters(model)
    try:
        optimizer = build_optimizer(
            OmegaConf.create({**recipe["optimizer"], "lr": recipe["optimization"]["lr"]}), list(model.parameters())
        )
    except OmegaConfBaseException as error:
        raise ConfigError(f"the optimiser cannot be made with these settings: {' '.join(str(error).split())}") from None
    with FlopCounterMode(display=False) as of_step:
        optimizer.step()
    clips = recipe["dataset"]["batch_size"] * recipe["optimization"]["update_freq"][0]
    return (counter.get_total_flops() / 2 * clips + of_step.get_total_flops()) / 1e9


def plans(bench: Bench, size: str, config: Path, only: Sequence[str] | None = None) -> list[Plan]:
    """The runs of a size, seed by seed, each recipe with as many updates as fit into the reference's work.

    Raises:
        ConfigError: for a size or recipe that there is not, or overrides that do not compose.
    """
    if size not in bench.sizes:
        raise ConfigError(f"there is no size {size!r}; it must be one of {', '.join(bench.sizes)}.")
    unknown = [name for name in only or () if name not in bench.recipes]
    if unknown:
        raise ConfigError(f"there is no recipe {unknown[0]!r}; there are {', '.join(bench.recipes)}.")
    import_choices(bench.user_dir)
    budget = bench.sizes[size]
    work = {
        name: count_gflop(composed(config, bench.base, (*budget.overrides, *own, "task.data=.")))
        for name, own in bench.recipes.items()
        if name == bench.reference or not only or name in only
    }
    return [
        Plan(
            name, size, seed, bench.base, bench.user_dir, (*budget.overrides, *bench.recipes[name]),
            max(1, round(budget.updates * work[bench.reference] / work[name])), work[name],
        )
        for seed in budget.seeds
        for name in work
        if not only or name in only
    ]  # fmt: skip

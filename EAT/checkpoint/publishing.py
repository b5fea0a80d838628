"""A checkpoint as a folder to publish: weights, configuration with class names, and a model card."""

from __future__ import annotations

import math
from pathlib import Path

from ..errors import CheckpointError
from ..files import replacing
from ..network.front_end import FrontEnd
from .contents import ENCODER, Contents
from .formats import write_checkpoint
from .hub import CARD_NAME, hub_library

CARD = """{front_matter}
# {title}

{what}, as [EAT](https://arxiv.org/abs/2401.03497) is built: the Efficient Audio Transformer.

| | |
|---|---|
| parameters | {parameters:.1f} M |
| width, blocks, heads | {width}, {depth}, {heads} |
| hears | mono at {rate:,} Hz, best {seconds:g} s at a time |
| filterbank | {bins} mel bins, normalised with mean {mean:g} and standard deviation {std:g} |
| gives | {gives} |

## Use

`pip install 'eat-audio[hub]'`, then

```python
import EAT

model = EAT.load("{name}")
{example}
```

## Still to be written by whoever publishes it

What it was trained on, how well it does and on what that was measured, and what it should not be used for.
"""


def write_folder(contents: Contents, folder: Path, name: str, licence: str | None = None) -> None:
    """Write ``model.safetensors``, ``config.json`` with ``id2label``, and a model card that says what can be known.

    Args:
        contents: the checkpoint.
        folder: where to; a model card that is there already is kept.
        name: ``owner/name``, for the card.
        licence: identifier of the licence, for the card; None states none.

    Raises:
        CheckpointError: for a model that the format cannot hold, or a folder that cannot be written.
    """
    hub = hub_library(name)
    write_checkpoint(contents, str(folder), "huggingface")
    card = folder / CARD_NAME
    if card.exists():
        return
    classes = getattr(contents.settings, "num_classes", None)
    settings, front_end = contents.settings, contents.front_end or FrontEnd(1024)
    data = hub.ModelCardData(
        license=licence,
        library_name="eat-audio",
        pipeline_tag="feature-extraction" if classes is None else "audio-classification",
        tags=["audio", "eat"],
    )
    text = CARD.format(
        front_matter=f"---\n{data.to_yaml()}\n---",
        title=name.rpartition("/")[2],
        name=name,
        what="An encoder pre-trained without labels" if classes is None else f"A classifier of {classes} classes",
        parameters=sum(math.prod(value.shape) for key, value in contents.tensors.items() if _counts(key)) / 1e6,
        width=settings.embed_dim,
        depth=settings.depth,
        heads=settings.num_heads,
        rate=front_end.sample_rate,
        seconds=front_end.target_length * front_end.hop / front_end.sample_rate,
        bins=front_end.bins,
        mean=front_end.norm_mean,
        std=front_end.norm_std,
        gives=f"vectors of {settings.embed_dim}" + ("" if classes is None else f", scores of {classes} classes"),
        example='vector = model.extract("clip.wav", granularity="utterance")'
        if classes is None
        else 'scores = model.predict("clip.wav", top_k=3)',
    )
    with replacing(card) as handle:
        handle.write(text)


def _counts(name: str) -> bool:
    """Whether a tensor is a parameter of the model that is used: encoder and head, without the fixed positions."""
    return name.startswith((ENCODER, "norm.", "head.")) and "positions" not in name


def push(folder: Path, name: str, private: bool = False) -> str:
    """Upload a folder as one commit, making the repository where it does not exist. Returns its address.

    Raises:
        CheckpointError: where it cannot be uploaded; nothing is changed then.
    """
    hub = hub_library(name)
    try:
        api = hub.HfApi(library_name="eat-audio")
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload an EAT model"))
    except Exception as error:  # the library's and its HTTP library's errors, which have no base class in common
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(
            f"{name} could not be uploaded to {hub.constants.ENDPOINT} ({reason}); hf auth login gives the permission."
        ) from None

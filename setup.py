"""Installation: ``pip install .`` for features and predictions, ``pip install '.[train]'`` for training."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.findall(r'__version__ = "(.+)"', (HERE / "EAT" / "__init__.py").read_text())[0]

EXTRAS = {
    "train": [
        "ve-fairseq==0.12.3; python_version < '3.13'",
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3,<2.4",
        "tensorboard>=2.15",
    ],
    "evaluate": ["scikit-learn>=1.4", "matplotlib>=3.8"],
    "events": ["sed_scores_eval>=0.0.4", "pandas>=2.2,<3", "scikit-learn>=1.4", "matplotlib>=3.8"],
    "plot": ["matplotlib>=3.8"],
    "hdf5": ["h5py>=3.10"],
    "huggingface": ["safetensors>=0.4"],
    "soxr": ["soxr>=0.3.7"],
    "hub": ["huggingface_hub>=1.33", "safetensors>=0.4"],
    "onnx": ["onnx>=1.16", "onnxscript>=0.3", "onnxruntime>=1.18"],
    "table": ["pyarrow>=16"],
    "ray": ["ray[data]>=2.60", "pyarrow>=16"],
    "slurm": ["hydra-submitit-launcher>=1.2"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

setup(
    name="eat-audio",
    version=VERSION,
    description="The Efficient Audio Transformer: self-supervised pre-training on audio, features and labels from it",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    packages=[*find_packages(include=["EAT", "EAT.*"]), "EAT.config", "EAT.demo_clips"],
    package_dir={"EAT.config": "config", "EAT.demo_clips": "data"},
    package_data={
        "EAT": ["py.typed", "pictures/web/*"],
        "EAT.checkpoint": ["weights.json"],
        "EAT.config": ["*.yaml", "*/*.yaml"],  # the recipes, for python -m EAT.train
        "EAT.demo_clips": ["*", "clips/*.flac"],
    },
    # A path that Python searches, not a hook that comes after the search: a clone, seen from its parent, is a folder of
    # the package's name without the package in it, and would be found first.
    options={"editable_wheel": {"mode": "compat"}},
    entry_points={"console_scripts": ["eat = EAT.__main__:eat"]},
    python_requires=">=3.11",
    install_requires=["torch>=2.6", "numpy>=1.26", "soundfile>=0.12.1", "tqdm>=4.60", "shtab>=1.7"],
    extras_require=EXTRAS,
)

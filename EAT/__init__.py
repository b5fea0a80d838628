"""EAT: the Efficient Audio Transformer (arXiv 2401.03497), self-supervised pre-training on audio.

The network, the front end and everything that uses a trained model are plain PyTorch. The sub-packages ``tasks``,
``models``, ``criterions`` and ``optim`` register them with fairseq (``common.user_dir=EAT``) and alone import it.
"""

__version__ = "1.0.0"

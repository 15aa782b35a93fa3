"""CIFAR-10 (Krizhevsky 2009), one kind of object normal (0: airplane), all others anomalous; photographs, in colour.

    pip install -r requirements-tfds.txt
    python train.py --config configs/cifar10.py --config.data.normal=1 --workdir runs/automobile
    python score.py --config configs/cifar10.py --workdir runs/automobile --compare

TensorFlow Datasets downloads it. A rotation network takes part in the scores: more where things have an upright, such
as automobiles, less where few of their turns are told. Detection on CIFAR-10 was not measured here; the weight comes
from trials with a sketch of these networks. What they are worth on garments: docs/detection.md (Rotations). Training
takes about ten minutes of processor time, on images of noise of this size: 82 ms a step of the GAN, 118 ms of the
rotation network.
"""

from anogan_jax.config import BankConfig, Config, DataConfig, ModelConfig, RotationConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="tfds", name="cifar10", normal="0"),
        model=ModelConfig(image_size=32, channels=3, width=32, latent_size=64),
        rotation=RotationConfig(steps=2_000, weight=0.3),
        bank=BankConfig(inverted=0),
    )

"""CIFAR-10 (Krizhevsky 2009), one kind of object normal (0: airplane), all others anomalous; photographs, in colour.

    pip install -r requirements-tfds.txt
    python train.py --config configs/cifar10.py --config.data.normal=1 --workdir runs/automobile
    python score.py --config configs/cifar10.py --workdir runs/automobile --compare

TensorFlow Datasets downloads it. A rotation network takes part in the scores: it helps where things have an upright,
such as automobiles, and takes a small part where they have none, or few of its turns are told. Nothing was measured on
CIFAR-10, neither AUROC nor time; what the same network is worth on garments is in docs/detection.md (Rotations). Of
garments, images of the same size, GAN and rotation network train in less than ten minutes on two CPU cores.
"""

from anogan_jax.config import BankConfig, Config, DataConfig, ModelConfig, RotationConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="tfds", name="cifar10", normal=0),
        model=ModelConfig(image_size=32, channels=3, width=32, latent_size=64),
        rotation=RotationConfig(steps=2_000),
        bank=BankConfig(inverted=0),
    )

"""MNIST, one digit normal."""

from anogan_jax.config import Config, DataConfig


def get_config() -> Config:
    return Config(data=DataConfig(source="auto", name="mnist", normal=0, normalize_contrast=True))

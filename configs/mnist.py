"""MNIST, one digit normal."""

from anogan_jax.config import Config, DataConfig, SearchConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="auto", name="mnist", normal=0, normalize_contrast=True),
        search=SearchConfig(feature_layer=0),
    )

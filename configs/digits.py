"""scikit-learn's digits."""

from anogan_jax.config import Config, DataConfig, ModelConfig, SearchConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="packaged", name="digits", normal=0, held_out=0.2),
        model=ModelConfig(image_size=16, width=16, latent_size=16),
        train=TrainConfig(steps=1_000, batch_size=32),
        search=SearchConfig(steps=200),
    )

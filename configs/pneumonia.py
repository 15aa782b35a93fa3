"""PneumoniaMNIST (MedMNIST): chest X-rays of 28x28 pixels, healthy ones to train on; or any file with MedMNIST's keys.

    python train.py --config configs/pneumonia.py --config.data.dir=pneumoniamnist.npz
    python score.py --config configs/pneumonia.py

Trains in two minutes on two CPU cores; AUROC on the test split: README.md.
"""

from anogan_jax.config import Config, DataConfig, EncoderConfig, ModelConfig, SearchConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="npz", normal=0, normalize_contrast=True),
        model=ModelConfig(image_size=32, latent_size=16),
        train=TrainConfig(steps=2_000),
        encoder=EncoderConfig(feature_layer=0),
        search=SearchConfig(feature_layer=0),
    )

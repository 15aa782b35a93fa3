"""PneumoniaMNIST (MedMNIST): chest X-rays of 28x28 pixels, healthy ones to train on; or any file with MedMNIST's keys.

    python train.py --config configs/pneumonia.py --config.data.dir=pneumoniamnist.npz
    python score.py --config configs/pneumonia.py

No training image is treated as an outlier, because physicians have checked them. This setting and the latent size were
chosen on the validation split (docs/detection.md). Training takes about three minutes on two CPU cores.
"""

from anogan_jax.config import BankConfig, Config, DataConfig, EncoderConfig, ModelConfig, SearchConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="npz", normal="0", normalize_contrast=True),
        model=ModelConfig(image_size=32, latent_size=64),
        train=TrainConfig(steps=2_000),
        encoder=EncoderConfig(feature_layer=0),
        bank=BankConfig(max_deviation=1e6),
        search=SearchConfig(feature_layer=0),
    )

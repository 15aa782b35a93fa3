"""AnoGAN in JAX and Flax: anomaly detection learnt from normal images alone (Schlegl et al. 2017)."""

from anogan_jax.bank import Bank, describe_bank, make_bank, nearest, neighbours
from anogan_jax.calibration import p_values, threshold
from anogan_jax.data import to_model_range
from anogan_jax.devices import make_mesh
from anogan_jax.encoding import init_encoder_state, make_encoder, make_encoder_step
from anogan_jax.losses import (
    critic_generator_loss,
    critic_loss,
    cross_entropy_loss,
    discriminator_loss,
    encoding_loss,
    feature_matching_loss,
    generator_loss,
    gradient_penalty,
    residual_loss,
)
from anogan_jax.models import GAN, Discriminator, Generator, Weights, make_gan, sample_latent
from anogan_jax.scoring import (
    Score,
    from_bank,
    from_encoder,
    from_prior,
    make_discriminator_scorer,
    make_encoder_scorer,
    make_nearest_scorer,
    make_search_scorer,
    score_images,
)
from anogan_jax.search import SearchResult, latent_search, make_search
from anogan_jax.structure import describe, difference_map, structure_loss
from anogan_jax.training import TrainState, inference_weights, init_state, make_optimizer, make_train_step
from anogan_jax.version import __version__

__all__ = [
    "GAN",
    "Bank",
    "Discriminator",
    "Generator",
    "Score",
    "SearchResult",
    "TrainState",
    "Weights",
    "__version__",
    "critic_generator_loss",
    "critic_loss",
    "cross_entropy_loss",
    "describe",
    "describe_bank",
    "difference_map",
    "discriminator_loss",
    "encoding_loss",
    "feature_matching_loss",
    "from_bank",
    "from_encoder",
    "from_prior",
    "generator_loss",
    "gradient_penalty",
    "inference_weights",
    "init_encoder_state",
    "init_state",
    "latent_search",
    "make_bank",
    "make_discriminator_scorer",
    "make_encoder",
    "make_encoder_scorer",
    "make_encoder_step",
    "make_gan",
    "make_mesh",
    "make_nearest_scorer",
    "make_optimizer",
    "make_search",
    "make_search_scorer",
    "make_train_step",
    "nearest",
    "neighbours",
    "p_values",
    "residual_loss",
    "sample_latent",
    "score_images",
    "structure_loss",
    "threshold",
    "to_model_range",
]

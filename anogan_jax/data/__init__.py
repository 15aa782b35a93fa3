"""Where images come from: sources, conversion to uint8, one-class protocols, and the model's view of an image."""

from anogan_jax.data.images import Images, is_readable, read_ahead
from anogan_jax.data.inputs import check_model_range, find_inputs, folder_of, from_user, read_inputs
from anogan_jax.data.one_class import OneClass, load_one_class, test_split
from anogan_jax.data.pixels import limit_pixels
from anogan_jax.data.pseudo import make_pseudo_draw, to_batch
from anogan_jax.data.regions import cropped, is_folder_of_masks, parse_threshold, read_roi, within
from anogan_jax.data.views import (
    as_array,
    make_draw,
    make_resize,
    resized_images,
    resized_regions,
    to_networks,
    turned,
    view_of,
)

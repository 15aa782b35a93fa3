"""Where images come from: sources, conversion to uint8, one-class protocols, and the model's view of an image."""

from anogan_jax.data.images import (
    Images,
    check_model_range,
    contrast_tables,
    find_inputs,
    folder_of,
    from_user,
    is_readable,
    read_ahead,
    read_input,
    read_inputs,
    to_model_range,
    to_pixels,
)
from anogan_jax.data.one_class import OneClass, load_one_class
from anogan_jax.data.pseudo import make_pseudo_draw, to_batch
from anogan_jax.data.regions import apply_region, cropped, is_folder_of_masks, read_roi, resize_region, within
from anogan_jax.data.views import (
    as_array,
    has_content,
    make_draw,
    make_resize,
    pad_to,
    resized_images,
    resized_regions,
    to_networks,
    turned,
)

"""Images: what one is (uint8 [H, W, 3] RGB), where they come from, and small pure functions on them."""

from tir_env.images.operations import Image, digest
from tir_env.images.reading import ImageError, decode_image, read_image, write_image

__all__ = ["Image", "ImageError", "decode_image", "digest", "read_image", "write_image"]

"""Product tagging: from an image and a title to the tags that a shop stores.

`tag` is the pipeline that mlkit ships with. Each step can be called, replaced by one of your own
(``tag.replace(product_class=mine)``), or used in another pipeline. Needs the extra ``models``.
`tag_clip` does the same for the frames of a video, and needs the extra ``video`` as well.
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from mlkit.define import ImageSource
from mlkit.errors import require_extra
from mlkit.media.video import Video
from mlkit.pipelines import pipeline
from mlkit.tagging.classify import imagenet_labels, look, product_class
from mlkit.tagging.clip import clip_tags
from mlkit.tagging.colour import colours
from mlkit.tagging.combine import combine
from mlkit.tagging.download import download
from mlkit.tagging.image import decode
from mlkit.tagging.localise import localise
from mlkit.tagging.text import words
from mlkit.tagging.types import (
    Box,
    ClipTags,
    Colour,
    FrameTags,
    Label,
    ProductClass,
    ProductTags,
    TagShare,
)

__all__ = [
    "Box",
    "ClipTags",
    "Colour",
    "FrameTags",
    "Label",
    "ProductClass",
    "ProductTags",
    "TagShare",
    "clip_tags",
    "colours",
    "combine",
    "decode",
    "download",
    "imagenet_labels",
    "localise",
    "look",
    "product_class",
    "tag",
    "tag_clip",
    "words",
]

require_extra("models", "safetensors", "torch", "webcolors")


@pipeline
def tag(image: ImageSource, title: str = "") -> ProductTags:
    """Tag one product: what it is, where it is, its colours, and the words of its title.

    Args:
        image: image of the product.
        title: title of the product in the shop.

    Returns:
        The results of all steps, and the tags they are merged into.
    """
    picture = decode(download(image))
    seen = look(picture)
    box = localise(picture, seen)
    return combine(
        product_class(seen), imagenet_labels(seen), box, colours(picture, box), words(title)
    )


@pipeline
def tag_clip(
    clip: Video, every_s: Annotated[float, Field(ge=0.1)] = 1.0
) -> Iterator[FrameTags | ClipTags]:
    """Tag a video: yields the tags of each frame, then those of the clip.

    Args:
        clip: video of the product.
        every_s: seconds from one frame to the next, at least a tenth.
    """
    return clip_tags(clip, every_s)

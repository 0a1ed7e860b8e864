"""Tags of a video: of one frame after the other, then merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mlkit.define import resource, step
from mlkit.media.image import Image
from mlkit.media.video import Video
from mlkit.models import CompiledModel
from mlkit.tagging.classify import imagenet_labels, look, product_class
from mlkit.tagging.colour import colours
from mlkit.tagging.combine import MAX_TAGS, combine
from mlkit.tagging.localise import localise
from mlkit.tagging.network import load_tagging_model
from mlkit.tagging.types import ClipTags, FrameTags, ProductTags, TagShare

__all__ = ["clip_tags"]

MIN_SHARE = 0.1
"""Minimum share of the frames that a tag is seen in."""


@step
def clip_tags(
    clip: Video, every_s: float, *, model: CompiledModel = resource(load_tagging_model)
) -> Iterator[FrameTags | ClipTags]:
    """Yield the tags of a frame every so many seconds, and then those of the clip.

    One frame is in memory at a time.
    """
    shares: Counter[str] = Counter()
    number = 0
    for picture in clip.frames(every_s):
        tags = _tags(picture, model)
        yield FrameTags(at_s=number * every_s, tags=tags)
        shares.update(tags)
        number += 1
    merged = [TagShare(name=tag, share=count / number) for tag, count in shares.most_common()]
    yield ClipTags(frames=number, tags=[tag for tag in merged if tag.share >= MIN_SHARE][:MAX_TAGS])


def _tags(picture: Image, model: CompiledModel) -> list[str]:
    (seen,) = look.fn([picture], model=model)
    box = localise.fn(picture, seen)
    merged: ProductTags = combine.fn(
        product_class.fn(seen), imagenet_labels.fn(seen), box, colours.fn(picture, box), []
    )
    return merged.tags

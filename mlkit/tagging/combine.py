"""Merges the results of all steps into tags."""

from __future__ import annotations

from collections.abc import Iterator

from mlkit.define import step
from mlkit.tagging.types import Box, Colour, Label, ProductClass, ProductTags

__all__ = ["MAX_TAGS", "combine"]

MAX_TAGS = 12

STRONG_LABEL = 0.3
"""Minimum score of an ImageNet label that becomes a tag."""

LARGE_SHARE = 0.2
"""Minimum share of a second colour that becomes a tag."""

# ImageNet labels that specialize a product class. Any other label contradicts the class and is
# nearly always wrong: sleeping bag, velvet fabric.
_FINER = {
    "dress": {"abaya", "gown", "kimono", "sarong"},
    "hat": {"bearskin hat", "cowboy hat", "poke bonnet", "shower cap", "sombrero", "swimming cap"},
    "longsleeve": {"cardigan", "pajamas", "sweatshirt"},
    "outwear": {"cardigan", "cloak", "fur coat", "lab coat", "poncho", "suit", "sweatshirt"}
    | {"trench coat"},
    "pants": {"jeans", "pajamas", "suit"},
    "shirt": set[str](),
    "shoes": {"clogs", "cowboy boot", "sandal", "slip-on shoe", "sneaker"},
    "shorts": {"pajamas", "swim trunks"},
    "skirt": {"hoop skirt", "miniskirt", "overskirt", "sarong"},
    "t-shirt": set[str](),
}

# Synonyms; the first one is stored. Plurals need no entry, see `_key`.
_SYNONYMS = (
    ("t-shirt", "tee", "tshirt", "tee shirt"),
    ("longsleeve", "long-sleeve", "long-sleeved", "long sleeve"),
    ("outwear", "outerwear"),
    ("pants", "trousers"),
    ("shoes", "footwear"),
    ("hoodie", "hoody"),
    ("sneakers", "trainers", "running shoe"),
    ("gray", "grey"),
    ("lightgray", "lightgrey"),
    ("turquoise", "aqua", "cyan"),
    ("magenta", "fuchsia"),
)


@step
def combine(
    product: ProductClass | None,
    labels: list[Label],
    box: Box | None,
    colours: list[Colour],
    words: list[str],
) -> ProductTags:
    """Merge all results into ``tags``: product class, colours, title words, other labels.

    ImageNet labels are used only with a high score, and if they do not contradict the product
    class. Of synonyms such as *tee* and *t-shirt* one is kept.
    """
    tags_by_key: dict[str, str] = {}
    for word in _ranked(product, labels, colours, words):
        stored = _SAME.get(_key(word), word)
        tags_by_key.setdefault(_key(stored), stored)
    return ProductTags(
        product_class=product,
        labels=labels,
        box=box,
        colours=colours,
        words=words,
        tags=list(tags_by_key.values())[:MAX_TAGS],
    )


def _ranked(
    product: ProductClass | None, labels: list[Label], colours: list[Colour], words: list[str]
) -> Iterator[str]:
    seen = [_plain(label.name) for label in labels if label.score >= STRONG_LABEL]
    if product is not None:
        yield product.name
        seen = [name for name in seen if name in _FINER.get(product.name, seen)]
    else:
        yield from seen[:1]
    yield from (c.name for i, c in enumerate(colours[:2]) if i == 0 or c.share >= LARGE_SHARE)
    yield from words
    yield from seen


def _plain(name: str) -> str:
    """Pick one of the synonyms in an ImageNet name, in lower case: a common one, else the first."""
    names = [part.strip().lower() for part in name.split(",")]
    return next((part for part in names if _key(part) in _SAME), names[0])


def _key(word: str) -> str:
    """Normalize a word: without hyphens, spaces and plural ending."""
    bare = word.replace("-", "").replace(" ", "").replace("'", "")
    return bare[:-1] if bare.endswith("s") and not bare.endswith("ss") and len(bare) > 3 else bare


_SAME = {_key(word): group[0] for group in _SYNONYMS for word in group}

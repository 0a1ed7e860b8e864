"""Result types of the tagging pipeline; they are its API's response models."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "Box",
    "ClipTags",
    "Colour",
    "FrameTags",
    "Label",
    "ProductClass",
    "ProductTags",
    "Share",
    "TagShare",
]

Share = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda value: round(value, 4))]
"""A number from 0 to 1, rounded to four decimal places."""


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)


class Label(_Result):
    """One of the 1,000 ImageNet labels."""

    name: str = Field(description="Name of the ImageNet class.", examples=["T-shirt"])
    score: Share = Field(description="Probability, from 0 to 1.", examples=[0.8312])


class ProductClass(_Result):
    """A kind of clothing."""

    name: str = Field(
        description="One of dress, hat, longsleeve, outwear, pants, shirt, shoes, shorts, skirt "
        "and t-shirt.",
        examples=["t-shirt"],
    )
    score: Share = Field(description="Probability, from 0 to 1.", examples=[0.9731])


class Box(_Result):
    """Bounding box of the product, in pixels of the upright image; x1 and y1 are exclusive."""

    x0: int = Field(ge=0, description="Left edge.", examples=[40])
    y0: int = Field(ge=0, description="Upper edge.", examples=[62])
    x1: int = Field(ge=0, description="Right edge, exclusive.", examples=[361])
    y1: int = Field(ge=0, description="Lower edge, exclusive.", examples=[490])


class Colour(_Result):
    """One of the product's main colours."""

    name: str = Field(description="Name of the nearest CSS colour.", examples=["navy"])
    hex: str = Field(
        pattern="^#[0-9a-f]{6}$",
        description="The mean colour in hexadecimal notation.",
        examples=["#1d2951"],
    )
    share: Share = Field(
        description="Fraction of the product with this colour, from 0 to 1.", examples=[0.7408]
    )


class ProductTags(_Result):
    """Everything that was determined about a product."""

    product_class: ProductClass | None = Field(
        description="The kind of clothing; null if the image shows none."
    )
    labels: list[Label] = Field(description="The most likely ImageNet labels, best first.")
    box: Box | None = Field(description="Bounding box of the product; null if none stands out.")
    colours: list[Colour] = Field(description="The main colours, most prominent first.")
    words: list[str] = Field(
        description="The meaningful words of the title, in order.",
        examples=[["navy", "cotton", "t-shirt"]],
    )
    tags: list[str] = Field(
        description="Tags merged from all results, most relevant first.",
        examples=[["t-shirt", "navy", "cotton"]],
    )


class FrameTags(_Result):
    """Tags of one frame of a clip."""

    at_s: float = Field(ge=0, description="Time of the frame, in seconds.", examples=[2.0])
    tags: list[str] = Field(description="Its tags, most relevant first.", examples=[["t-shirt"]])


class TagShare(_Result):
    """A tag, and how often it is seen."""

    name: str = Field(description="The tag.", examples=["t-shirt"])
    share: Share = Field(description="Fraction of the frames with this tag, from 0 to 1.")


class ClipTags(_Result):
    """Tags of a whole clip."""

    frames: int = Field(ge=1, description="Number of frames that were looked at.", examples=[12])
    tags: list[TagShare] = Field(description="Tags of the frames, the most frequent first.")

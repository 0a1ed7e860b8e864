"""What the tagging pipeline says about a picture, typed; these models are what its API answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = ["Box", "Colour", "Label", "ProductClass", "ProductTags", "Share"]

Share = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda value: round(value, 4))]
"""A number from 0 to 1, kept to four decimal places: more would be noise."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Label(_Answer):
    """One of the 1,000 ImageNet labels, and how sure the model is of it."""

    name: str = Field(
        description="Name of the ImageNet class.",
        examples=["T-shirt"],
    )
    score: Share = Field(description="Probability, from 0 to 1.", examples=[0.8312])


class ProductClass(_Answer):
    """Which kind of clothing it is, and how sure the model is."""

    name: str = Field(
        description="One of dress, hat, longsleeve, outwear, pants, shirt, shoes, shorts, skirt "
        "and t-shirt.",
        examples=["t-shirt"],
    )
    score: Share = Field(description="Probability, from 0 to 1.", examples=[0.9731])


class Box(_Answer):
    """Where the product is, in pixels of the upright picture; x1 and y1 are just outside."""

    x0: int = Field(ge=0, description="Left edge.", examples=[40])
    y0: int = Field(ge=0, description="Upper edge.", examples=[62])
    x1: int = Field(ge=0, description="Right edge, exclusive.", examples=[361])
    y1: int = Field(ge=0, description="Lower edge, exclusive.", examples=[490])


class Colour(_Answer):
    """One of the product's main colours."""

    name: str = Field(description="Name of a CSS colour that is near.", examples=["navy"])
    hex: str = Field(
        pattern="^#[0-9a-f]{6}$",
        description="The colour itself, averaged over the part that has it.",
        examples=["#1d2951"],
    )
    share: Share = Field(
        description="How much of the product has it, from 0 to 1.", examples=[0.7408]
    )


class ProductTags(_Answer):
    """All that was found out about one product."""

    product_class: ProductClass | None = Field(
        description="The kind of clothing; null when it is none of those known."
    )
    labels: list[Label] = Field(description="The most likely ImageNet labels, best first.")
    box: Box | None = Field(description="Where the product is; null when no place stands out.")
    colours: list[Colour] = Field(description="The main colours, most prominent first.")
    words: list[str] = Field(
        description="The words of the title that mean something, in its order.",
        examples=[["navy", "cotton", "t-shirt"]],
    )
    tags: list[str] = Field(
        description="All of it merged: what a shop would store, most telling first.",
        examples=[["t-shirt", "navy", "cotton"]],
    )

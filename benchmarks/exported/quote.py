# %%
import datetime as dt
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from mlkit import pipeline, step


# %%
class Card(BaseModel):
    kind: Literal["card"] = "card"
    country: str


class Invoice(BaseModel):
    kind: Literal["invoice"] = "invoice"
    due: dt.date


Payment = Annotated[Card | Invoice, Field(discriminator="kind")]


class Item(BaseModel):
    sku: str | int
    price: Decimal
    count: int = 1


# %%
class Accepted(BaseModel):
    total: Decimal
    by: dt.date | None = None


class Refused(BaseModel):
    reason: str


# %%
FOREIGN = Decimal("0.25")


@step
def price(items: list[Item], payment: Payment) -> Accepted | Refused:
    total = sum((item.price * item.count for item in items), Decimal(0))
    if not items:
        return Refused(reason="nothing to pay")
    if isinstance(payment, Invoice):
        return Accepted(total=total, by=payment.due)
    return Accepted(total=total + (payment.country != "FR") * FOREIGN)


# %%
@pipeline
def quote(items: list[Item], payment: Payment) -> Accepted | Refused:
    return price(items, payment)


# %%
shoe = Item(sku=12, price=Decimal("59.90"), count=2)
hat = Item(sku="H-1", price=Decimal("0.1"))
abroad = Card(country="IT")
later = Invoice(due=dt.date(2026, 1, 31))
basket = [shoe, hat]

# %%
quote(basket, abroad)

# %%
quote(basket, later)

# %%
quote([], abroad)

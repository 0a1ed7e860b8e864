# %%
import rates
from fastapi import APIRouter, Depends, FastAPI, HTTPException

from mlkit import pipeline, resource, step
from mlkit.serving import served


# %%
def load_prices() -> dict[str, float]:
    return rates.read("prices.csv")


# %%
@step
def look_up(
    sku: str, *, prices: dict[str, float] = resource(load_prices, files=["prices.csv"])
) -> float:
    if sku not in prices:
        raise HTTPException(404, "no such product")
    return rates.gross(prices[sku])


# %%
@pipeline
def price(sku: str) -> float:
    return look_up(sku)


# %%
shop = FastAPI(title="Shop")
items = APIRouter(prefix="/items")


# %%
@items.get("/{sku}")
async def item(sku: str, price=Depends(served(price))) -> dict[str, float]:
    return {sku: await price(sku)}


# %%
shop.include_router(items)

# %%
price("shoe")

# %%
price("hat")

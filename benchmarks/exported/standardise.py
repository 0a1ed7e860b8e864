# %%
import numpy as np
import pandas as pd

from mlkit import pipeline, step

# %%
rng = np.random.default_rng(0)
seen = rng.normal(3, 2, (500, 2))
mean, scale = seen.mean(0), seen.std(0)
names = pd.DataFrame({"column": ["width", "height"], "unit": ["mm", "mm"]})


# %%
@step
def scaled(rows: np.ndarray) -> np.ndarray:
    return (rows - mean) / scale


# %%
@step
def table(rows: np.ndarray, labels: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=names["column"]).assign(label=labels["label"])


# %%
@pipeline
def standardise(rows: np.ndarray, labels: pd.DataFrame) -> pd.DataFrame:
    return table(scaled(rows), labels)


# %%
two = np.array([[1.0, 2.0], [3.5, -1.25]])
labels = pd.DataFrame({"label": ["a", "b"]})

# %%
standardise(two, labels)

# %%
one, of_one = np.array([[0.1, 0.2]]), pd.DataFrame({"label": [None]})

# %%
standardise(one, of_one)

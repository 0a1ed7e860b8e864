"""mlkit: write an inference pipeline as typed functions, run it here, serve it, measure it.

::

    from mlkit import batched_step, pipeline, resource, step

    @step
    def decode(data: bytes) -> Image: ...

    @pipeline
    def tag(image: ImageSource, title: str = "") -> ProductTags:
        return combine(classify(decode(download(image))), words(title))

    tag("shoe.jpg")                       # runs here
    from mlkit.serving import deploy
    app = deploy(tag)                     # Ray Serve behind FastAPI
    from mlkit.load import load_test, poisson
    load_test(app, payloads, poisson(rate=50), duration_s=20).plot()

Importing mlkit loads neither Ray nor torch.
"""

from mlkit.define import (
    ImageSource,
    Rows,
    Step,
    Upload,
    batched_step,
    branch,
    codec,
    each,
    resource,
    step,
)
from mlkit.errors import InputError, MlkitError
from mlkit.media.image import Image
from mlkit.pipelines import Pipeline, pipeline

__version__ = "0.1.0"

__all__ = [
    "Image",
    "ImageSource",
    "InputError",
    "MlkitError",
    "Pipeline",
    "Rows",
    "Step",
    "Upload",
    "__version__",
    "batched_step",
    "branch",
    "codec",
    "each",
    "pipeline",
    "resource",
    "step",
]

"""Types of arguments and results that have limits, and options for them.

::

    from mlkit.types import Audio, AudioOptions, Text, Video

    Speech = Annotated[Audio, AudioOptions(rate=16_000, mono=True, max_s=60)]

    @step
    def transcribe(speech: Speech) -> Text: ...

`Audio` needs the extra ``audio``, `Video` the extra ``video``; importing this module needs neither.
"""

from mlkit.define import ImageSource, Rows, Upload
from mlkit.media.audio import Audio, AudioOptions
from mlkit.media.image import Image
from mlkit.media.text import Text, TextOptions
from mlkit.media.video import Video, VideoOptions

__all__ = [
    "Audio",
    "AudioOptions",
    "Image",
    "ImageSource",
    "Rows",
    "Text",
    "TextOptions",
    "Upload",
    "Video",
    "VideoOptions",
]

"""Downloads of caller-supplied URLs, protected against server-side request forgery.

`fetch` connects to public addresses only: every address of every redirect is checked when its
socket is opened (`addresses.py` has the lists). ``MLKIT_DOWNLOAD_ALLOW=host:port,...`` lists
exceptions.
"""

from mlkit.fetch.downloader import fetch

__all__ = ["fetch"]

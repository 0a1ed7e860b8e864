"""Fetching what a caller names by URL, without letting him reach what only the server can.

`fetch` connects to public addresses alone: every address of every hop is checked at the socket
(`addresses.py` has the lists). ``MLKIT_DOWNLOAD_ALLOW=host:port,...`` opens named places.
"""

from mlkit.fetch.downloader import fetch

__all__ = ["fetch"]

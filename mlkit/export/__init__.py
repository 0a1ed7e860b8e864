"""Export: from a notebook to a folder that is deployed without it.

`export` writes the folder, `verify` proves that it answers as the notebook does. An exported module
reads its data by `Artefacts`. See docs/production.md.
"""

from mlkit.export.artefacts import Artefacts
from mlkit.export.exporting import Exported, export
from mlkit.export.verifying import Verification, verify

__all__ = ["Artefacts", "Exported", "Verification", "export", "verify"]

"""The demo: the tagging pipeline run, deployed, called and load-tested, with a report.

``python -m mlkit.demo`` (``make demo``) runs the story without a notebook: `pictures.py` finds what
to tag, `offline.py` measures what this process can do without HTTP, `served.py` deploys, calls and
load-tests, `plain_serve.py` measures the graph that a tutorial would write with plain Ray Serve,
`report.py` writes down what came of it.
"""

"""The whole story without a notebook: ``python -m tools.demo``.

Pictures are tagged here and over HTTP, the app is load-tested, and what was measured is put beside
two things that people start from: the model called one picture after the other, and a graph of
deployments on plain Ray Serve. It ends with a table and, in ``build/demo``, ``summary.json``,
``report.html`` and, for pictures of one's own, ``tags.csv``.

One module for each idea: `pictures` (what is tagged), `offline` (the limit, and eager torch),
`served` (the app under load), `processes` (whose CPU), `blog_graph` and `baseline` (plain Serve),
`summary` (the figures), `table` and `report` (how they are shown), `story` (the order).
"""

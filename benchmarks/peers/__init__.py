"""The tagging pipeline on other servers, measured by turns: ``python -m benchmarks peers``.

`servers` has a file for each server, written as its users would; `catalogue` lists them and how
they are asked, `environments` makes their environments, `running` starts and ends one, `measuring`
puts load on it, `runner` takes turns, `figures` does the arithmetic, and `drawing` the plot.
`independent` compares the closed loop with those of ``wrk`` and ``hey``.
"""

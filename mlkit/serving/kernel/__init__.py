"""The kernel's side of serving: `App`, `deploy`, `attach`, and the session as a client sees it."""

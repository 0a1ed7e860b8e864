"""The HTTP face of a pipeline: routes, access, payloads, problem documents and streaming."""

"""HTTP interface of a pipeline: routes, authentication, payloads, problem documents, streaming."""

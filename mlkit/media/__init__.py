"""Images, sounds, videos and texts, and previews of values.

`image`, `audio`, `video` and `text` have the types that steps annotate; `mlkit.types` gathers them.
`imagefile` decodes image files within limits, `containers` recognizes sound and video files,
`dataurl` decodes ``data:`` URLs, `preview` renders any value as a line of text with thumbnails.
"""

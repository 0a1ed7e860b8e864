"""Images, and previews of values.

`image` has the `Image` that steps annotate, `imagefile` decodes image files within limits,
`dataurl` decodes ``data:`` URLs, `preview` renders any value as a line of text with thumbnails.
"""

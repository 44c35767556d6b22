"""The data engine: blocks, packs, block maps, manifests and the ways to write and restore them.

A typed library without a web framework. Formats are described byte by byte in docs/format.md.
"""

"""The backup path's site, for catalogues that are made again."""

from tests.backups.conftest import site, weed

__all__ = ["site", "weed"]

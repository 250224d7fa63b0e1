"""The tiny models, for the training tests."""

from tests.models.conftest import picture_paths, tiny, tiny_directory  # noqa: F401

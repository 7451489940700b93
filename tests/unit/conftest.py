"""What tests of pictures share."""

import pytest

from tf_ddpm.datasets.pictures import Reader


@pytest.fixture
def decodes(monkeypatch):
    """The files that were decoded, by name."""
    seen, read = [], Reader.read

    def counted(self, file, size, channels):
        seen.append(file.name)
        return read(self, file, size, channels)

    monkeypatch.setattr(Reader, "read", counted)
    return seen

"""Checks before the work."""

import pytest

from lissom.components.preflight import check_disk_space
from lissom.errors import InputError


def test_a_disk_that_is_too_small_is_refused_with_the_missing_bytes(tmp_path):
    check_disk_space([tmp_path / "not" / "yet"], 1)
    with pytest.raises(InputError, match="MB are missing"):
        check_disk_space([tmp_path / "not" / "yet"], 10**18)

import math

import pytest

from mlxtune.recipe import AdapterSection


def test_scale_is_alpha_over_rank():
    assert AdapterSection(rank=8, alpha=20.0).scale == 2.5


def test_rslora_divides_by_the_root_of_the_rank():
    assert AdapterSection(rank=8, alpha=20.0, rslora=True).scale == pytest.approx(20 / math.sqrt(8))

"""What is held to be a model's features."""

import pytest

from fedkd.components.features import feature_width
from fedkd.core import Task
from fedkd.models import build
from kdcore.training.mixed_precision import in_precision


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_are_features_in_whatever_type_products_are_computed(precision):
    model = build("cnn@24", (1, 8, 8), 10)
    computed = model._replace(predict=in_precision(model.predict, precision))
    assert feature_width(Task({"cnn@24": computed}, 10, shape=(1, 8, 8))) == 24

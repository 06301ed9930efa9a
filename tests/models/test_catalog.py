import pytest
from catalog_members import small_members

from jaxcnn import layers
from jaxcnn.models import catalog


@pytest.mark.parametrize("name", small_members(catalog.CATALOG))
def test_the_listed_sizes_are_those_of_the_model(name):
    entry = catalog.CATALOG[name]
    model = catalog.build(name)
    heads = sum(layers.count_parameters(model[head]) for head in getattr(model, "heads", ()))
    assert entry.parameters == layers.count_parameters(model) - heads
    assert entry.multiply_adds == layers.multiply_adds(model, entry.image_shape)

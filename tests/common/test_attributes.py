"""An attribute that was replaced comes back as it was, or goes again."""

from __future__ import annotations

import pytest

from mtrl_judge.common.attributes import replaced_attribute


class Model:
    def generate(self) -> str:
        return "class"


def test_an_instance_gets_its_own_attribute_back() -> None:
    model = Model()
    vars(model)["generate"] = registered = lambda: "registered"
    with replaced_attribute(model, "generate", lambda: "outer"):
        inner = replaced_attribute(model, "generate", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError), inner:
            model.generate()
        assert model.generate() == "outer"
    assert vars(model) == {"generate": registered}


def test_a_method_of_the_class_stays_one() -> None:
    model = Model()
    with replaced_attribute(model, "generate", lambda: "replaced"):
        assert model.generate() == "replaced"
    assert not vars(model)
    assert model.generate() == "class"

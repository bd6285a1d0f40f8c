"""Python functions and classes as tools, as a user names them in a toolbox file."""

import numpy as np
import pytest

from tests.tir_env.tools.conftest import noise_image
from tir_env.tools import MissingWeights, ToolError

MODULE = """
import numpy as np
loads = []
THING = 3

def darker(image, factor=0.5):
    return (image * factor)

def broken(image):
    raise RuntimeError("out of film")

def nan(image):
    return image * np.nan

def grey(image):
    return image[..., 0]

def from_file(image, weights):
    return np.full_like(image, int(weights.read_text()))

class Counted:
    def __init__(self, add):
        loads.append(add)
        self.add = add
    def __call__(self, image):
        return np.minimum(image.astype(int) + self.add, 255)
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "my_tools.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_tools", raising=False)


def test_a_function_with_parameters(tool_of):
    image = noise_image(10, 12)
    np.testing.assert_array_equal(tool_of(call="my_tools:darker")(image), np.floor(image * 0.5 + 0.5 + 1e-7))
    np.testing.assert_array_equal(tool_of(call="my_tools:darker", **{"with": {"factor": 0}})(image), 0 * image)


def test_a_class_is_made_once(tool_of):
    tool = tool_of(call="my_tools:Counted", **{"with": {"add": 7}})
    image = noise_image(9, 9)
    for _ in range(3):
        np.testing.assert_array_equal(tool(image), np.minimum(image.astype(int) + 7, 255))
    import my_tools

    assert my_tools.loads == [7]


def test_a_function_may_ask_for_a_weight_file(tool_of, weights_folder):
    tool = tool_of(call="my_tools:from_file", weights="level.txt")
    with pytest.raises(MissingWeights, match=r"level\.txt"):
        tool.load()
    (weights_folder / "level.txt").write_text("42")
    assert (tool(noise_image(8, 8)) == 42).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"call": "no_such_module:f"}, "cannot import 'no_such_module:f'"),
        ({"call": "my_tools:no_such"}, "no_such"),
        ({"call": "my_tools:THING"}, "is not callable"),
        ({"call": "my_tools:darker", "with": {"factr": 1}}, "does not take these parameters.*It takes"),
        ({"call": "my_tools:Counted"}, "does not take these parameters"),
    ],
)
def test_mistakes_are_found_on_load(tool_of, entry, message):
    with pytest.raises(ToolError, match=message):
        tool_of(**entry).load()


@pytest.mark.parametrize(("name", "message"), [("broken", "out of film"), ("nan", "not finite"), ("grey", r"8, 9")])
def test_what_a_function_does_wrong_is_raised_or_refused(tool_of, name, message):
    tool, image = tool_of(call=f"my_tools:{name}"), noise_image(8, 9)
    with pytest.raises((RuntimeError, ValueError), match=message):
        tool.check(image, tool(image))


@pytest.mark.parametrize("image", [np.zeros((8, 8)), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), "a.png", None])
def test_what_is_no_image_is_refused(tool_of, image):
    with pytest.raises(ValueError, match="expected"):
        tool_of(call="my_tools:darker").run([image])


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 100)])
def test_images_under_8x8_are_refused(tool_of, size):
    with pytest.raises(ValueError, match=f"has {size[1]}x{size[0]} pixels"):
        tool_of(call="my_tools:darker")(noise_image(*size))

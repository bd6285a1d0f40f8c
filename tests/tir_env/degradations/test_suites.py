from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pool import Problem
from tir_env.degradations import SUITES, Case, Stage, SuiteError, degrade, open_suite, replay
from tir_env.images import Image, digest

OWN = """\
name: mine
cases:
  - rain+haze
  - name: night
    steps:
      - dark: {gamma: [0.3, 0.4]}
      - noise: {sigma: [5, 60]}
      - jpeg: {quality: [40, 42]}
  - name: pinned
    steps: [{motion blur: {radius: 10, sigma: 3, angle: 45}}]
"""


def own(tmp_path: Path, text: str = OWN) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_the_sources_cases_are_all_there() -> None:
    assert {name: len(suite) for name, suite in SUITES.items()} == {
        "mio100-a": 8, "mio100-b": 4, "mio100-c": 4, "restore-r1-i": 5, "restore-r1-ii": 3, "restore-r1-iii": 4, "restore-r1-iv": 3,
        "rl-restore": 3, "rl-restore-mild": 1, "rl-restore-moderate": 1, "rl-restore-severe": 1, "single": 8,
        "small": 8,
    }  # fmt: skip
    assert SUITES["mio100-a"].case("motion blur+dark").degradations == ("motion blur", "dark")
    assert SUITES["restore-r1-iv"][2].degradations == ("rain", "motion blur", "defocus blur", "noise", "jpeg")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(photo: Image) -> None:
    for case in SUITES["mio100-c"]:
        one, two, three = (degrade(photo[:256, :256], case, seed) for seed in (5, 5, 6))
        assert digest(one.image) == digest(two.image)
        assert one.record == two.record
        assert digest(one.image) != digest(three.image)


def test_the_same_seed_gives_the_same_bytes_in_another_process(photo: Image) -> None:
    program = (
        "from tir_env.degradations import SUITES, degrade; from tir_env.images import digest;"
        "from tir_env.images.sources import skimage_photos; photo = skimage_photos().find('astronaut').image[:256, :256];"
        "print([digest(degrade(photo, case, 11).image) for suite in SUITES.values() for case in suite])"
    )
    here = [digest(degrade(photo[:256, :256], case, 11).image) for suite in SUITES.values() for case in suite]
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str(here)


def test_the_record_is_json_and_enough_to_do_it_again(photo: Image) -> None:
    photo = photo[:256, :256]
    for suite in SUITES.values():
        for case in suite:
            spoilt = degrade(photo, case, 3)
            record = json.loads(json.dumps(spoilt.record))
            assert [entry["degradation"] for entry in record] == list(case.degradations)
            np.testing.assert_array_equal(replay(photo, record), spoilt.image)


def test_low_resolution_makes_a_smaller_image(photo: Image) -> None:
    spoilt = degrade(photo, Case.parse("haze+motion blur+low resolution"), 0).image
    assert spoilt.shape == (128, 128, 3)


@pytest.mark.parametrize(("level", "low", "high"), [("mild", 9, 11), ("moderate", 12, 17), ("severe", 18, 20)])
def test_rl_restores_levels_add_up(level: str, low: int, high: int) -> None:
    [case] = open_suite(f"rl-restore-{level}")
    image = np.zeros((16, 16, 3), np.uint8)
    sums = {sum(e["params"]["level"] for e in degrade(image, case, seed).record) + 1 for seed in range(400)}
    assert sums == set(range(low, high + 1))


def test_a_users_suite_pins_and_narrows(tmp_path: Path, photo: Image) -> None:
    suite = open_suite(own(tmp_path))
    assert [case.name for case in suite] == ["rain+haze", "night", "pinned"]
    small = photo[:64, :64]
    records = [degrade(small, suite.case("night"), seed).record for seed in range(60)]
    gammas = [r[0]["params"]["gamma"] for r in records]
    assert all(r[0]["params"]["kind"] == "gamma" for r in records)
    assert all(set(r[0]["params"]) == {"kind", "gamma"} for r in records), "nothing of another kind is left over"
    assert min(gammas) >= 0.3
    assert max(gammas) <= 0.4
    sigmas = [r[1]["params"]["sigma"] for r in records]
    assert max(sigmas) > 45
    assert any(s != int(s) for s in sigmas), "a range of σ is continuous, also when its ends are whole"
    assert {r[2]["params"]["quality"] for r in records} == {40, 41, 42}
    [pinned] = degrade(small, suite.case("pinned"), 1).record
    assert pinned["params"] == {"radius": 10, "sigma": 3, "angle": 45}


def test_pinning_one_step_leaves_the_others_as_they_were(tmp_path: Path, photo: Image) -> None:
    text = "name: x\ncases: [{name: a, steps: [dark, noise]}, {name: b, steps: [{dark: {kind: shift, shift: 40}}, noise]}]"
    suite = open_suite(own(tmp_path, text))
    free, pinned = (degrade(photo, case, 9).record for case in suite)
    assert pinned[0]["params"] == {"kind": "shift", "shift": 40}
    assert free[1] == pinned[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: x", "lacks the key 'cases'"),
        ("name: x\ncases: []", "at least one entry"),
        ("name: x\ncases: [fog]", "degradation 'fog': is not known"),
        ("name: x\ncases: [rain, rain]", "two cases named 'rain'"),
        ("name: x\ncases: [{name: a, steps: [{noise: {sigm: 3}}]}]", "unknown key 'sigm'. Did you mean 'sigma'"),
        ("name: x\ncases: [{name: a, steps: [{noise: {sigma: 900}}]}]", "between 0 and 255"),
        ("name: x\ncases: [{name: a, steps: [{noise: {sigma: [50, 20]}}]}]", "wrong way round"),
        ("name: x\ncases: [{name: a, steps: [{noise: {sigma: 3, scale: 2}}]}]", "mixes parameters of gaussian and poisson"),
        ("name: x\ncases: [{name: a, steps: [{jpeg: {quality: 30.5}}]}]", "must be a whole number"),
        ("name: x\ncases: [{name: a, steps: [{dark: {kind: black}}]}]", "one of shift, gamma, stretch"),
        ("name: x\ncases: [{name: a, steps: [{rain: 1, haze: 2}]}]", "one degradation"),
        ("cases: {", "not valid YAML"),
        ("- a", "must be a mapping"),
        ("name: !!python/object/apply:os.system ['true']\ncases: [rain]", "not valid YAML"),
    ],
)
def test_mistakes_in_a_suite_are_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(Problem) as caught:
        open_suite(own(tmp_path, text))
    assert reason in str(caught.value)
    assert caught.value.remedy


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(Problem, match="nested or aliased beyond any use"):
        open_suite(own(tmp_path, "\n".join(lines)))


def test_names_that_are_nearly_right_are_suggested() -> None:
    with pytest.raises(SuiteError, match="Did you mean 'mio100-a'"):
        open_suite("mio100a")
    with pytest.raises(SuiteError, match="Did you mean 'haze'"):
        open_suite("rain+hase")
    assert open_suite("rain+haze")[0].degradations == ("rain", "haze")
    assert open_suite("lr + JPEG compression artifact")[0].degradations == ("low resolution", "jpeg")


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("nose", {}, "Did you mean 'noise'"),
        ("noise", {"sigma": -1}, "between 0 and 255"),
        ("noise", {"sigma": float("nan")}, "between 0 and 255"),
        ("noise", {"sigma": (5, 6, 7)}, "wrong way round"),
        ("noise", {"kind": "pink"}, "one of gaussian, poisson"),
        ("jpeg", {"kind": "x"}, "unknown key 'kind'"),
    ],
)
def test_stages_made_in_code_are_checked_as_files_are(name: str, settings: dict, reason: str) -> None:
    with pytest.raises(Problem) as caught:
        Stage(name, settings)
    assert reason in str(caught.value)


def test_a_stage_pins_the_kind_with_its_parameter(photo: Image) -> None:
    small = photo[:32, :32]
    for seed in range(20):
        [one] = degrade(small, Case("a", (Stage("noise", {"sigma": 5}),)), seed).record
        assert (one["params"]["kind"], one["params"]["sigma"]) == ("gaussian", 5)
        assert "scale" not in one["params"]
        [two] = degrade(small, Case("a", (Stage("noise", {"kind": "poisson"}),)), seed).record
        assert 1 <= two["params"]["scale"] <= 3

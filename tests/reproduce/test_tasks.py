"""From a scale to command lines: what is needed comes first, cheap before dear, each option once."""

import pytest

from qinco_lit.reproducing.scale import read_scale
from qinco_lit.reproducing.tasks import by_cost, choose
from tests.reproduce.tiny_scale import scale_values, tasks_of


def _named(tasks):
    return {task.name: task for task in tasks}


def test_command_lines_of_the_main_table():
    tasks = _named(tasks_of(seeds=[0, 3]))
    assert [" ".join(task.words("O")) for task in tasks.values()][:4] == [
        "train data=x model=big seed=0 logger=none hydra.run.dir=O/d/Big-8B-s0/train",
        "evaluate codec=O/d/Big-8B-s0/train/codec data=x baselines=[rq,lsq] hydra.run.dir=O/d/Big-8B-s0/evaluate",
        "train data=x model=big seed=3 logger=none hydra.run.dir=O/d/Big-8B-s3/train",
        "evaluate codec=O/d/Big-8B-s3/train/codec data=x hydra.run.dir=O/d/Big-8B-s3/evaluate",
    ]
    tiny = tasks["d/Tiny-8B-s0/evaluate"]
    assert tiny.words("O")[2:4] == ["data=x", "beam_size=4"]
    assert (tiny.needs, tiny.method, tiny.num_bytes, tiny.seed) == (("d/Tiny-8B-s0/train",), "Tiny", 8, 0)


def test_long_trainings_have_the_first_seed_only():
    changes = {"seeds": [4, 0, 3], "repeat_below_s": 20}  # Big takes 100 s, Tiny 10; of ablations all 20, no beam 10
    tasks = tasks_of(studies=True, **changes)

    def seeds(folder: str) -> list[int]:
        return [task.seed for task in tasks if task.name.startswith(f"d/{folder}-8B-s") and task.kind == "train"]

    assert (seeds("Big"), seeds("Tiny")) == ([4], [4, 0, 3])
    assert (seeds("ablation-base"), seeds("ablation-beam")) == ([4], [4, 0, 3])
    assert {task.seed for task in tasks if "search" in task.sections} == {4}
    assert len(tasks_of(studies=True, seeds=[4, 0, 3])) > len(tasks)


def test_rates_data_sets_and_repeated_options():
    values = scale_values(studies=True)
    values["datasets"]["e"] = {"options": ["data=y"], "relative_cost": 3.0}
    values["methods"]["Tiny"]["train_on"] = {"e": ["model.num_blocks=12"]}
    values["main"] |= {"datasets": ["e"], "methods": ["Tiny"], "num_bytes": [16]}
    from qinco_lit.reproducing.tasks import expand

    tasks = _named(expand(read_scale(values)))
    trained = tasks["e/Tiny-16B-s0/train"]
    assert trained.words("O")[1:5] == ["data=y", "model=tiny", "model.num_blocks=12", "model.num_steps=16"]
    assert trained.cost_s == 10.0 * 3.0 * 2
    # the last of two values, where the first was
    in_lists = tasks["d/ivf-Tiny-16B-s0/train"].words("O")
    assert in_lists[1:4] == ["data=x", "model=ivf", "model.num_steps=16"]
    assert in_lists[4:6] == ["coarse=ivf", "coarse.centroids=O/d/centroids-4/centroids.npy"]


def test_one_training_serves_every_section_that_asks_for_it():
    tasks = tasks_of(studies=True)
    assert len({task.name for task in tasks}) == len(tasks)
    assert _named(tasks)["d/Tiny-8B-s0/train"].sections == ("main", "run_time")
    assert {section for task in tasks for section in task.sections} == {
        "main", "speed", "dynamic_rate", "run_time", "ablation", "search", "pairwise",
    }  # fmt: skip


def test_cheapest_first_but_nothing_before_what_it_needs():
    tasks = tasks_of(studies=True)
    ordered = by_cost(tasks)
    assert {task.name for task in ordered} == {task.name for task in tasks}
    places = {task.name: place for place, task in enumerate(ordered)}
    for task in ordered:
        assert all(places[name] < places[task.name] for name in task.needs)
    for place, task in enumerate(ordered):
        ready = [one for one in ordered[place:] if all(places[name] < place for name in one.needs)]
        assert task.cost_s == min(one.cost_s for one in ready)


def test_a_path_that_hydra_would_misread_is_quoted():
    words = tasks_of()[1].words("my runs")
    assert words[1] == 'codec="my runs/d/Big-8B-s0/train/codec"'
    assert words[-1] == 'hydra.run.dir="my runs/d/Big-8B-s0/evaluate"'


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["ablation"], {"d/ablation-base-8B-s0/train", "d/ablation-beam-8B-s0/train"}),
        (["main", "Tiny"], {"d/Tiny-8B-s0/train", "d/Tiny-8B-s0/evaluate"}),
        (["run_time"], {"d/Tiny-8B-s0/train", "d/Tiny-8B-s0/run_time/A4-B2"}),
        (["speed", "Tiny"], {"d/Tiny-8B-s0/train", "d/Tiny-8B-s0/evaluate"}),  # with the training that it needs
        (["Big", "8B", "d"], {"d/Big-8B-s0/train", "d/Big-8B-s0/evaluate"}),
        (["d/Tiny-8B-s0/train"], {"d/Tiny-8B-s0/train"}),
        (["d/ablation-beam-8B-s0"], {"d/ablation-beam-8B-s0/train"}),
        (["Big", "ablation-base", "8B"], {"d/Big-8B-s0/train", "d/Big-8B-s0/evaluate", "d/ablation-base-8B-s0/train"}),
        (
            ["search"],
            {"d/centroids-4", *(f"d/ivf-Tiny-16B-s0/{kind}" for kind in ("train", "encode", "index", "search"))},
        ),
    ],
)
def test_words_of_one_kind_add_up_and_kinds_narrow_down(words, names):
    assert choose(tasks_of(studies=True), words) == names


def test_without_words_everything():
    tasks = tasks_of(studies=True)
    assert choose(tasks, []) == {task.name for task in tasks}


def test_words_that_choose_nothing():
    tasks = tasks_of(studies=True)
    with pytest.raises(
        ValueError, match=r"^unknown word in only= mian \(did you mean main\?\); choose from: 16B, 8B, "
    ):
        choose(tasks, ["mian"])
    with pytest.raises(ValueError, match=r"^only=\[main,16B\] chooses nothing: these words have no task in common$"):
        choose(tasks, ["main", "16B"])


def _set(values, path, value):
    *groups, last = path.split(".")
    for group in groups:
        values = values[group]
    values[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seeds", [], r"scale.seeds=\[\]: give at least one"),
        ("seeds", 0, "scale.seeds=0: expected a list in brackets, each an integer"),
        ("hardwear", "x", r"unknown option scale.hardwear \(did you mean hardware\?\); choose from: .*"),
        ("main.methods", ["Tinny"], r"unknown choice of scale.main.methods: Tinny \(did you mean Tiny\?\); .*"),
        ("search.datasets", ["e"], "unknown choice of scale.search.datasets: e; choose from: d"),
        ("methods.Tiny.train_s", "long", "scale.methods.Tiny.train_s=long: expected a number"),
        ("datasets.e", {}, "scale.datasets.e.options is required: .*"),
        ("ablation.without.beam.optoins", [], r"unknown option scale.ablation.without.beam.optoins \(did .*"),
    ],
)  # fmt: skip
def test_a_scale_that_makes_no_sense(path, value, message):
    values = scale_values(studies=True)
    _set(values, path, value)
    with pytest.raises(ValueError, match=f"^{message}$"):
        read_scale(values)


def test_sections_may_be_left_out():
    assert tasks_of(main=None) == []

"""From a scale to a graph of tasks: plain `qinco` command lines, each with a folder and what it needs first."""

import heapq
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qinco_lit.options import unknown
from qinco_lit.reproducing.scale import SECTIONS, DatasetSpec, Scale, SearchSpec, VariantSpec

# Stands in commands for the folder of all tasks, so that they mean the same when that is moved.
OUTPUT = "OUTPUT"
_RATE_OF_MODELS = 8  # bytes: num_steps of every model in conf/model
_POINT_LETTERS = {"num_candidates": "A", "beam_size": "B", "candidate_budget": "T"}


@dataclass(frozen=True)
class Task:
    """One command line.

    Attributes:
        name: folder of the task under OUTPUT.
        command: the command and its options; paths of other tasks begin with OUTPUT/.
        done_files: what is there, relative to the folder, when the task is complete.
        sections: of the report that its results belong to.
        dataset: name in the report and in `Scale.datasets`.
        method, num_bytes, seed: what the results are of.
        needs: names of the tasks whose results it reads.
        cost_s: estimate.
    """

    name: str
    command: tuple[str, ...]
    done_files: tuple[str, ...]
    sections: tuple[str, ...]
    dataset: str
    method: str
    num_bytes: int
    seed: int
    needs: tuple[str, ...] = ()
    cost_s: float = 0.0

    @property
    def kind(self) -> str:
        """Which command it is: train, evaluate, ..."""
        return self.command[0]

    def words(self, output: str) -> list[str]:
        """Return the command line's words after `qinco`."""
        return [_placed(word, output) for word in self.command]


def path_option(key: str, path: str) -> str:
    """Return `KEY=PATH` as Hydra reads it: quoted where it has other characters than most paths."""
    return f"{key}={path}" if re.fullmatch(r"[\w./:@%+-]+", path) else f'{key}="{path}"'


def _placed(word: str, output: str) -> str:
    key, is_path, path = word.partition(f"={OUTPUT}/")
    return path_option(key, f"{output}/{path}") if is_path else word


@dataclass
class _Graph:
    """Tasks by name; one that several sections ask for is there once."""

    scale: Scale
    tasks: dict[str, Task] = field(default_factory=dict)

    def add(self, task: Task) -> Task:
        known = self.tasks.get(task.name)
        if known is not None:
            task = replace(known, sections=tuple(dict.fromkeys((*known.sections, *task.sections))))
        self.tasks[task.name] = task
        return task

    def cost(self, seconds: float, dataset: str, num_bytes: int) -> float:
        return seconds * self.scale.datasets[dataset].relative_cost * num_bytes / _RATE_OF_MODELS

    def train(self, dataset: str, key: str, num_bytes: int, seed: int, section: str) -> Task:
        method = self.scale.methods[key]
        options = [*method.train, *method.train_on.get(dataset, ()), *_rate(num_bytes)]
        return self.add(
            _train_task(
                f"{dataset}/{_run(key, num_bytes, seed)}/train",
                self.scale.datasets[dataset],
                options,
                Task("", (), (), (section,), dataset, method.name, num_bytes, seed),
                self.cost(method.train_s, dataset, num_bytes),
            )
        )


def expand(scale: Scale) -> list[Task]:
    """Return every task of a scale, in the order in which they are described; needed ones come before."""
    graph = _Graph(scale)
    for add in (_add_main, _add_run_time, _add_ablation, _add_search):
        add(graph)
    return list(graph.tasks.values())


def by_cost(tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks cheapest first, but none before what it needs; needs outside of the given count as met."""
    tasks = list(tasks)
    names = {task.name for task in tasks}
    waits_for = {task.name: {name for name in task.needs if name in names} for task in tasks}
    ready = [(task.cost_s, place) for place, task in enumerate(tasks) if not waits_for[task.name]]
    heapq.heapify(ready)
    ordered: list[Task] = []
    while ready:
        task = tasks[heapq.heappop(ready)[1]]
        ordered.append(task)
        for place, other in enumerate(tasks):
            if task.name in waits_for[other.name]:
                waits_for[other.name].remove(task.name)
                if not waits_for[other.name]:
                    heapq.heappush(ready, (other.cost_s, place))
    return ordered


def with_needs(tasks: Sequence[Task], names: Iterable[str]) -> set[str]:
    """Return the names and those of everything that they need."""
    by_name = {task.name: task for task in tasks}
    chosen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in chosen:
            chosen.add(name)
            waiting.extend(by_name[name].needs)
    return chosen


def choose(tasks: Sequence[Task], words: Collection[str]) -> set[str]:
    """Return the names of the tasks that the words choose, and of what these need; without words all.

    Words are sections, data sets, methods (as in folder names: `QINCo2-S`), rates (`8B`) and names of tasks or folders
    of tasks. Words of one kind add up, kinds narrow each other down: `main run_time 8B` means both at 8 bytes.

    Raises:
        ValueError: a word that is none of these, or words that together choose nothing.
    """
    kinds = _kinds(tasks)
    wanted: dict[str, set[str]] = {}
    for word in words:
        kind = next((kind for kind, members in kinds.items() if word in members), None)
        if kind is None:
            choices = [*SECTIONS, *(word for kind in ("data set", "method", "rate") for word in kinds[kind])]
            raise unknown("word in only=", word, choices)
        wanted.setdefault(kind, set()).update(kinds[kind][word])
    chosen = {task.name for task in tasks}.intersection(*wanted.values())
    if not chosen:
        raise ValueError(f"only=[{','.join(words)}] chooses nothing: these words have no task in common")
    return with_needs(tasks, chosen)


def _kinds(tasks: Sequence[Task]) -> Mapping[str, Mapping[str, set[str]]]:
    """Names of tasks by word, by kind of word."""
    kinds: dict[str, dict[str, set[str]]] = {
        "section": {section: set() for section in SECTIONS}, "data set": {}, "method": {}, "rate": {}, "name": {},
    }  # fmt: skip
    for task in tasks:
        parts = task.name.split("/")
        words = {"section": task.sections, "data set": (task.dataset,)}
        if task.num_bytes:
            words["method"] = (parts[1].rpartition(f"-{task.num_bytes}B-")[0],)
            words["rate"] = (f"{task.num_bytes}B",)
        words["name"] = tuple("/".join(parts[:depth]) for depth in range(2, len(parts) + 1))
        for kind, members in words.items():
            for word in members:
                kinds[kind].setdefault(word, set()).add(task.name)
    return kinds


# --- the sections ---------------------------------------------------------------------------------------------------


def _add_main(graph: _Graph) -> None:
    main = graph.scale.main
    if main is None:
        return
    sections = ("main", "speed", "dynamic_rate")
    for dataset in main.datasets:
        for num_bytes in main.num_bytes:
            for key in main.methods:
                method = graph.scale.methods[key]
                for seed in graph.scale.seeds_of(graph.cost(method.train_s, dataset, num_bytes)):
                    has_baselines = bool(main.baselines) and key == main.methods[0] and seed == graph.scale.seeds[0]
                    trained = graph.train(dataset, key, num_bytes, seed, "main")
                    options = [*method.evaluate]
                    if has_baselines:
                        options.append(f"baselines=[{','.join(main.baselines)}]")
                    seconds = method.evaluate_s + has_baselines * main.baselines_s
                    _add_evaluation(graph, trained, "evaluate", options, sections, seconds)


def _add_run_time(graph: _Graph) -> None:
    spec = graph.scale.run_time
    if spec is None:
        return
    for dataset in spec.datasets:
        for key in spec.methods:
            for num_bytes in spec.num_bytes:
                trained = graph.train(dataset, key, num_bytes, graph.scale.seeds[0], "run_time")
                for point in spec.points:
                    options = [*spec.options, *(f"{name}={_word(value)}" for name, value in point.items())]
                    folder = f"run_time/{_point_name(point)}"
                    _add_evaluation(graph, trained, folder, options, ("run_time",), spec.evaluate_s)


def _add_ablation(graph: _Graph) -> None:
    spec = graph.scale.ablation
    if spec is None:
        return
    variants = {"base": VariantSpec(name="all ingredients", options=()), **spec.without}
    for dataset in spec.datasets:
        for num_bytes in spec.num_bytes:
            for key, variant in variants.items():
                cost_s = graph.cost(spec.train_s * variant.relative_cost, dataset, num_bytes)
                for seed in graph.scale.seeds_of(cost_s):
                    options = [*spec.train, *variant.options, *_rate(num_bytes)]
                    about = Task("", (), (), ("ablation",), dataset, variant.name, num_bytes, seed)
                    folder = f"{dataset}/{_run(f'ablation-{key}', num_bytes, seed)}/train"
                    task = graph.add(_train_task(folder, graph.scale.datasets[dataset], options, about, cost_s))
                    if spec.evaluate is not None:
                        _add_evaluation(graph, task, "evaluate", spec.evaluate, ("ablation",), spec.evaluate_s)


def _add_search(graph: _Graph) -> None:
    spec = graph.scale.search
    if spec is None:
        return
    for dataset in spec.datasets:
        centroids = graph.add(_centroids_task(graph, spec, dataset))
        for key in spec.methods:
            for num_bytes in spec.num_bytes:
                _add_index_and_search(graph, spec, centroids, key, num_bytes)


def _add_index_and_search(graph: _Graph, spec: SearchSpec, centroids: Task, key: str, num_bytes: int) -> None:
    dataset, method, seed = centroids.dataset, graph.scale.methods[key], graph.scale.seeds[0]
    data = graph.scale.datasets[dataset]
    folder = f"{dataset}/{_run(f'ivf-{key}', num_bytes, seed)}"
    about = Task("", (), (), ("search", "pairwise"), dataset, method.name, num_bytes, seed)
    in_lists = [f"coarse.centroids={OUTPUT}/{centroids.name}/centroids.npy"]
    options = [
        *method.train,
        *method.train_on.get(dataset, ()),
        *spec.train,
        *_rate(num_bytes),
        "coarse=ivf",
        *in_lists,
    ]
    train_s = graph.cost(method.train_s, dataset, num_bytes)
    trained = graph.add(replace(_train_task(f"{folder}/train", data, options, about, train_s), needs=(centroids.name,)))
    codec, codes = f"codec={OUTPUT}/{trained.name}/codec", f"{OUTPUT}/{folder}/encode/codes.h5"
    bundle = f"{OUTPUT}/{folder}/index/bundle"
    steps = [
        ("encode", ("codes.h5",), [codec, *data.options, *spec.encode, f"output={codes}"], spec.encode_s),
        (
            "index",
            ("bundle/config.json", "bundle/report.json"),
            [codec, f"codes={codes}", *data.options, *spec.index, f"output={bundle}"],
            spec.index_s,
        ),
        (
            "search",
            ("search.json",),
            [f"index={bundle}", *data.options, *spec.search, _run_dir(f"{folder}/search")],
            spec.search_s,
        ),
    ]
    needs: tuple[str, ...] = (trained.name,)
    for kind, done_files, words, seconds in steps:
        name, cost_s = f"{folder}/{kind}", graph.cost(seconds, dataset, num_bytes)
        task = replace(about, name=name, command=(kind, *words), done_files=done_files, needs=needs, cost_s=cost_s)
        graph.add(task)
        needs = (*needs, name)


# --- single tasks ---------------------------------------------------------------------------------------------------


def _train_task(name: str, data: DatasetSpec, options: Sequence[str], about: Task, cost_s: float) -> Task:
    command = ("train", *data.options, *_last_wins(options), f"seed={about.seed}", "logger=none", _run_dir(name))
    done_files = ("summary.json", "codec/config.json", "codec/weights.safetensors")
    return replace(about, name=name, command=command, done_files=done_files, cost_s=cost_s)


def _add_evaluation(
    graph: _Graph, trained: Task, folder: str, options: Sequence[str], sections: tuple[str, ...], seconds: float
) -> None:
    name = f"{trained.name.removesuffix('/train')}/{folder}"
    data = graph.scale.datasets[trained.dataset]
    codec = f"codec={OUTPUT}/{trained.name}/codec"
    graph.add(
        replace(
            trained,
            name=name,
            command=("evaluate", codec, *data.options, *options, _run_dir(name)),
            done_files=("metrics.json",),
            sections=sections,
            needs=(trained.name,),
            cost_s=graph.cost(seconds, trained.dataset, trained.num_bytes),
        )
    )


def _centroids_task(graph: _Graph, spec: SearchSpec, dataset: str) -> Task:
    name = f"{dataset}/centroids-{spec.num_lists}"
    file = "centroids.npy"
    words = (*graph.scale.datasets[dataset].options, f"num_lists={spec.num_lists}", *spec.centroids)
    return Task(
        name=name,
        command=("centroids", *words, f"output={OUTPUT}/{name}/{file}"),
        done_files=(file,),
        sections=("search", "pairwise"),
        dataset=dataset,
        method="centroids",
        num_bytes=0,
        seed=graph.scale.seeds[0],
        cost_s=graph.cost(spec.centroids_s, dataset, _RATE_OF_MODELS),
    )


def _run(key: str, num_bytes: int, seed: int) -> str:
    return f"{key}-{num_bytes}B-s{seed}"


def _last_wins(options: Sequence[str]) -> list[str]:
    """Return each key once, where it is first, with its last value."""
    values = {option.partition("=")[0]: option for option in options}
    return list(values.values())


def _rate(num_bytes: int) -> list[str]:
    return [] if num_bytes == _RATE_OF_MODELS else [f"model.num_steps={num_bytes}"]


def _run_dir(name: str) -> str:
    return f"hydra.run.dir={OUTPUT}/{name}"


def _word(value: int | None) -> str:
    return "null" if value is None else str(value)


def _point_name(point: Mapping[str, int | None]) -> str:
    return "-".join(f"{_POINT_LETTERS.get(name, f'{name}-')}{_word(value)}" for name, value in point.items())

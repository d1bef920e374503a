"""Photos of a cluster's storage, scored on a Ray cluster by Ray Data."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from grepq_metric.errors import GRepQError, InputError
from grepq_metric.files import whole_file
from grepq_metric.images import SEARCHED, is_url
from grepq_metric.scoring.scorer import Scorer

if TYPE_CHECKING:
    import pyarrow

RECORD = "_run.json"
"""In an output folder: facts of the run. Readers of Parquet pass over names that begin with an underscore."""
PART = "part-*.parquet"
MOST_ROWS = 1024
"""Of a part. A worker that is killed loses what it has scored of its part."""
PARTS_PER_WORKER = 8
"""At least, so that the last ones end together."""
LEAST_ROWS = 16
DEATHS = 2
"""Of workers that had a photo alone in hand, after which it is taken for the cause."""
STATE = {"path": "string", "size": "int64", "modified": "string"}


@dataclass(frozen=True)
class Outcome:
    """Of a run.

    Attributes:
        before: photos that had a score.
        done: photos that have got a row.
        failed: those of them whose row is an error.
    """

    before: int
    done: int
    failed: int


def find_photos(sources: Sequence[str], recursive: bool = True) -> pyarrow.Table:
    """Photos behind paths and URLs: files, folders and globs, sorted and each once.

    Args:
        sources: of this machine, which all workers must see under the same name, or of any storage that fsspec knows.
        recursive: search folders with their subfolders.

    Returns:
        Columns ``path``, ``size`` in bytes, and ``modified``: a time or a tag, whatever the storage knows.

    Raises:
        FileNotFoundError: there is nothing behind a source.
        InputError: a storage can't be read, or there are no photos in it.
    """
    import pyarrow

    found: dict[str, tuple[int, str]] = {}
    for source in sources:
        if not (behind := dict(_found(source, recursive))):
            raise InputError(f"no photos in {source}")
        found.update(behind)
    rows = sorted((path, *state) for path, state in found.items())
    schema = pyarrow.schema(list(STATE.items()))
    return pyarrow.Table.from_pylist([dict(zip(STATE, row, strict=True)) for row in rows], schema)


class PartWriter:
    """Scores a block of photos and writes it as one part of the output: what Ray's workers call.

    A part's name is a hash of its photos, so that one that is scored again, after its worker was killed, takes its own place.

    Args:
        scorer: of paths.
        output: folder or URL.
    """

    def __init__(self, scorer: Scorer, output: str) -> None:
        self.scorer, self.output = scorer, output

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Write a part of the photos ``path``, ``size``, ``modified``: counts of its rows and of those with an error.

        A second try, after a worker was killed, takes one photo after the other: what it dies of again gets an error. What
        keeps the part from being written is its ``problem``: of errors, Ray keeps no more than that there was one.
        """
        try:
            done, failed = self._write(batch)
        except (OSError, GRepQError) as error:  # a full disk, or a storage that may not be written
            return {"done": [0], "failed": [0], "problem": [str(error)]}
        return {"done": [done], "failed": [failed], "problem": [""]}

    def _write(self, batch: Mapping[str, Any]) -> tuple[int, int]:
        import pyarrow

        photos = {name: list(batch[name]) for name in STATE}
        output = Output(self.output)
        key = "\n".join("\t".join(map(str, photo)) for photo in zip(*photos.values(), strict=True))
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]
        trial = f"_trial-{digest}.json"
        deaths = output.read_json(trial)
        if deaths is None:
            output.write_json(trial, {})
            rows = self.scorer(photos)
        else:
            rows = self._one_by_one(photos, deaths, lambda: output.write_json(trial, deaths))
        types = {**STATE, **self.scorer.types}
        table = pyarrow.table({name: pyarrow.array(rows[name], kind) for name, kind in types.items()})
        output.write(f"part-{digest}.parquet", table)
        output.remove(trial)
        return len(rows["path"]), sum(error is not None for error in rows["error"])

    def _one_by_one(
        self, photos: dict[str, list[Any]], deaths: dict[str, int], note: Callable[[], None]
    ) -> dict[str, list[Any]]:
        """Rows of photos; `deaths` of workers, by photo, are noted before each one, as if this worker were to die of it."""
        rows: dict[str, list[Any]] = {name: [] for name in (*STATE, *self.scorer.columns)}
        for photo in zip(*photos.values(), strict=True):
            found = dict(zip(STATE, photo, strict=True))
            path = found["path"]
            if deaths.get(path, 0) >= DEATHS:
                row = self.scorer.failed(
                    f"the process died {DEATHS} times while it scored this photo", self.scorer.model.weights_id
                )
            else:
                deaths[path] = deaths.get(path, 0) + 1
                note()
                row = {name: values[0] for name, values in self.scorer({"path": [path]}).items()}
                deaths[path] -= 1
            for name, value in {**row, **found}.items():
                rows[name].append(value)
        return rows


class Output:
    """A folder of parts, on this machine or in any storage that fsspec knows.

    Args:
        place: path or URL.

    Raises:
        InputError: the storage is unknown.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._fs, self._folder = _file_system(place)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """What a file of it says; None: there is none.

        Raises:
            InputError: it is damaged.
        """
        try:
            return json.loads(self._fs.cat_file(self._at(name)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(f"{self.place}/{name} is damaged: {error}") from error

    def parts(self) -> list[str]:
        """Names of its parts."""
        return sorted(PurePosixPath(path).name for path in self._fs.glob(self._at(PART)))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write such a file, whole or not at all; the folder is made where there is none."""
        self._fs.makedirs(self._folder, exist_ok=True)
        self._write(name, json.dumps(content).encode())

    def remove(self, name: str) -> None:
        """Remove a file of it."""
        self._fs.rm_file(self._at(name))

    def clear(self) -> None:
        """Remove its parts, and nothing else."""
        for name in self.parts():
            self.remove(name)

    def read(self, name: str) -> pyarrow.Table:
        """A part.

        Raises:
            InputError: it is damaged.
        """
        import pyarrow
        from pyarrow import parquet

        try:
            return parquet.read_table(io.BytesIO(self._fs.cat_file(self._at(name))))
        except pyarrow.ArrowInvalid as error:
            raise InputError(f"{self.place}/{name} is damaged: {error}; delete it and resume again") from error

    def write(self, name: str, table: pyarrow.Table) -> None:
        """Write a part, whole or not at all."""
        from pyarrow import parquet

        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        self._write(name, buffer.getvalue())

    def keep(self, photos: pyarrow.Table) -> set[str]:
        """Paths of those of `photos` that have a score of the file as it is; rows of the others of them are removed.

        Raises:
            InputError: a part is damaged.
        """
        import pyarrow

        now = {photo["path"]: (photo["size"], photo["modified"]) for photo in photos.to_pylist()}
        done: set[str] = set()
        for name in self.parts():
            table = self.read(name)
            columns = zip(*(table[n].to_pylist() for n in (*STATE, "error")), strict=True)
            kept = [path not in now or (now[path] == (size, time) and error is None) for path, size, time, error in columns]
            paths = table["path"].to_pylist()
            done.update(path for path, is_kept in zip(paths, kept, strict=True) if is_kept and path in now)
            if not any(kept):
                self.remove(name)
            elif not all(kept):
                self.write(name, table.filter(pyarrow.array(kept)))
        return done

    def _at(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _write(self, name: str, data: bytes) -> None:
        if is_url(self.place):  # an upload appears when it has ended
            self._fs.pipe_file(self._at(name), data)
            return
        with whole_file(Path(self._folder) / name) as part:
            part.write_bytes(data)


def score_on_ray(
    sources: Sequence[str],
    output: str,
    scorer: Scorer,
    *,
    workers: int | None = None,
    recursive: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    told: Callable[[int, int, int], None] | None = None,
) -> Outcome:
    """Score photos on a Ray cluster, into a folder of Parquet files.

    It is the cluster that `ray.init()` finds, by ``RAY_ADDRESS`` or because this machine is part of one, else one of this
    machine alone. Each worker needs this package, and sees paths under the same names.

    Args:
        sources: see `find_photos`.
        output: folder or URL of the parts, with the columns ``path``, ``size``, ``modified`` and those of `Scorer`. A part is
            written when all of its photos are scored, at most `MOST_ROWS`.
        scorer: what scores them.
        workers: how many; by default one for each GPU of the cluster, or where there is none one for each CPU.
        recursive: see `find_photos`.
        resume: keep what the output holds, and score photos that have no score in it or have changed since.
        overwrite: remove it.
        told: called with the number of photos to score, and then, after each part, with its rows and those with an error.

    Raises:
        FileExistsError: the output holds rows, and neither `resume` nor `overwrite` is given.
        FileNotFoundError: there is nothing behind a source.
        GRepQError: a worker can't write.
        InputError: ray is not installed, a storage can't be read, or the output is of other weights or options.
        WeightsError: the weights can't be had.
    """
    ray = need_ray()
    photos, place = find_photos(sources, recursive), Output(output)
    facts = _facts(scorer)
    before = _prepare(place, facts, photos, resume, overwrite)
    if before:
        import pyarrow

        photos = photos.filter(pyarrow.array([path not in before for path in photos["path"].to_pylist()]))
    place.write_json(RECORD, facts)
    if told is not None:
        told(len(photos), 0, 0)
    done = failed = 0
    if len(photos):
        for part in _run(ray, photos, scorer, output, workers):
            done, failed = done + part["done"], failed + part["failed"]
            if told is not None:
                told(len(photos), part["done"], part["failed"])
    return Outcome(len(before), done, failed)


def need_ray() -> Any:
    """Ray's module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow  # noqa: F401
        import ray.data
    except ImportError as error:
        raise InputError('the engine ray needs Ray Data: pip install "grepq-metric[ray]"') from error
    return ray


def _run(ray: Any, photos: pyarrow.Table, scorer: Scorer, output: str, workers: int | None) -> Iterator[dict[str, Any]]:
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")
    total = ray.cluster_resources()
    gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
    number = workers or max(gpus or cpus, 1)
    # Ray gives each worker as many threads as CPUs: those of a GPU decode.
    needs = {"num_gpus": 1, "num_cpus": max(cpus // gpus, 1)} if gpus else {"num_cpus": max(cpus // number, 1)}
    rows = min(max(-(-len(photos) // (number * PARTS_PER_WORKER)), LEAST_ROWS), MOST_ROWS)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    blocks = [photos.slice(start, rows) for start in range(0, len(photos), rows)]
    scored = ray.data.from_arrow(blocks).map_batches(
        PartWriter,
        fn_constructor_args=(scorer, output),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=number),
        **needs,
    )
    try:
        for part in scored.iter_rows():
            if part["problem"]:
                raise _failure(part["problem"])
            yield part
    except ray.exceptions.RayError as error:
        raise _failure(getattr(error, "cause", None) or error) from error


def _failure(cause: object) -> GRepQError:
    return GRepQError(f"a worker failed: {cause}; a run that resumes goes on after what is done")


def _facts(scorer: Scorer) -> dict[str, Any]:
    here = copy.copy(scorer)
    here.device = "cpu"  # this process may be on a machine without the device of the workers
    return {**{name: value for name, value in here.facts().items() if name != "device"}, "columns": list(scorer.columns)}


def _prepare(place: Output, facts: Mapping[str, Any], photos: pyarrow.Table, resume: bool, overwrite: bool) -> set[str]:
    """Paths that need no scoring, of an output that is fit for this run."""
    found, parts = place.read_json(RECORD), place.parts()
    if overwrite:
        place.clear()
    elif resume and found is not None:
        for name, value in facts.items():
            if found.get(name) != value:
                raise InputError(
                    f"{place.place} can't be resumed: its {name} was {found.get(name)}, and now is {value}; choose another "
                    "output, or overwrite it"
                )
        return place.keep(photos)
    elif parts or found is not None:
        if resume:
            raise InputError(f"{place.place} can't be resumed: {RECORD}, which says what it was scored with, is not in it")
        raise FileExistsError(f"{place.place} holds scores already: resume it, overwrite it, or choose another output")
    return set()


def _found(source: str, recursive: bool) -> Iterator[tuple[str, tuple[int, str]]]:
    fs, path = _file_system(source)
    try:
        if fs.isdir(path):
            infos = fs.find(path, maxdepth=None if recursive else 1, detail=True)
        elif any(sign in path for sign in "*?["):
            infos = {name: info for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"}
        else:
            yield _name(fs, path, source), _state(fs.info(path))
            return
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file or folder: {source}") from error
    except Exception as error:  # each storage has its own: credentials, networks, buckets of others
        raise InputError(f"cannot read {source}: {error}") from error
    for name, info in infos.items():
        inside = name[len(path) :] if name.startswith(path) else PurePosixPath(name).name
        hidden = any(part.startswith(".") for part in inside.split("/"))
        if PurePosixPath(name).suffix.lower() in SEARCHED and not hidden:
            yield _name(fs, name, source), _state(info)


def _name(fs: Any, path: str, source: str) -> str:
    return fs.unstrip_protocol(path) if is_url(source) else path


def _state(info: Mapping[str, Any]) -> tuple[int, str]:
    """Size, and what tells one content from another: storages name it as they like."""
    known = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "blob_id", "created")
    return int(info.get("size") or 0), str(next((info[name] for name in known if info.get(name)), ""))


def _file_system(place: str) -> tuple[Any, str]:
    """A storage, and a path in it; of this machine an absolute one."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(place)
    except (ImportError, ValueError) as error:  # a package is missing, or there is no such protocol
        raise InputError(f"cannot reach {place}: {error}") from error

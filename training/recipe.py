"""This module reads recipes: TOML files that hold every setting of a run."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.labels import Scheme, WordRule
from training.changes import apply_change

Loss = Literal["cross_entropy", "mse", "kl", "hidden"]

READERS = ("conll", "jsonl", "re3d", "redocred", "uner")
"""The corpus formats that a recipe may name; `training.data.readers` holds a reader for each."""

CLEANING = ("articles", "demonyms", "handles", "names", "nested")
"""The cleaning steps that a recipe may name; `training.data.cleaning` holds a function for each."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Corpus(_Table):
    """Describes a corpus: one `[[train]]`, `[[dev]]` or `[[test]]` entry."""

    name: str = Field(description="what reports call it")
    paths: tuple[str, ...] = Field(description="files or folders, under data_root")
    reader: str = Field(description=f"the format: {', '.join(READERS)}")
    options: dict[str, str | int | bool] = Field({}, description="the reader's options")
    labels: dict[str, str] = Field(
        {},
        description="corpus label to recipe label; an unlisted one that is no recipe label is O",
    )
    clean: tuple[str, ...] = Field((), description=f"in order: {', '.join(CLEANING)}")
    repeat: int = Field(1, ge=1, description="times an epoch sees each document")
    licence: str = Field("", description="printed in the model card")
    source: str = Field("", description="where it comes from, printed in the model card")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.reader not in READERS:
            raise ValueError(f"reader {self.reader!r} is none of {', '.join(READERS)}")
        if unknown := set(self.clean) - set(CLEANING):
            raise ValueError(f"clean {sorted(unknown)} are none of {', '.join(CLEANING)}")
        return self


class Encoder(_Table):
    """Names the pretrained network to start from."""

    path: str = Field(
        description="a hub id, a local folder, or package:NAME/FOLDER inside an installed package"
    )
    licence: str = ""
    source: str = ""
    word_shapes: bool = Field(True, description="feed word shapes through token_type_ids")
    words: WordRule = "bert"
    dropout: float = Field(0.1, ge=0, lt=1)
    spaced_marks: dict[str, str] = Field(
        {}, description="marks that another character stands for where a blank follows"
    )


class Stage(_Table):
    """Configures one training: its optimization and its losses."""

    epochs: int = Field(4, ge=1)
    lr: float = Field(2e-4, gt=0, description="peak learning rate")
    head_lr: float = Field(1e-3, gt=0, description="peak rate of the classification layer")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on lr for each layer down")
    trained_layers: int = Field(
        -1, ge=-1, description="layers that learn, from the top: -1 all, 0 only the classification layer"
    )
    unfreeze: Literal["at once", "gradual"] = Field(
        "at once", description="gradual: one more layer learns in each epoch, from the top"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="share of steps with a rising rate")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest norm of a gradient")
    batch_tokens: int = Field(1024, ge=64, description="padded sub-tokens of a batch")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step")
    max_length: int = Field(128, ge=16, description="longest training window, in sub-tokens")
    passages: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="chance that the article's next sentence joins a window",
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="of the hidden states; by default as the network was made"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the weights' moving average; 0 uses the last ones",
    )
    patience: int = Field(2, ge=1, description="epochs without a better dev F1 before stopping")
    precision: Literal["bf16", "no"] = "bf16"
    save_steps: int = Field(1000, ge=1, description="steps between two saves: a kill loses no more")
    losses: dict[Loss, float] = Field(
        {"cross_entropy": 1.0}, description="weight of each, see training/losses.py"
    )
    temperature: float = Field(1.0, gt=0, description="of the kl loss; both sides are divided by it")

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not any(weight > 0 for weight in self.losses.values()):
            raise ValueError("losses: one weight must be above 0")
        return self

    @model_validator(mode="after")
    def _starts_somewhere(self) -> Self:
        if self.unfreeze == "gradual" and self.trained_layers < 0:
            raise ValueError('unfreeze = "gradual" needs trained_layers of the first epoch, 0 or more')
        return self

    @property
    def wanted(self) -> set[Loss]:
        """Return the losses whose weight is not 0."""
        return {name for name, weight in self.losses.items() if weight}


class Finetune(Stage):
    """Configures the fine-tuning of the encoder on labelled text, once for each seed."""

    seeds: tuple[int, ...] = Field((1,), description="several make an ensemble teacher")

    @model_validator(mode="after")
    def _without_a_teacher(self) -> Self:
        if self.wanted != {"cross_entropy"}:
            raise ValueError("losses: labelled text without a teacher has cross_entropy alone")
        return self


class Teacher(_Table):
    """Names members of the teacher, whose answer is the mean of their log-probabilities."""

    members: tuple[str, ...] = Field(
        (), description="checkpoint or version folders that teach beside the fine-tuned seeds"
    )


class Augmentation(_Table):
    """Sets the number of variations for each labelled text, by kind; 0.5 varies every second text."""

    mentions: float = Field(0.0, ge=0, description="names replaced by others of their label")
    words: float = Field(0.0, ge=0, description="words replaced by others of their tag")
    masks: float = Field(0.0, ge=0, description="words replaced by a blank, _")
    ngrams: float = Field(0.0, ge=0, description="runs of 3 to 10 words, sampled")


class Transfer(_Table):
    """Configures the transfer set: the texts that the teacher labels for its students."""

    root: str = Field("../shared/data/unlabelled", description="where raw text lies")
    texts: tuple[str, ...] = Field((), description="files under root, one text a line; * is allowed")
    augment: Augmentation = Augmentation()
    words: int = Field(0, ge=0, description="at most so many words, sampled; 0 takes all")
    licence: str = Field("", description="of the raw text, printed in the model card")
    source: str = Field("", description="where it comes from, printed in the model card")
    seed: int = 1


class Student(_Table):
    """Describes a small network that learns from the teacher, and the version it becomes."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    architecture: str = Field(description="see training/models")
    size: dict[str, int | float | str | tuple[int, ...]] = Field(
        {}, description="the architecture's own measures, such as layers"
    )
    encoder: Encoder | None = Field(
        None, description="a pretrained network to start from in place of the teacher, with its tokenizer"
    )
    seed: int = 1
    transfer: Stage = Field(
        Stage(epochs=1, losses={"mse": 1.0}), description="on the transfer set, towards the teacher"
    )
    labelled: Stage | None = Field(
        None, description="then on labelled text; what is better on dev is published"
    )
    alone: Stage | None = Field(
        None, description="the same network without a teacher, to tell what distillation gave"
    )

    @model_validator(mode="after")
    def _learnable(self) -> Self:
        if "cross_entropy" in self.transfer.wanted:
            raise ValueError(
                "transfer.losses: the transfer set has no labels, so no cross_entropy; say { mse = 1.0 }"
            )
        if self.alone and self.alone.wanted != {"cross_entropy"}:
            raise ValueError("alone.losses: labelled text without a teacher has cross_entropy alone")
        return self


class Export(_Table):
    """Configures how a trained network becomes a version."""

    max_length: int = Field(128, ge=16, description="window, in sub-tokens")
    stride: int = Field(32, ge=0, description="overlap of windows")
    precision: Literal["auto", "int8", "fp32"] = Field(
        "auto", description="auto: the fastest on this machine that passes the gate"
    )
    fp16: bool = Field(False, description="a fused fp16 graph for CUDA too")
    gate: float = Field(0.3, ge=0, description="dev F1 points a variant may lose against fp32")
    calibrate: bool = Field(True, description="fit the temperature and label thresholds on dev")
    golden: tuple[str, ...] = Field((), description="texts to choose the golden ones from")


class Range(_Table):
    """Bounds one value of a search: numbers from `low` to `high`, or a list of choices."""

    low: int | float | None = Field(None, description="whole numbers are tried where both are whole")
    high: int | float | None = None
    log: bool = Field(False, description="by orders of magnitude")
    choices: tuple[bool | int | float | str, ...] = ()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.choices) == (self.low is not None or self.high is not None):
            raise ValueError("a range has either low and high, or choices")
        if not self.choices:
            if self.low is None or self.high is None or self.low > self.high:
                raise ValueError("low and high must both be there, and low not above high")
            if self.log and self.low <= 0:
                raise ValueError("log: low must be above 0")
        return self


class Search(_Table):
    """Configures `nerve-train search`: the ranges of values, and the limits on trials and time."""

    trials: int = Field(20, ge=1)
    minutes: float = Field(0, ge=0, description="no new trial starts after so many; 0: no limit")
    seed: int = 1
    ranges: dict[str, Range] = Field(
        {}, description='by what --set calls a value: "finetune.lr", "students.NAME.transfer.lr"'
    )


class Recipe(_Table):
    """Describes a whole run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    languages: tuple[str, ...] = ()
    license: str = ""
    limits: tuple[str, ...] = Field((), description="what users should know, printed in the model card")
    labels: tuple[str, ...] = Field(min_length=1)
    scheme: Scheme = "BIOES"
    data_root: str = Field("../shared/data", description="where corpora lie, from the working folder")
    output: str = Field("", description="run folder; default runs/<name>")
    token_table: bool = Field(
        False, description="whether evaluation prints the token table beside the entity scores"
    )
    encoder: Encoder
    train: tuple[Corpus, ...] = Field(min_length=1)
    dev: tuple[Corpus, ...] = Field(min_length=1)
    test: tuple[Corpus, ...] = ()
    finetune: Finetune = Finetune()
    teacher: Teacher = Teacher()
    transfer: Transfer = Transfer()
    students: tuple[Student, ...] = ()
    export: Export = Export()
    search: Search = Search()

    file: str = Field("", exclude=True, description="where it was read from; not to be set")

    @model_validator(mode="after")
    def _has_a_teacher(self) -> Self:
        if not self.finetune.seeds and not self.teacher.members:
            raise ValueError("finetune.seeds is empty; give a seed, or name a teacher in teacher.members")
        return self

    @model_validator(mode="after")
    def _splits_words_one_way(self) -> Self:
        for student in self.students:
            if student.encoder and student.encoder.words != self.encoder.words:
                raise ValueError(
                    f"students {student.name}: its encoder.words is {student.encoder.words!r}, the "
                    f"recipe's {self.encoder.words!r}; a student reads its teacher's words"
                )
        return self

    @model_validator(mode="after")
    def _names_students_apart(self) -> Self:
        names = [student.name for student in self.students]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"students {', '.join(twice)}: named twice; give each a name of its own")
        return self

    @property
    def run_folder(self) -> Path:
        return Path(self.output or f"runs/{self.name}")


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe from its file, and apply `table.key=value` changes (values in TOML).

    Raises:
        ValueError: the file is missing or is not TOML, or fields are unknown or wrong; the message names
            all of these fields.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such recipe") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    return _validated(tables, changes, str(path))


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return a recipe with more changes applied; it raises the errors of `load_recipe`."""
    return _validated(recipe.model_dump(mode="json", exclude_unset=True), changes, recipe.file)


def _validated(tables: dict[str, Any], changes: Sequence[str], file: str) -> Recipe:
    for change in changes:
        apply_change(tables, change)
    try:
        return Recipe.model_validate(tables | {"file": file})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {str(e['input'])[:80]!r})"
            for e in error.errors()
        )
        raise ValueError(f"{file}: {problems}") from None

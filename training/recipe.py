"""Recipes: one TOML file says everything a run depends on. `--set finetune.lr=1e-4` changes one value."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.engine.decoding import Scheme
from app.engine.words import WordRule
from training.data.cleaning import CLEANING
from training.data.readers import READERS


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Corpus(_Table):
    """One `[[train]]`, `[[dev]]` or `[[test]]` entry."""

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
    """The pretrained network to start from."""

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


class Finetune(_Table):
    """The training loop's knobs."""

    seed: int = 1
    epochs: int = Field(4, ge=1)
    lr: float = Field(2e-4, gt=0, description="peak learning rate")
    head_lr: float = Field(1e-3, gt=0, description="peak rate of the classification layer")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on lr for each layer down")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of steps with a rising rate")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest norm of a gradient")
    batch_tokens: int = Field(1024, ge=64, description="padded sub-tokens a step")
    max_length: int = Field(128, ge=16, description="longest training window, in sub-tokens")
    passages: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="chance that the article's next sentence joins a window",
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


class Export(_Table):
    """What becomes of the fine-tuned network."""

    max_length: int = Field(128, ge=16, description="window, in sub-tokens")
    stride: int = Field(32, ge=0, description="overlap of windows")
    precision: Literal["int8", "fp32"] = "int8"
    gate: float = Field(0.3, ge=0, description="dev F1 points a variant may lose against fp32")
    golden: tuple[str, ...] = Field((), description="texts to choose the golden ones from")


class Recipe(_Table):
    """A whole run."""

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
    export: Export = Export()

    file: str = Field("", exclude=True, description="where it was read from; not to be set")

    @property
    def run_folder(self) -> Path:
        return Path(self.output or f"runs/{self.name}")


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe from its file, with `table.key=value` changes (values in TOML).

    Raises:
        ValueError: no such file, no TOML, or a field is unknown or wrong; names all of them.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such recipe") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"--set {change}: must be table.key=value")
        table = tables
        *parents, leaf = key.strip().split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ValueError(f"--set {change}: {parent} is no table of the recipe")
        table[leaf] = _value(value.strip())
    try:
        return Recipe.model_validate(tables | {"file": str(path)})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {str(e['input'])[:80]!r})"
            for e in error.errors()
        )
        raise ValueError(f"{path}: {problems}") from None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string

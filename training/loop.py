"""The one training loop. Read from top to bottom; a run can be killed at any moment and goes on.

`accelerate launch` runs it on several devices: each process takes its share of every step's batches.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, set_seed
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from app.engine.decoding.spans import Decoder
from app.engine.text.tokenizer import Tokenizer
from app.labels import tags_of
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span
from training.data.encode import (
    IGNORED,
    NO_TARGET,
    Batch,
    Example,
    batches,
    training_windows,
)
from training.evaluation.spans import score
from training.folders import replaced_folder
from training.inference import logits_of
from training.losses import Answer, Guide, total
from training.models.tagger import Tagger
from training.recipe import Recipe, Stage
from training.teacher import Targets

_LOGGED = 20  # steps between two points of the loss in TensorBoard

Step = list[list[Example]]
"""The batches whose gradients make one step of the optimizer."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave: mean loss, dev F1 a corpus (percent) and their unweighted mean."""

    number: int
    loss: float
    dev: dict[str, float]
    average: float


Watch = Callable[[Path, Epoch], None]
"""Is told of each epoch of the training in a folder, once it is saved; may raise to end it."""


@dataclass(frozen=True)
class Task:
    """What a network learns from, and what tells how well.

    Attributes:
        examples: texts with the annotators' tags, the teacher's rows, or both.
        targets: the teacher's answers that the rows point into.
        guide: of the hidden-state loss.
        dev: chooses the epoch.
    """

    examples: Sequence[Example]
    tokenizer: Tokenizer
    dev: Sequence[LoadedCorpus]
    targets: Targets | None = None
    guide: Guide | None = None


@dataclass
class _Progress:
    """Where a run stands, as its state is saved."""

    history: list[Epoch] = field(default_factory=list)
    steps: int = 0  # of the epoch after those in `history`
    losses: list[float] = field(default_factory=list)  # of these steps
    processes: int = 1

    def write(self, folder: Path) -> None:
        values = {"steps": self.steps, "losses": self.losses, "processes": self.processes}
        (folder / "progress.json").write_text(json.dumps(values))
        (folder / "history.json").write_text(json.dumps([asdict(e) for e in self.history], indent=1))

    @classmethod
    def read(cls, folder: Path) -> "_Progress":
        history = [Epoch(**epoch) for epoch in json.loads((folder / "history.json").read_text())]
        return cls(history, **json.loads((folder / "progress.json").read_text()))


class _Learner(nn.Module):
    """The tagger with its guide, as one network to be trained."""

    def __init__(self, tagger: Tagger, guide: Guide | None):
        super().__init__()
        self.tagger = tagger
        self.guide = guide

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        inputs = batch.input_ids, batch.attention_mask, batch.word_shape
        if self.guide is None:
            return self.tagger(*inputs), None
        logits, states = self.tagger.hidden_states(*inputs)
        return logits, self.guide(states, *inputs)


def train(
    tagger: Tagger,
    task: Task,
    stage: Stage,
    seed: int,
    recipe: Recipe,
    folder: Path,
    watch: Watch | None = None,
) -> Path:
    """Train a network; returns the folder of the best epoch's checkpoint.

    Stops early when `patience` epochs bring no better dev F1. Killed at any moment and called again
    with the same arguments, it goes on from its last save and ends with the same weights.
    """
    best, state = folder / "checkpoint", folder / "state"
    resumed = (state / "progress.json").exists()
    progress = _Progress.read(state) if resumed else _Progress()
    gradual = stage.unfreeze == "gradual"
    accelerator = Accelerator(
        mixed_precision="no",  # the stage says, below
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=gradual)],
    )
    set_seed(seed, device_specific=True)
    if resumed and progress.processes != accelerator.num_processes:
        raise ValueError(
            f"{folder}: was begun by {progress.processes} processes, and {accelerator.num_processes} "
            f"cannot go on with it; launch {progress.processes}, or delete the folder"
        )
    progress.processes = accelerator.num_processes
    share = accelerator.num_processes * stage.accumulate
    counts = [_count(_plan(task, stage, seed, epoch), share) for epoch in range(1, stage.epochs + 1)]
    whole = sum(counts)
    warm = max(1, round(whole * stage.warmup))

    if stage.dropout is not None:
        for module in tagger.modules():
            if isinstance(module, nn.Dropout) and module.p:  # where there was none, none comes
                module.p = stage.dropout
    _freeze(tagger, stage, epoch=stage.epochs)  # what is never trained needs no gradient anywhere
    groups = tagger.parameter_groups(stage.lr, stage.head_lr, stage.layer_decay, stage.weight_decay)
    if task.guide is not None:
        groups.append({"params": list(task.guide.parameters()), "lr": stage.head_lr})
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0, whole - step) / (whole - warm + 1))
    )
    learner, optimizer = accelerator.prepare(_Learner(tagger, task.guide), optimizer)
    accelerator.register_for_checkpointing(schedule)  # prepared, it would count each process's steps
    averaged: AveragedModel | None = None
    if stage.average:
        averaged = AveragedModel(tagger, multi_avg_fn=moving_average(stage.average))
        accelerator.register_for_checkpointing(averaged)
    if resumed:
        accelerator.load_state(str(state))
    done = sum(counts[: len(progress.history)]) + progress.steps
    board = (
        SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        if accelerator.is_main_process
        else None
    )

    for epoch in range(len(progress.history) + 1, stage.epochs + 1):
        if _exhausted(progress.history, stage.patience):
            break
        _freeze(tagger, stage, epoch)
        learner.train()
        steps = list(_shares(_plan(task, stage, seed, epoch), share, accelerator, stage.accumulate))
        bar = tqdm(
            steps[progress.steps :],
            desc=f"epoch {epoch}/{stage.epochs}",
            unit="step",
            initial=progress.steps,
            total=len(steps),
            mininterval=10,
            disable=not accelerator.is_main_process,
        )
        for step in bar:
            progress.losses.append(_learn(learner, step, task, stage, accelerator))
            accelerator.clip_grad_norm_(learner.parameters(), stage.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if averaged is not None:
                averaged.update_parameters(tagger)
            progress.steps += 1
            done += 1
            if board and done % _LOGGED == 0:
                recent = float(np.mean(progress.losses[-_LOGGED:]))
                board.add_scalar("loss", recent, done)
                board.add_scalar("rate", schedule.get_last_lr()[0], done)
                bar.set_postfix(loss=f"{recent:.4f}", refresh=False)
            if progress.steps % stage.save_steps == 0 and progress.steps < len(steps):
                _save_state(accelerator, state, progress)

        candidate: Tagger = averaged.module if averaged is not None else tagger  # type: ignore[assignment]
        dev_f1 = {
            corpus.name: round(100 * f1_of(candidate, task.tokenizer, corpus.documents, recipe), 3)
            for corpus in (task.dev if accelerator.is_main_process else ())
        }
        loss = float(np.mean(progress.losses))
        found = [Epoch(epoch, loss, dev_f1, mean(dev_f1.values()) if dev_f1 else 0.0)]
        broadcast_object_list(found)
        progress = _Progress([*progress.history, found[0]], processes=progress.processes)
        if board:
            print(f"epoch {epoch}: dev F1 {found[0].average:.2f}", dev_f1, flush=True)
            for name, value in {**dev_f1, "average": found[0].average}.items():
                board.add_scalar(f"dev F1/{name}", value, done)
            board.flush()
        if accelerator.is_main_process and found[0] == max(progress.history, key=lambda e: e.average):
            with replaced_folder(best) as new:
                candidate.save(new)
                task.tokenizer.save(new / "tokenizer.json")
        _save_state(accelerator, state, progress)
        if watch is not None:
            watch(folder, found[0])
    if board:
        board.close()
    accelerator.wait_for_everyone()
    return best


def _plan(task: Task, stage: Stage, seed: int, epoch: int) -> list[list[Example]]:
    """The batches of one epoch, the same whenever they are made."""
    rng = random.Random(f"{seed}/{epoch}")
    size = stage.max_length - task.tokenizer.specials
    windows = list(training_windows(task.examples, size, stage.passages, rng))
    return batches(windows, stage.batch_tokens, task.tokenizer.specials, rng)


def _count(plan: Sequence[list[Example]], share: int) -> int:
    """Steps of an epoch; its last ones may be short of batches, but every process has one."""
    return -(-len(plan) // share)


def _shares(
    plan: Sequence[list[Example]], share: int, accelerator: Accelerator, accumulate: int
) -> Iterator[Step]:
    """This process's batches of each step. Where the last step lacks some, the first ones come again."""
    padded = [*plan, *(list(plan) * share)[: -len(plan) % share]]
    for at in range(0, len(padded), share):
        first = at + accelerator.process_index * accumulate
        yield padded[first : first + accumulate]


def _learn(learner: nn.Module, step: Step, task: Task, stage: Stage, accelerator: Accelerator) -> float:
    """Gradients of one step; returns its loss in this process."""
    losses = []
    for number, rows in enumerate(step):
        batch = Batch.of(rows, task.tokenizer).to(accelerator.device)
        more = number < len(step) - 1
        with accelerator.no_sync(learner) if more else nullcontext():
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=stage.precision == "bf16"):
                logits, hidden = learner(batch)
            loss = total(_answer(logits.float(), hidden, batch, task.targets, stage), stage.losses)
            accelerator.backward(loss / len(step))
        losses.append(loss.item())
    return mean(losses)


def _answer(
    logits: torch.Tensor, hidden: torch.Tensor | None, batch: Batch, targets: Targets | None, stage: Stage
) -> Answer:
    labelled, known = batch.tags != IGNORED, batch.rows != NO_TARGET
    teacher = logits.new_zeros((0, logits.shape[-1]))
    if targets is not None:
        teacher = torch.from_numpy(targets.rows(batch.rows[known].cpu().numpy())).to(logits.device)
    return Answer(
        logits[labelled],
        batch.tags[labelled],
        logits[known],
        teacher,
        hidden,
        stage.temperature,
        stage.label_smoothing,
    )


def _freeze(tagger: Tagger, stage: Stage, epoch: int) -> None:
    """Let those parameters learn that an epoch trains."""
    layers = stage.trained_layers
    if layers >= 0 and stage.unfreeze == "gradual":
        layers += epoch - 1
    lowest = tagger.depth - layers if 0 <= layers <= tagger.depth else -1
    for name, parameter in tagger.named_parameters():
        parameter.requires_grad_(tagger.layer_of(name) >= lowest)


def _save_state(accelerator: Accelerator, state: Path, progress: _Progress) -> None:
    """Everything a run goes on from; each process adds its random state to the one folder."""
    with replaced_folder(state) if accelerator.is_main_process else nullcontext() as new:
        shared = [new]
        broadcast_object_list(shared)
        accelerator.save_state(str(shared[0]))
        accelerator.wait_for_everyone()
        if new is not None:
            progress.write(new)
    accelerator.wait_for_everyone()


def _exhausted(history: Sequence[Epoch], patience: int) -> bool:
    best = max(history, key=lambda e: e.average, default=None)
    return best is not None and history[-1].number - best.number >= patience


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """The exponential moving average of the weights after each step, free of those before the first.

    Without that a short training ends where it began: after 250 steps with a decay of 0.998 sixty percent
    of the average would be the weights of the first. As Adam's moments (Kingma and Ba 2015, section 3).
    """

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
        share = (1 - decay) / (1 - decay ** (int(steps) + 1))
        for old, new in zip(averaged, current, strict=True):
            old.lerp_(new, share)

    return update


def best_f1(folder: Path) -> float:
    """The average dev F1 of the best epoch of a training, in percent; that epoch is its checkpoint."""
    history = json.loads((folder / "state/history.json").read_text(encoding="utf-8"))
    return max(float(epoch["average"]) for epoch in history)


def f1_of(tagger: Tagger, tokenizer: Tokenizer, documents: Sequence[Document], recipe: Recipe) -> float:
    """Entity F1 of a network in training. What is reported later runs through the serving engine."""
    decoder = Decoder(tags_of(recipe.labels, recipe.scheme), recipe.scheme)
    encoded = tokenizer.encode([document.text for document in documents])
    logits = logits_of(
        tagger, tokenizer, encoded, len(decoder.tags), recipe.export.max_length, recipe.export.stride
    )
    found = [
        [
            Span(int(text.starts[first]), int(text.ends[last]), label)
            for first, last, label, _ in decoder.decode(values)
        ]
        for text, values in zip(encoded, logits, strict=True)
    ]
    return score(found, [document.spans for document in documents], recipe.labels).overall.f1

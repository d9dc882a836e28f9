"""This module holds the training loop of every stage. A killed training resumes from its last save.

`accelerate launch` runs it on several devices: each process takes its share of every step's batches.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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

from app.engine.text.tokenizer import Tokenizer
from training.data.corpora import LoadedCorpus
from training.data.encode import (
    IGNORED,
    NO_TARGET,
    Batch,
    Example,
    batches,
    training_windows,
)
from training.folders import replaced_folder
from training.inference import f1_of
from training.losses import HiddenStateLoss, LossInputs, total
from training.models.tagger import Tagger
from training.progress import Epoch, Progress, Watch, state_folder
from training.recipe import Recipe, Stage
from training.teacher import TeacherAnswers

_LOGGED = 20
"""Steps between two points of the loss in TensorBoard; each point is the mean of these steps."""

Step = list[list[Example]]
"""The batches whose gradients are averaged for one step of the optimizer."""


@dataclass(frozen=True)
class TrainingData:
    """Holds the data of one training.

    Attributes:
        examples: texts with the annotators' tags, with rows of the teacher's answers, or with both.
        tokenizer: the network's tokenizer, saved beside it.
        dev: corpora whose F1 chooses the best epoch.
        answers: the teacher's answers; the examples hold row numbers of them.
        hidden: the loss on hidden states, where the stage gives it a weight.
    """

    examples: Sequence[Example]
    tokenizer: Tokenizer
    dev: Sequence[LoadedCorpus]
    answers: TeacherAnswers | None = None
    hidden: HiddenStateLoss | None = None


class _Learner(nn.Module):
    """Joins the tagger and the projections of its hidden states, so that both are trained as one module."""

    def __init__(self, tagger: Tagger, hidden: HiddenStateLoss | None):
        super().__init__()
        self.tagger = tagger
        self.hidden = hidden

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        inputs = batch.input_ids, batch.attention_mask, batch.word_shape
        if self.hidden is None:
            return self.tagger(*inputs), None
        logits, states = self.tagger.hidden_states(*inputs)
        return logits, self.hidden(states, *inputs)


def train(
    tagger: Tagger,
    data: TrainingData,
    stage: Stage,
    seed: int,
    recipe: Recipe,
    folder: Path,
    watch: Watch | None = None,
) -> Path:
    """Train a network; return the folder of the best epoch's checkpoint.

    Training stops early when `patience` epochs bring no better dev F1. After a kill, a call with the same
    arguments resumes from the last save and ends with the same weights.

    Raises:
        ValueError: the folder holds a training by another number of processes.
    """
    best, state = folder / "checkpoint", state_folder(folder)
    saved = Progress.read(state)
    progress = saved or Progress()
    gradual = stage.unfreeze == "gradual"
    accelerator = Accelerator(
        mixed_precision="no",  # autocast in `_learn` follows the stage's precision
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=gradual)],
    )
    set_seed(seed, device_specific=True)
    if saved and progress.processes != accelerator.num_processes:
        raise ValueError(
            f"{folder}: was begun by {progress.processes} processes, and {accelerator.num_processes} "
            f"cannot go on with it; launch {progress.processes}, or delete the folder"
        )
    progress.processes = accelerator.num_processes
    share = accelerator.num_processes * stage.accumulate
    counts = [_count(_plan(data, stage, seed, epoch), share) for epoch in range(1, stage.epochs + 1)]
    whole = sum(counts)
    warm = max(1, round(whole * stage.warmup))

    if stage.dropout is not None:
        for module in tagger.modules():
            if isinstance(module, nn.Dropout) and module.p:  # a layer made without dropout stays so
                module.p = stage.dropout
    _freeze(tagger, stage, epoch=stage.epochs)  # a weight that no epoch trains is not optimized
    groups = tagger.parameter_groups(stage.lr, stage.head_lr, stage.layer_decay, stage.weight_decay)
    if data.hidden is not None:
        groups.append({"params": list(data.hidden.parameters()), "lr": stage.head_lr})
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0, whole - step) / (whole - warm + 1))
    )
    learner, optimizer = accelerator.prepare(_Learner(tagger, data.hidden), optimizer)
    accelerator.register_for_checkpointing(schedule)  # `prepare` would advance it once per process
    averaged: AveragedModel | None = None
    if stage.average:
        averaged = AveragedModel(tagger, multi_avg_fn=moving_average(stage.average))
        accelerator.register_for_checkpointing(averaged)
    if saved:
        accelerator.load_state(str(state))
    done = sum(counts[: len(progress.history)]) + progress.steps
    board = (
        SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        if accelerator.is_main_process
        else None
    )

    for epoch in range(len(progress.history) + 1, stage.epochs + 1):
        if progress.exhausted(stage.patience):
            break
        _freeze(tagger, stage, epoch)
        learner.train()
        steps = list(_shares(_plan(data, stage, seed, epoch), share, accelerator, stage.accumulate))
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
            progress.losses.append(_learn(learner, step, data, stage, accelerator))
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
            corpus.name: round(100 * f1_of(candidate, data.tokenizer, corpus.documents, recipe), 3)
            for corpus in (data.dev if accelerator.is_main_process else ())
        }
        loss = float(np.mean(progress.losses))
        found = [Epoch(epoch, loss, dev_f1, mean(dev_f1.values()) if dev_f1 else 0.0)]
        broadcast_object_list(found)
        progress = Progress([*progress.history, found[0]], processes=progress.processes)
        if board:
            print(f"epoch {epoch}: dev F1 {found[0].average:.2f}", dev_f1, flush=True)
            for name, value in {**dev_f1, "average": found[0].average}.items():
                board.add_scalar(f"dev F1/{name}", value, done)
            board.flush()
        if accelerator.is_main_process and found[0] == progress.best:
            with replaced_folder(best) as new:
                candidate.save(new)
                data.tokenizer.save(new / "tokenizer.json")
        _save_state(accelerator, state, progress)
        if watch is not None:
            watch(folder, found[0])
    if board:
        board.close()
    accelerator.wait_for_everyone()
    return best


def _plan(data: TrainingData, stage: Stage, seed: int, epoch: int) -> list[list[Example]]:
    """Return the batches of one epoch; the same arguments give the same batches."""
    rng = random.Random(f"{seed}/{epoch}")
    size = stage.max_length - data.tokenizer.frame.count
    windows = list(training_windows(data.examples, size, stage.passages, rng))
    return batches(windows, stage.batch_tokens, data.tokenizer.frame.count, rng)


def _count(plan: Sequence[list[Example]], share: int) -> int:
    """Return the number of steps of an epoch, counting a last step that lacks batches."""
    return -(-len(plan) // share)


def _shares(
    plan: Sequence[list[Example]], share: int, accelerator: Accelerator, accumulate: int
) -> Iterator[Step]:
    """Yield this process's batches of each step; the plan's first batches fill up the last step."""
    padded = [*plan, *(list(plan) * share)[: -len(plan) % share]]
    for at in range(0, len(padded), share):
        first = at + accelerator.process_index * accumulate
        yield padded[first : first + accumulate]


def _learn(
    learner: nn.Module, step: Step, data: TrainingData, stage: Stage, accelerator: Accelerator
) -> float:
    """Compute the gradients of one step; return the mean loss of this process's batches."""
    losses = []
    for number, rows in enumerate(step):
        batch = Batch.of(rows, data.tokenizer).to(accelerator.device)
        more = number < len(step) - 1
        with accelerator.no_sync(learner) if more else nullcontext():
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=stage.precision == "bf16"):
                logits, hidden = learner(batch)
            given = _loss_inputs(logits.float(), hidden, batch, data.answers, stage)
            loss = total(given, stage.losses)
            accelerator.backward(loss / len(step))
        losses.append(loss.item())
    return mean(losses)


def _loss_inputs(
    logits: torch.Tensor,
    hidden: torch.Tensor | None,
    batch: Batch,
    answers: TeacherAnswers | None,
    stage: Stage,
) -> LossInputs:
    labelled, known = batch.tags != IGNORED, batch.rows != NO_TARGET
    teacher = logits.new_zeros((0, logits.shape[-1]))
    if answers is not None:
        teacher = torch.from_numpy(answers.rows(batch.rows[known].cpu().numpy())).to(logits.device)
    return LossInputs(
        logits[labelled],
        batch.tags[labelled],
        logits[known],
        teacher,
        hidden,
        stage.temperature,
        stage.label_smoothing,
    )


def _freeze(tagger: Tagger, stage: Stage, epoch: int) -> None:
    """Enable gradients for the layers that an epoch trains, and disable them for the others."""
    layers = stage.trained_layers
    if layers >= 0 and stage.unfreeze == "gradual":
        layers += epoch - 1
    lowest = tagger.depth - layers if 0 <= layers <= tagger.depth else -1
    for name, parameter in tagger.named_parameters():
        parameter.requires_grad_(tagger.layer_of(name) >= lowest)


def _save_state(accelerator: Accelerator, state: Path, progress: Progress) -> None:
    """Save what a resumed training needs; each process adds its random state to the shared folder."""
    with replaced_folder(state) if accelerator.is_main_process else nullcontext() as new:
        shared = [new]
        broadcast_object_list(shared)
        accelerator.save_state(str(shared[0]))
        accelerator.wait_for_everyone()
        if new is not None:
            progress.write(new)
    accelerator.wait_for_everyone()


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Return the update of an exponential moving average of weights, without the initial weights.

    The bias correction of Adam's moments (Kingma and Ba 2015, section 3) removes the initial weights: after
    250 steps with a decay of 0.998 they would make up 60 % of the average.
    """

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
        share = (1 - decay) / (1 - decay ** (int(steps) + 1))
        for old, new in zip(averaged, current, strict=True):
            old.lerp_(new, share)

    return update

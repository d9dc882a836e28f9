"""The one training loop. Read from top to bottom; a run can be killed at any moment and goes on."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from app.engine.decoding import Decoder, tags_of
from app.engine.tokenizer import Tokenizer
from app.engine.windows import cut_windows
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span
from training.data.encode import (
    IGNORED,
    NO_TAGS,
    Example,
    batches,
    collate,
    encode,
    training_windows,
)
from training.evaluation.spans import score
from training.folders import replaced_folder
from training.models.transformer import TransformerTagger, load_tokenizer
from training.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave: mean loss, dev F1 a corpus (percent) and their unweighted mean."""

    number: int
    loss: float
    dev: dict[str, float]
    average: float


def finetune(
    recipe: Recipe,
    train: Sequence[LoadedCorpus],
    dev: Sequence[LoadedCorpus],
    folder: Path,
) -> Path:
    """Fine-tune the recipe's encoder; returns the folder of the best epoch's checkpoint.

    Stops early when `patience` epochs bring no better dev F1. Killed and called again, it goes on
    after the last whole epoch and ends with the same weights.
    """
    knobs = recipe.finetune
    best, state = folder / "checkpoint", folder / "state"
    history: list[Epoch] = []
    if state.exists():
        history = [Epoch(**epoch) for epoch in json.loads((state / "history.json").read_text())]

    accelerator = Accelerator(mixed_precision=knobs.precision, cpu=not torch.cuda.is_available())
    set_seed(knobs.seed)
    tokenizer = load_tokenizer(recipe.encoder.path, recipe.encoder.words, recipe.encoder.spaced_marks)
    tagger = TransformerTagger.from_pretrained(
        recipe.encoder.path,
        tags_of(recipe.labels, recipe.scheme),
        recipe.encoder.word_shapes,
        recipe.encoder.dropout,
        torch.Generator().manual_seed(knobs.seed),
    )
    examples = [
        example
        for corpus in train
        for _ in range(corpus.repeat)
        for example in encode(corpus.documents, tokenizer, recipe.scheme, recipe.labels)
    ]
    plans = [_plan(examples, tokenizer, recipe, epoch) for epoch in range(1, knobs.epochs + 1)]
    total = sum(map(len, plans))
    warm = max(1, round(total * knobs.warmup))

    optimizer = torch.optim.AdamW(
        tagger.parameter_groups(knobs.lr, knobs.head_lr, knobs.layer_decay, knobs.weight_decay),
        fused=True,
    )
    schedule = LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, max(0, total - step) / (total - warm + 1)),
    )
    averaged = AveragedModel(tagger, multi_avg_fn=get_ema_multi_avg_fn(knobs.average))  # type: ignore[no-untyped-call]
    model, optimizer, schedule = accelerator.prepare(tagger, optimizer, schedule)
    accelerator.register_for_checkpointing(averaged)
    if history:
        accelerator.load_state(str(state))
    loss_of = nn.CrossEntropyLoss(ignore_index=IGNORED, label_smoothing=knobs.label_smoothing)

    for epoch, plan in enumerate(plans, 1):
        if epoch <= len(history) or _exhausted(history, knobs.patience):
            continue
        model.train()
        losses: list[float] = []
        bar = tqdm(plan, desc=f"epoch {epoch}/{knobs.epochs}", unit="batch", mininterval=5)
        for rows in bar:
            batch = collate(rows, tokenizer).to(accelerator.device)
            with accelerator.autocast():
                logits = model(batch.input_ids, batch.attention_mask, batch.word_shape)
            loss = loss_of(logits.float().flatten(0, 1), batch.tags.flatten())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), knobs.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if knobs.average:
                averaged.update_parameters(tagger)
            losses.append(loss.item())
            bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)

        candidate: TransformerTagger = averaged.module if knobs.average else tagger  # type: ignore[assignment]
        dev_f1 = {
            corpus.name: round(100 * f1_of(candidate, tokenizer, corpus.documents, recipe), 3)
            for corpus in dev
        }
        history.append(Epoch(epoch, float(np.mean(losses)), dev_f1, mean(dev_f1.values())))
        print(f"epoch {epoch}: dev F1 {history[-1].average:.2f}", dev_f1, flush=True)
        if history[-1] == max(history, key=lambda e: e.average):
            with replaced_folder(best) as new:
                candidate.save(new)
                tokenizer.save(new / "tokenizer.json")
        with replaced_folder(state) as new:
            accelerator.save_state(str(new))
            (new / "history.json").write_text(json.dumps([asdict(e) for e in history], indent=1))
    return best


def _plan(
    examples: Sequence[Example], tokenizer: Tokenizer, recipe: Recipe, epoch: int
) -> list[list[Example]]:
    """The batches of one epoch, the same whenever they are made."""
    knobs = recipe.finetune
    rng = random.Random(f"{knobs.seed}/{epoch}")
    size = knobs.max_length - tokenizer.specials
    windows = list(training_windows(examples, size, knobs.passages, rng))
    return batches(windows, knobs.batch_tokens, tokenizer.specials, rng)


def _exhausted(history: Sequence[Epoch], patience: int) -> bool:
    best = max(history, key=lambda e: e.average, default=None)
    return best is not None and history[-1].number - best.number >= patience


def f1_of(
    tagger: TransformerTagger,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    recipe: Recipe,
) -> float:
    """Entity F1 of a network in training. What is reported later runs through the serving engine."""
    decoder = Decoder(tags_of(recipe.labels, recipe.scheme), recipe.scheme)
    found: list[list[Span]] = []
    encoded = tokenizer.encode([document.text for document in documents])
    size = recipe.export.max_length - tokenizer.specials
    windows = [
        (number, window)
        for number, text in enumerate(encoded)
        for window in cut_windows(len(text), size, recipe.export.stride)
    ]
    windows.sort(key=lambda pair: pair[1].end - pair[1].start)
    logits = [np.zeros((len(text), len(decoder.tags)), np.float32) for text in encoded]
    tagger.eval()
    device = next(tagger.parameters()).device
    for at in range(0, len(windows), 32):
        rows = windows[at : at + 32]
        batch = collate(
            [
                Example(
                    encoded[n].ids[w.start : w.end],
                    encoded[n].shapes[w.start : w.end],
                    NO_TAGS,
                )
                for n, w in rows
            ],
            tokenizer,
        ).to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            output = tagger(batch.input_ids, batch.attention_mask, batch.word_shape)
        values = output.float().cpu().numpy()
        for row, (n, w) in enumerate(rows):
            shift = len(tokenizer.prefix) - w.start
            logits[n][w.keep_from : w.keep_to] = values[row, w.keep_from + shift : w.keep_to + shift]
    for text, values in zip(encoded, logits, strict=True):
        found.append(
            [
                Span(int(text.starts[first]), int(text.ends[last]), label)
                for first, last, label, _ in decoder.decode(values[text.heads])
            ]
        )
    return score(found, [document.spans for document in documents], recipe.labels).overall.f1

from pathlib import Path

import pytest

from app.engine.runtimes.cpu import BATCH_TOKENS, Cpu
from app.engine.runtimes.runtime import Contract, Settled, Wanted
from app.engine.runtimes.session import CPU
from app.errors import VersionRefused
from tests.runtimes import Machine, make_batch

CONTRACT = Contract(frozenset({"input_ids", "attention_mask"}), "logits", 64)


def test_it_opens_what_the_contract_says(models_dir: Path) -> None:
    session = Cpu().open(models_dir / "ner-en/1/model.fp32.onnx", CONTRACT, 2)
    assert (session.provider, session.threads) == (CPU, 2)


@pytest.mark.parametrize(
    "contract",
    [
        Contract(frozenset({"input_ids"}), "logits", 64),
        Contract(frozenset({"input_ids", "attention_mask", "token_type_ids"}), "logits", 64),
        Contract(CONTRACT.inputs, "scores", 64),
    ],
)
def test_another_file_than_the_contract_says_is_refused(models_dir: Path, contract: Contract) -> None:
    reason = r"has inputs \['attention_mask', 'input_ids'\] and outputs \['logits'\], the manifest says"
    with pytest.raises(VersionRefused, match=reason):
        Cpu().open(models_dir / "ner-en/1/model.fp32.onnx", contract, 1)


def test_threads_are_divided_among_runs() -> None:
    wanted = Wanted(threads=4, settled=Settled(runs=2, own_single=True))
    running = Cpu().plan(Machine, make_batch, CONTRACT, wanted)
    assert (running.session, running.single) == (Machine(2), Machine(4))
    assert (running.runs, running.threads, running.provider) == (2, 4, CPU)
    assert running.settled == Settled(runs=2, own_single=True)


@pytest.mark.parametrize(("wanted", "tokens"), [(0, BATCH_TOKENS), (64, 64)])
def test_batches_are_as_large_as_is_wanted(wanted: int, tokens: int) -> None:
    running = Cpu().plan(Machine, make_batch, CONTRACT, Wanted(threads=1, max_batch_tokens=wanted))
    assert running.max_batch_tokens == tokens

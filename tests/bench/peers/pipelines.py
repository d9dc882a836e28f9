"""FastAPI and the pipeline of Transformers.

`PEER_SETTING`: `torch` (fp32), or `optimum` (onnxruntime, int8).
"""

import os
from typing import Any

from fastapi import FastAPI
from transformers import AutoTokenizer, pipeline

from tests.bench.peers.answers import Body

SETTING, FOLDER = os.environ["PEER_SETTING"], os.environ["PEER_MODEL"]


def load() -> Any:
    network: Any = FOLDER
    if SETTING == "optimum":
        from optimum.onnxruntime import ORTModelForTokenClassification

        network = ORTModelForTokenClassification.from_pretrained(FOLDER, file_name="model_int8.onnx")
    return pipeline(
        "token-classification",
        model=network,
        tokenizer=AutoTokenizer.from_pretrained(FOLDER),
        aggregation_strategy="simple",
    )


find = load()
app = FastAPI()


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    return {"status": "ready"}


@app.post("/ner")
def ner(body: Body) -> dict[str, object]:
    entities = [
        {
            "start": one["start"],
            "end": one["end"],
            "label": one["entity_group"],
            "score": float(one["score"]),
        }
        for one in find(body.text)
    ]
    return {"entities": entities}

"""What FastAPI and uvicorn alone take to answer: a route that reads its body and answers a constant."""

from fastapi import FastAPI, Request, Response

app = FastAPI()

ANSWER = b'{"model":"ner-en","version":1,"windows":1,"entities":[]}'


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    return {"status": "ready"}


@app.post("/ner")
async def ner(request: Request) -> Response:
    await request.body()
    return Response(ANSWER, media_type="application/json")

"""The dialects that are served: each has its paths to itself."""

from collections import Counter
from pathlib import Path

from app.api.dialects.table import DIALECTS
from app.main import create_app
from app.settings import Settings


def test_every_dialect_of_the_table_is_served_and_documented(tmp_path: Path) -> None:
    paths = create_app(Settings(models_dir=tmp_path)).openapi()["paths"]
    for dialect in DIALECTS:
        for route in dialect.routes:
            assert dialect.tag in paths[route.path][route.method.lower()]["tags"]


def test_no_two_routes_share_a_path_or_a_name() -> None:
    routes = [route for dialect in DIALECTS for route in dialect.routes]
    assert max(Counter((route.method, route.path) for route in routes).values()) == 1
    assert max(Counter(route.name for route in routes).values()) == 1


def test_none_takes_a_path_of_the_rest_of_the_application(tmp_path: Path) -> None:
    app = create_app(Settings(models_dir=tmp_path))
    ours = {route.path for dialect in DIALECTS for route in dialect.routes}
    served = Counter(getattr(route, "path", "") for route in app.routes)
    assert {path: served[path] for path in ours} == dict.fromkeys(ours, 1)

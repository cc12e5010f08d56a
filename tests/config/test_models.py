"""The catalogue of models: read by golden files, documented key by key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.app.models import Models
from gateway.config import Settings, loads
from gateway.config.models import Catalogue, Model, Route, load_models, loads_models
from gateway.errors import ConfigError

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "models"
UPSTREAMS = '[upstreams.openai]\ntype = "openai"\n[upstreams.local]\ntype = "openai"\nurl = "http://127.0.0.1:1/v1"\n'


def settings(base: Path = Path("/base")) -> Settings:
    return loads(UPSTREAMS, base)


@pytest.mark.parametrize(
    "source", sorted(GOLDEN.glob("*.in.toml")), ids=lambda path: path.name.removesuffix(".in.toml")
)
def test_catalogue_reads_as_the_golden_file_says(source: Path) -> None:
    name = source.name.removesuffix(".in.toml")
    try:
        read = loads_models(source.read_text(), settings()).model_dump(mode="json", exclude_defaults=True)
        got, expected = json.dumps(read, indent=1) + "\n", GOLDEN / f"{name}.out.json"
    except ConfigError as error:
        got, expected = f"{error}\n", GOLDEN / f"{name}.err.txt"

    assert got == expected.read_text()


def test_no_provider_is_called_what_routes_are_carried_out_by() -> None:
    with pytest.raises(ConfigError, match=r"upstreams\.models: is what the routes of models\.toml are carried out by"):
        loads('[upstreams.models]\ntype = "echo"\n', Path("/base"))


def test_a_catalogue_need_not_exist(tmp_path: Path) -> None:
    assert load_models(settings(tmp_path)) == Catalogue()


def test_a_name_is_found_as_it_is_written_or_by_what_one_entry_alone_is_called() -> None:
    text = '[models."openai/a"]\n[models."local/a"]\n[models."local/b"]\n[models.fast]\nupstream = "local"\n'
    catalogue = loads_models(text, settings())

    found = [catalogue.entry(name) for name in ("openai/a", "a", "b", "fast", "c")]

    assert [entry[0] if entry else "" for entry in found] == ["openai/a", "", "local/b", "fast", ""]


def test_every_key_is_documented_and_nothing_else_is() -> None:
    page = (ROOT / "gateway/listeners/models/README.md").read_text()
    documented = re.findall(r"^\| `((?:models|routes)\.NAME\.[a-z_]+|sampling)` \|", page, re.MULTILINE)

    keys = [f"models.NAME.{key}" for key in Model.model_fields] + [f"routes.NAME.{key}" for key in Route.model_fields]
    assert sorted(documented) == sorted([*keys, "sampling"])


def test_the_example_in_the_documentation_is_one_that_works() -> None:
    page = (ROOT / "gateway/listeners/models/README.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)

    assert loads_models(example, settings()).routes["auto"].weak == "local/small"


def test_models_of_litellm_have_to_be_written_down() -> None:
    configured = loads(f'{UPSTREAMS}[upstreams.cloud]\ntype = "litellm"\n', Path("/base"))
    written = '[models."cloud/bedrock/a"]\n[routes.auto]\nweak = "cloud/bedrock/a"\nstrong = "local/b"\n'

    with pytest.raises(ConfigError, match=r"routes.auto.strong: 'cloud/ollama/x' is a model of type litellm"):
        loads_models(written.replace("local/b", "cloud/ollama/x"), configured)
    with pytest.raises(ConfigError, match=r'sampling: .* add \[models\."cloud/x"\]'):
        loads_models(f'sampling = "cloud/x"\n{written}', configured)

    models = Models()
    models.configure(configured, loads_models(written, configured))
    assert [models.resolve(name).known for name in ("cloud/bedrock/a", "cloud/ollama/x", "local/x")] == [
        True, False, True,
    ]  # fmt: skip

"""Records as Kedro datasets: the contract, through real catalogs."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import yaml
from kedro.io import DataCatalog, DatasetError

from kaizen.records import Bin, DataVersion, FeatureProfile, Profile, PromotionDecision, Source
from kedro_kaizen.datasets import ProfileDataset, RecordDataset

VERDICT = PromotionDecision("e" * 64, "c" * 64, None, True, ())
VERSION = DataVersion(
    "flights", "2013-01", "store:x@sha256:" + "0" * 64, "m", 1, 1, {"a": "int64"}, Source("u", "s"), "g"
)
PROFILE = Profile(200, (FeatureProfile("distance", True, 50, (Bin(100.0, 75), Bin(None, 75))),))


@pytest.fixture
def catalog(tmp_path: Path) -> DataCatalog:
    folder = tmp_path / "not" / "made" / "yet"
    return DataCatalog.from_config(
        {
            "record": {"type": "kedro_kaizen.datasets.RecordDataset", "filepath": str(folder / "record.json")},
            "profile": {"type": "kedro_kaizen.datasets.ProfileDataset", "filepath": str(folder / "profile.json")},
        }
    )


def path_of(catalog: DataCatalog, name: str) -> Path:
    return Path(catalog[name]._describe()["filepath"])


@pytest.mark.parametrize("saved", [VERDICT, VERSION, [VERDICT, VERSION], []], ids=["one", "other", "list", "empty"])
def test_record_comes_back_as_it_was_saved(catalog: DataCatalog, saved: object) -> None:
    catalog.save("record", saved)
    assert catalog.load("record") == saved


def test_file_names_kind_and_version(catalog: DataCatalog) -> None:
    catalog.save("record", VERDICT)
    stored = json.loads(path_of(catalog, "record").read_text())
    assert (stored["kind"], stored["version"]) == ("PromotionDecision", 1)


def test_exists_only_after_saving(catalog: DataCatalog) -> None:
    assert not catalog.exists("record")
    catalog.save("record", VERDICT)
    assert catalog.exists("record")


@pytest.mark.parametrize("other", [{"a": 1}, [VERDICT, "text"], 3], ids=["dict", "mixed list", "number"])
def test_what_is_no_record_is_refused_and_the_old_one_stays(catalog: DataCatalog, other: object) -> None:
    catalog.save("record", VERDICT)
    with pytest.raises(DatasetError, match="is not a record of Kaizen"):
        catalog.save("record", other)
    assert catalog.load("record") == VERDICT


@pytest.mark.parametrize(
    ("stored", "code"),
    [({"kind": "Nonsense", "version": 1}, "KZ601"), ({**VERDICT.to_json(), "promote": "perhaps"}, "KZ602")],
    ids=["unknown kind", "damaged"],
)
def test_unreadable_record_is_refused_with_its_code(catalog: DataCatalog, stored: object, code: str) -> None:
    catalog.save("record", VERDICT)
    path_of(catalog, "record").write_text(json.dumps(stored))
    with pytest.raises(DatasetError, match=code):
        catalog.load("record")


def test_profile_comes_back_and_describes_itself(catalog: DataCatalog) -> None:
    catalog.save("profile", PROFILE)
    assert catalog.load("profile") == PROFILE
    assert catalog["profile"].describe() == "200 rows\ndistance: numbers in 2 bins, 25.0% missing"


def test_profile_dataset_takes_profiles_only(catalog: DataCatalog) -> None:
    with pytest.raises(DatasetError, match="is not a Profile"):
        catalog.save("profile", VERDICT)
    assert not catalog.exists("profile")


def test_profile_dataset_refuses_another_record(catalog: DataCatalog) -> None:
    catalog.save("profile", PROFILE)
    path_of(catalog, "profile").write_text(json.dumps(VERDICT.to_json()))
    with pytest.raises(DatasetError, match="KZ601"):
        catalog.load("profile")


@pytest.mark.parametrize("dataset", [RecordDataset, ProfileDataset])
def test_example_in_the_docstring_is_a_working_catalog(dataset: type) -> None:
    block = (dataset.__doc__ or "").split("```yaml\n")[1].split("```")[0]
    declared = yaml.safe_load(textwrap.dedent(block))
    made = DataCatalog.from_config(declared)
    assert [type(made[name]) for name in declared] == [dataset]

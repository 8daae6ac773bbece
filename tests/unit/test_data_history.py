"""Pointers: what is written of a version is what is read again."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from kaizen.adapters.data_history import read_pointer, write_pointer

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
META = st.dictionaries(TEXT, TEXT | st.integers() | st.dictionaries(TEXT, st.dictionaries(TEXT, TEXT)), max_size=4)


@given(META)
@example({"rows": 1, "columns": {"a": {"meaning": "one\u2028two\u0085  three\n\nfour: #\n", "unit": "no"}}})
@example({"columns": {"a: b": {}}, "rows": "1e3"})
@example({"rows": 1, "columns": {}})
def test_what_is_said_of_a_version_is_read_as_it_was_written(meta: dict[str, Any]) -> None:
    found = read_pointer(write_pointer("a.parquet", "0" * 32, 7, meta).encode())
    assert found == {"md5": "0" * 32, "size": 7, "meta": meta}

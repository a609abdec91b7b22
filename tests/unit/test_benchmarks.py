"""What benchmarks share that needs no kernel."""

from __future__ import annotations

import argparse
import json

import pytest

from benchmarks import progress, results, scale, sizes
from benchmarks.sizes import Size


class TestSizes:
    def test_services_by_endpoints(self):
        assert Size(1000, 10) == sizes.parse("1000x10")

    @pytest.mark.parametrize("text", ["", "10", "x10", "10x", "0x10", "10x0", "-1x10", "1,000x10", "ax10"])
    def test_nonsense_is_named(self, text):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no size"):
            sizes.parse(text)

    def test_people_read_it_with_commas(self):
        assert "40,000 of 2" == str(Size(40000, 2))


class TestResults:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
        monkeypatch.setattr(results, "FILE", tmp_path / "results" / "results.jsonl")
        return tmp_path / "results"

    def test_each_table_is_a_line_with_where_it_was_measured(self):
        rows = [[{"size": 10, "seconds": 0.25}], [{"size": 100, "seconds": None}]]
        for table in rows:
            results.keep("start", table)

        kept = list(results.read(results.FILE))
        assert rows == [one["rows"] for one in kept]
        assert {"benchmark", "at", "machine", "load", "rows"} == set(kept[0])

    def test_a_line_is_json(self, folder):
        results.keep("start", [{"size": 10}])

        (line,) = (folder / "results.jsonl").read_text().splitlines()
        assert "start" == json.loads(line)["benchmark"]


class TestProgress:
    def test_nothing_is_said_where_nobody_reads_it(self, capsys, monkeypatch):
        monkeypatch.delenv(progress.TERMINAL, raising=False)

        assert [1, 2] == list(progress.over([1, 2], 2, "things"))
        assert "" == capsys.readouterr().err

    def test_the_line_is_cleared_at_the_end(self, capsys, monkeypatch):
        monkeypatch.setenv(progress.TERMINAL, "yes")

        assert [1, 2] == list(progress.over([1, 2], 2, "things"))
        assert "\r\033[Kthings: 0 of 2\r\033[K" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("query", "name"),
    [
        pytest.param("resourceVersion=0", "list services", id="list"),
        pytest.param("watch=true&resourceVersion=7", "watch from a version services", id="watch"),
        pytest.param("watch=true&sendInitialEvents=true", "WatchList services", id="watch list"),
    ],
)
def test_requests_are_told_apart(query, name):
    assert name == scale.request_name(f"https://api.test/api/v1/services?{query}")

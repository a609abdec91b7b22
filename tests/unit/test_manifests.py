"""A file or folder of manifests as a source."""

from __future__ import annotations

import json
import os
import queue
import random
import threading
import time

import pytest

from ipvs_agent.model import ObjectName
from ipvs_agent.sources.changes import Kind, Listed, Put, Rejected, Remark, Removed, Trouble
from ipvs_agent.sources.manifests import Manifests
from tests.mutations import mutated

ALL_LISTED = list(Kind)


def service(name="web", port=80, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": port}], **spec},
    }


def yaml_service(name="web", port=80):
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n"
        f"spec:\n  clusterIP: 10.96.0.10\n  ports:\n  - port: {port}\n"
    )


class Bench:
    """A folder, the source over it, and what the source says in short words."""

    def __init__(self, path):
        self.path = path
        self.changes = []
        self.source = Manifests(path, self.changes.extend)
        self._tick = 0

    def write(self, name, text):
        """Write a file; each time its age differs, however coarse the file system's clock."""
        path = self.path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        self._tick += 1
        os.utime(path, (self._tick, self._tick))

    def scan(self, times=1):
        """Poll so often; return what was said: listings first by kind, then the rest in words."""
        self.changes.clear()
        for _ in range(times):
            self.source.scan()
        return [self._words(change) for change in self.changes]

    def _words(self, change):
        if isinstance(change, Put):
            ports = getattr(change.object, "ports", ())
            return f"put {change.name}" + "".join(f" {port.port}" for port in ports)
        if isinstance(change, Removed):
            return f"removed {change.name}"
        if isinstance(change, Rejected):
            return f"rejected {change.name}: {self._short(str(change.skipped))}"
        if isinstance(change, Trouble):
            return f"trouble {self._short(change.source)}: {self._short(change.message)}"
        if isinstance(change, Remark):
            return f"remark {self._short(change.source)}: {self._short(change.message)}"
        return change.kind

    def _short(self, text):
        return text.replace(f"{self.path}/", "").replace(str(self.path), "FOLDER")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


class TestContents:
    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            pytest.param("a.json", service(), ["put default/web 80"], id="JSON"),
            pytest.param("a.yaml", yaml_service(), ["put default/web 80"], id="YAML"),
            pytest.param("a.yml", yaml_service(), ["put default/web 80"], id="yml"),
            pytest.param("a.yaml", json.dumps(service()), ["put default/web 80"], id="JSON in YAML"),
            pytest.param(
                "a.yaml",
                f"# both\n---\n{yaml_service('a')}---\n---\n{yaml_service('b')}...\n",
                ["put default/a 80", "put default/b 80"],
                id="documents of YAML",
            ),
            pytest.param(
                "a.json",
                json.dumps(service("a")) + json.dumps(service("b")) + "\n" + json.dumps(service("c")),
                ["put default/a 80", "put default/b 80", "put default/c 80"],
                id="documents of JSON",
            ),
            pytest.param(
                "a.json",
                {"kind": "List", "apiVersion": "v1", "items": [service("a"), {"kind": "Pod"}, service("b")]},
                ["put default/a 80", "put default/b 80"],
                id="List",
            ),
            pytest.param(
                "a.json",
                {"kind": "ServiceList", "apiVersion": "v1", "items": [{**service("a"), "kind": None}]},
                ["put default/a 80"],
                id="ServiceList, whose items need no kind",
            ),
            pytest.param(
                "a.json",
                {"kind": "NodeList", "items": [{"metadata": {"name": "node-1"}}]},
                ["put /node-1"],
                id="NodeList",
            ),
            pytest.param("a.json", {"kind": "List", "items": None}, [], id="List of nothing"),
            pytest.param(
                "a.json", "\ufeff" + json.dumps(service()), ["put default/web 80"], id="byte order mark"
            ),
            pytest.param("a.json", {"kind": "Deployment", "apiVersion": "apps/v1"}, [], id="other kinds"),
            pytest.param(
                "a.json",
                {**service(), "apiVersion": "serving.knative.dev/v1"},
                [],
                id="a Service of another API",
            ),
            pytest.param(".a.json", service(), [], id="hidden file"),
            pytest.param("a.json~", service(), [], id="an editor's copy"),
            pytest.param("a.txt", service(), [], id="other suffix"),
            pytest.param(
                "a.yaml",
                yaml_service().replace("80", "99999\n  - {port: 81, name: &n on}\n  - {port: 82, name: *n}"),
                ["put default/web 81"],
                id="YAML 1.2 words and aliases",
            ),
            pytest.param(
                "a.json",
                json.dumps(service()).replace("80", '90, "port": 80'),
                ["put default/web 80"],
                id="key twice",
            ),
        ],
    )
    def test_first_scan(self, bench, name, text, expected):
        bench.write(name, text)

        assert [*expected, *ALL_LISTED] == bench.scan()

    def test_single_file(self, bench):
        """The path may be a file, of whatever suffix."""
        bench.write("services", yaml_service())
        bench.write("other.yaml", yaml_service("other"))
        bench.source = Manifests(bench.path / "services", bench.changes.extend)

        assert ["put default/web 80", *ALL_LISTED] == bench.scan()

    def test_many_objects_come_in_batches(self, tmp_path):
        items = [service(f"web-{number}") for number in range(1200)]
        (tmp_path / "a.json").write_text(json.dumps({"kind": "List", "items": items}))
        sizes = []

        source = Manifests(tmp_path, lambda batch: sizes.append(len(batch)))
        source.scan()
        source.scan()

        assert [500, 500, 203] == sizes

    def test_listed_names(self, bench):
        """The listing names what is there, and nothing that cannot be served."""
        bench.write("a.json", service("a"))
        bench.write("b.json", service("b", clusterIP="None"))
        bench.write("c.json", {**service("c"), "spec": None})
        bench.scan()

        listed = [change for change in bench.changes if isinstance(change, Listed)]

        assert [frozenset({ObjectName("default", "a")}), frozenset(), frozenset()] == [
            it.names for it in listed
        ]


class TestFaults:
    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            pytest.param(
                "a.json", '{\n"kind": "Service",\n"spec": {', "line 3: Expecting property", id="JSON cut"
            ),
            pytest.param("a.json", '{"a": 1}\n]', "line 2: Expecting value", id="JSON with a tail"),
            pytest.param("a.json", "[1]", "line 1: expected object, got array", id="JSON of a list"),
            pytest.param("a.json", '\n\n{"a": NaN}', "line 3: JSON is malformed", id="JSON with NaN"),
            pytest.param("a.json", "[" * 100_000, "line 1: nested too deeply", id="JSON nested deeply"),
            pytest.param(
                "a.json", '{"kind": "List",\n"items": {}}', "line 1: items: expected array", id="items"
            ),
            pytest.param("a.yaml", "a: 1\nb: [", "line 3: while parsing a flow node", id="YAML cut"),
            pytest.param("a.yaml", "kind: Service\n\tspec: 1\n", "line 2: ", id="YAML with a tab"),
            pytest.param(
                "a.yaml", "a: 1\n---\n- a\n", "line 3: expected object, got array", id="YAML of a list"
            ),
            pytest.param("a.yaml", "a: 1\nb: *c\n", "line 2: found undefined alias", id="unknown alias"),
            pytest.param(
                "a.yaml", "a: &a\n  b: *a\n", "line 1: aliases that unfold without measure", id="cycle"
            ),
            pytest.param(
                "a.yaml",
                "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 12)),
                "line 8: aliases that unfold without measure",
                id="aliases that multiply",
            ),
            pytest.param("a.yaml", "- " * 100_000, "line 1: nested too deeply", id="YAML nested deeply"),
            pytest.param(
                "a.yaml", "a: !!python/object:os.system x\n", "line 1: could not determine", id="tag"
            ),
            pytest.param("a.yaml", "---\na: !!int x\n", "line 2: a value that its tag", id="value of a tag"),
            pytest.param(
                "a.yaml", "{a: 1}: 2\n", "line 1: while constructing a mapping", id="mapping as key"
            ),
            pytest.param("a.yaml", "a: 1\nnull: 2\n", "line 1: cannot be written as JSON", id="null as key"),
            pytest.param("a.yaml", "a: 1\nb: \x01\n", "line 2: control characters", id="control character"),
            pytest.param("a.yaml", "a: 1\nb: \0\n", "line 2: a NUL byte", id="NUL"),
            pytest.param("a.json", "", "is empty; remove the file", id="JSON just truncated"),
            pytest.param("a.yaml", "", "is empty; remove the file", id="YAML just truncated"),
            pytest.param("a.json", " \n", "is empty; remove the file", id="whitespace alone"),
            pytest.param("a.yaml", "# nothing\n---\n", "is empty; remove the file", id="comments alone"),
        ],
    )
    def test_broken_file(self, bench, name, text, message):
        """A file that cannot be read is told once by line, keeps its last content, and is told good again."""
        bench.write(name, service() if name.endswith(".json") else yaml_service())
        bench.write("b.json", service("other"))
        bench.scan()

        bench.write(name, text)
        (told,) = bench.scan(times=5)
        assert told.startswith(f"trouble {name}: {message}")

        bench.write(name, service(port=81) if name.endswith(".json") else yaml_service(port=81))
        assert ["put default/web 81", f"trouble {name}: "] == bench.scan(times=5)

    @pytest.mark.parametrize("shape", ["%s", '{"kind": "List", "items": [%s]}', "%s\n{}"])
    def test_a_fault_in_what_is_nested_as_deeply_as_can_be_read_is_told(self, bench, shape):
        """Some of this is read by two readers, and one of them gives up earlier."""
        for depth in range(820, 1000):
            text = json.dumps(service(port=99999, junk="JUNK"))
            bench.write("a.json", shape % text.replace('"JUNK"', depth * "[" + depth * "]"))
            bench.scan(times=2)
            faults = [change.object.skipped[0].field for change in bench.changes if isinstance(change, Put)]

            assert faults in ([], ["spec.ports[0].port"])

    def test_not_text(self, bench):
        (bench.path / "a.json").write_bytes(b'{"a":\n"\xff"}')

        assert ["trouble a.json: line 2: not UTF-8 text"] == bench.scan(times=2)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            pytest.param(
                "a.json",
                json.dumps(
                    {"kind": "List", "items": [service("a"), service("b", port="80"), service("c")]}, indent=1
                ),
                id="JSON",
            ),
            pytest.param(
                "a.yaml",
                "---\n".join([yaml_service("a"), yaml_service("b", port="'80'"), yaml_service("c")]),
                id="YAML",
            ),
        ],
    )
    def test_object_that_is_rejected(self, bench, name, text):
        """An object of a wrong type is told by line and field; the others of its file are served."""
        line = next(
            number for number, words in enumerate(text.splitlines(), 1) if words.endswith(('"80"', "'80'"))
        )
        bench.write(name, text)

        expected = f"Service default/b: spec.ports[0].port: expected int, got str, at {name} line {line}"
        assert [
            "put default/a 80",
            f"rejected default/b: {expected}",
            "put default/c 80",
            *ALL_LISTED,
        ] == bench.scan()

    @pytest.mark.parametrize("indent", [None, 1])
    def test_part_that_is_left_out(self, bench, indent):
        """A part that is left out is told by line and field."""
        text = json.dumps([service("a"), service("b", externalIPs=["192.0.2.1", "127.0.0.1"])], indent=indent)
        line = text[: text.index("127.0.0.1")].count("\n") + 1
        bench.write("a.json", '{"kind": "List", "items":' + text + "}")

        bench.scan()

        reason = f"127.0.0.1 is a loopback address, at {bench.path}/a.json line {line}"
        assert [f"Service default/b: spec.externalIPs[1]: {reason}"] == [
            str(skipped) for change in bench.changes[:2] for skipped in change.object.skipped
        ]

    def test_same_words_in_an_earlier_object(self, bench):
        """The line is found in the object that is at fault, by YAML's and JSON's own structure."""
        bench.write(
            "a.yaml",
            "kind: List\nitems:\n- kind: Pod\n  spec: {clusterIP: no}\n- "
            + yaml_service().replace("\n", "\n  ").replace("10.96.0.10", "no"),
        )

        bench.scan()

        reason = f"'no' is not an IP address, at {bench.path}/a.yaml line 9"
        assert [f"Service default/web: spec.clusterIP: {reason}"] == [
            str(skipped) for skipped in bench.changes[0].object.skipped
        ]

    def test_object_without_a_name(self, bench):
        """It is rejected once, though it has nothing by which to know it again."""
        document = service()
        del document["metadata"]["name"]
        bench.write("a.json", document)

        expected = "rejected None: Service 'default': metadata.name: is missing, at a.json line 1"
        assert [expected, *ALL_LISTED] == bench.scan()

        bench.write("a.json", {"kind": "List", "items": [document, service("new")]})
        assert ["put default/new 80"] == bench.scan(times=2)

    def test_items_that_are_no_objects(self, bench):
        """They are remarked, and hold back nothing."""
        bench.write("a.json", {"kind": "List", "items": [5, {"spec": {}}, service()]})

        assert [
            "put default/web 80",
            "remark a.json: line 1: items[0]: expected object, got int;"
            " line 1: items[1]: has no kind, and is passed over",
            *ALL_LISTED,
        ] == bench.scan()

    def test_pipe(self, bench):
        """What is no regular file is never opened, which could wait forever."""
        os.mkfifo(bench.path / "a.json")

        assert ["trouble a.json: is not a regular file"] == bench.scan(times=3)

    def test_link_to_itself(self, bench):
        (bench.path / "a.json").symlink_to("a.json")

        assert ["trouble a.json: Too many levels of symbolic links"] == bench.scan(times=3)

    def test_link_that_is_mended(self, bench):
        """The trouble ends though the file behind the link is as it was."""
        (bench.path / "real").mkdir()
        bench.write("real/a.json", service())
        (bench.path / "way").symlink_to("real")
        (bench.path / "a.json").symlink_to("way/a.json")
        bench.scan()

        (bench.path / "way").unlink()
        (bench.path / "way").symlink_to("way")
        assert ["trouble a.json: Too many levels of symbolic links"] == bench.scan(times=3)

        (bench.path / "way").unlink()
        (bench.path / "way").symlink_to("real")
        assert ["trouble a.json: "] == bench.scan(times=3)

    def test_link_to_nothing_and_folder(self, bench):
        """Neither is a manifest."""
        (bench.path / "a.json").symlink_to("nothing")
        (bench.path / "b.json").mkdir()

        assert ALL_LISTED == bench.scan()

    def test_huge_file(self, bench):
        with open(bench.path / "a.json", "wb") as file:
            file.truncate(257 * 2**20)

        assert ["trouble a.json: is larger than 256 MiB"] == bench.scan(times=2)


class TestListed:
    def test_file_that_may_still_be_written_holds_it_back(self, bench):
        """At the first scan only a file that has been quiet for a while is read at once."""
        bench.write("a.json", service("a"))
        (bench.path / "b.json").write_text(json.dumps(service("b")))

        assert [["put default/a 80"], ["put default/b 80", *ALL_LISTED]] == [bench.scan(), bench.scan()]

    def test_file_that_was_just_truncated_holds_it_back(self, bench):
        bench.write("a.json", "")
        assert ["trouble a.json: is empty; remove the file if it has nothing to say"] == bench.scan()

        bench.write("a.json", service("a"))
        assert ["put default/a 80", "trouble a.json: ", *ALL_LISTED] == bench.scan(times=2)

    def test_broken_file_holds_it_back(self, bench):
        """Removal waits until every file has been read: a broken one may hold what the kernel serves."""
        bench.write("a.json", service("a"))
        bench.write("b.json", "{")
        assert [
            "put default/a 80",
            "trouble b.json: line 1: Expecting property name enclosed in double quotes",
        ] == (bench.scan(times=3))

        bench.write("b.json", service("b"))
        assert ["put default/b 80", "trouble b.json: ", *ALL_LISTED] == bench.scan(times=2)

    def test_missing_folder_holds_it_back(self, bench):
        bench.source = Manifests(bench.path / "later", bench.changes.extend)
        assert ["trouble later: No such file or directory"] == bench.scan(times=3)

        (bench.path / "later").mkdir()
        assert ["trouble later: ", *ALL_LISTED] == bench.scan(times=3)

    def test_comes_once(self, bench):
        bench.write("a.json", service())
        assert ["put default/web 80", *ALL_LISTED] == bench.scan()

        bench.write("a.json", service(port=81))
        assert ["put default/web 81"] == bench.scan(times=5)


class TestChanges:
    def test_unchanged_objects_say_nothing(self, bench):
        """Of a changed file only the objects that differ are told."""
        bench.write("a.json", {"kind": "List", "items": [service("a"), service("b"), service("c")]})
        bench.scan()

        bench.write("a.json", {"kind": "List", "items": [service("a"), service("b", port=81), service("d")]})

        assert ["put default/b 81", "put default/d 80", "removed default/c"] == bench.scan(times=2)

    def test_change_is_read_once_it_is_quiet(self, bench):
        """A file that is still being written is left alone until two polls see the same."""
        bench.write("a.json", service())
        bench.scan()

        for port in (81, 82, 83):
            bench.write("a.json", service(port=port))
            assert [] == bench.scan()
        assert ["put default/web 83"] == bench.scan()

    def test_new_file(self, bench):
        bench.scan()
        bench.write("a.json", service())

        assert [[], ["put default/web 80"], []] == [bench.scan(), bench.scan(), bench.scan()]

    def test_object_that_stops_asking(self, bench):
        """A Service that becomes headless is removed, and one that becomes unreadable is rejected."""
        bench.write("a.json", service("a"))
        bench.write("b.json", service("b"))
        bench.scan()

        bench.write("a.json", service("a", clusterIP="None"))
        bench.write("b.json", service("b", ports=5))

        assert [
            "removed default/a",
            "rejected default/b: Service default/b: spec.ports: expected array, got int, at b.json line 1",
        ] == bench.scan(times=2)

    def test_file_that_is_gone(self, bench):
        """Its objects go at the second poll without it."""
        bench.write("a.json", service("a"))
        bench.write("b.json", service("b"))
        bench.scan()

        (bench.path / "a.json").unlink()

        assert [[], ["removed default/a"], []] == [bench.scan(), bench.scan(), bench.scan()]

    def test_file_that_is_back_in_time(self, bench):
        bench.write("a.json", service())
        bench.scan()

        (bench.path / "a.json").unlink()
        assert [] == bench.scan()
        bench.write("a.json", service())

        assert [] == bench.scan(times=5)

    def test_broken_file_that_is_gone(self, bench):
        bench.write("a.json", service())
        bench.scan()
        bench.write("a.json", "{")
        bench.scan(times=2)

        (bench.path / "a.json").unlink()

        assert ["removed default/web", "trouble a.json: "] == bench.scan(times=3)

    def test_folder_that_is_gone(self, bench):
        """It keeps what it said for as long as it is missing."""
        folder = bench.path / "manifests"
        folder.mkdir()
        bench.write("manifests/a.json", service())
        bench.source = Manifests(folder, bench.changes.extend)
        bench.scan()

        folder.rename(bench.path / "elsewhere")
        assert ["trouble manifests: No such file or directory"] == bench.scan(times=5)

        (bench.path / "elsewhere").rename(folder)
        assert ["trouble manifests: "] == bench.scan(times=5)

    def test_single_file_that_is_gone(self, bench):
        """It takes its objects with it, and is missed."""
        bench.write("a.json", service())
        bench.source = Manifests(bench.path / "a.json", bench.changes.extend)
        bench.scan()

        (bench.path / "a.json").unlink()

        assert ["removed default/web", "trouble a.json: No such file or directory"] == bench.scan(times=5)

    def test_single_file_whose_folder_is_gone(self, bench):
        folder = bench.path / "manifests"
        folder.mkdir()
        bench.write("manifests/a.json", service())
        bench.source = Manifests(folder / "a.json", bench.changes.extend)
        bench.scan()

        folder.rename(bench.path / "elsewhere")

        assert ["trouble manifests/a.json: No such file or directory"] == bench.scan(times=5)

    def test_file_that_is_replaced_by_a_link(self, bench):
        """A mounted ConfigMap changes by its links alone."""
        for version, port in (("one", 80), ("two", 81)):
            (bench.path / version).mkdir()
            (bench.path / version / "a.json").write_text(json.dumps(service(port=port)))
        (bench.path / "..data").symlink_to("one")
        (bench.path / "a.json").symlink_to("..data/a.json")
        bench.scan(times=2)

        (bench.path / "..new").symlink_to("two")
        (bench.path / "..new").rename(bench.path / "..data")

        assert ["put default/web 81"] == bench.scan(times=2)


class TestOneObjectInTwoFiles:
    REMARK = "remark b.json: Service default/web is in a.json too, and is taken from there"

    def test_first_file_has_it(self, bench):
        bench.write("b.json", service(port=2))
        bench.write("a.json", service(port=1))

        assert ["put default/web 1", self.REMARK, *ALL_LISTED] == bench.scan()
        assert [] == bench.scan(times=3)

    def test_second_takes_over(self, bench):
        bench.write("a.json", service(port=1))
        bench.write("b.json", service(port=2))
        bench.scan()

        (bench.path / "a.json").unlink()

        assert ["put default/web 2"] == bench.scan(times=3)

    def test_first_comes_later(self, bench):
        bench.write("b.json", service(port=2))
        bench.scan()

        bench.write("a.json", service(port=1))

        assert ["put default/web 1", self.REMARK] == bench.scan(times=2)

    def test_second_goes(self, bench):
        bench.write("a.json", service(port=1))
        bench.write("b.json", service(port=2))
        bench.scan()

        bench.write("b.json", service("other"))

        assert ["put default/other 80"] == bench.scan(times=2)

    def test_it_is_remarked_again_when_it_is_there_again(self, bench):
        bench.write("a.json", service(port=1))
        bench.write("b.json", service(port=2))
        bench.scan()
        bench.write("b.json", service("other"))
        bench.scan(times=2)
        bench.write("b.json", service(port=2))

        assert ["removed default/other", self.REMARK] == bench.scan(times=2)

    def test_a_file_that_breaks_meanwhile_is_in_trouble_and_not_remarked_anew(self, bench):
        bench.write("a.json", service(port=1))
        bench.write("b.json", service(port=2))
        bench.scan()
        bench.write("b.json", "{")
        (trouble,) = bench.scan(times=2)
        bench.write("b.json", service(port=3))

        assert trouble.startswith("trouble b.json: line 1")
        assert ["trouble b.json: "] == bench.scan(times=2)

    def test_bad_copy_takes_nothing_away(self, bench):
        bench.write("a.json", service(port=1))
        bench.write("b.json", service(ports=5))

        assert ["put default/web 1", self.REMARK, *ALL_LISTED] == bench.scan()

    def test_twice_in_one_file(self, bench):
        bench.write("a.json", {"kind": "List", "items": [service(port=1), service(port=2)]})

        assert [
            "put default/web 1",
            "remark a.json: Service default/web is there twice, and the first counts",
            *ALL_LISTED,
        ] == bench.scan()


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_random_edits_end_where_a_fresh_start_does(tmp_path, suffix):
    """After any walk over good, broken and missing files, the sink knows what a new source says."""
    rng = random.Random(5)
    bench = Bench(tmp_path)
    bench.scan()
    known, broken = {}, set()
    for _ in range(60):
        for name in rng.sample("abc", k=rng.randrange(1, 3)):
            path = tmp_path / f"{name}.{suffix}"
            if rng.random() < 0.2:
                path.unlink(missing_ok=True)
                broken.discard(name)
                continue
            services = [
                service(rng.choice("xyz"), rng.choice([80, 81, 0, "80"])) for _ in range(rng.randrange(4))
            ]
            text = json.dumps({"kind": "List", "items": services})
            broken.discard(name)
            if rng.random() < 0.2:
                broken.add(name)
                text = text[:-5]
            bench.write(path.name, text)
            if rng.random() < 0.5:
                bench.scan()
                follow(known, bench.changes)
        bench.scan(times=3)
        follow(known, bench.changes)
        if broken:
            continue

        fresh = []
        Manifests(tmp_path, fresh.extend).scan()
        expected = {}
        follow(expected, fresh)
        assert expected == known


def follow(known, changes):
    """Keep the Services as a consumer of these changes knows them."""
    for change in changes:
        if isinstance(change, Put):
            known[change.name] = change.object
        elif isinstance(change, Removed | Rejected):
            known.pop(change.name, None)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_damaged_object_costs_no_other(bench, suffix, seed):
    """Whatever is done to one object of a file, those before and after it are served."""
    rng = random.Random(seed)
    damaged = [mutated(service(externalIPs=["192.0.2.1"]), rng) for _ in range(10)]
    items = [service("first"), *damaged, service("last")]
    bench.write(f"a.{suffix}", {"kind": "List", "items": items})

    said = bench.scan()

    assert ["put default/first 80", "put default/last 80"] == [
        words for words in said if words in ("put default/first 80", "put default/last 80")
    ]
    assert ALL_LISTED == said[-3:]


def test_a_stop_in_the_midst_of_a_file_lists_nothing(tmp_path):
    services = [service(f"s{number}") for number in range(1200)]
    (tmp_path / "a.json").write_text(json.dumps({"kind": "List", "items": services}))
    os.utime(tmp_path / "a.json", (1, 1))
    told = []
    source = Manifests(tmp_path, lambda batch: told.extend(batch) or source._stopping.set())
    source.scan()

    assert 500 == len([change for change in told if isinstance(change, Put)])
    assert not [change for change in told if isinstance(change, Listed)]


def test_thread(tmp_path):
    """The thread sees a change within a second, and ends within one."""
    told = queue.Queue()
    source = Manifests(tmp_path, told.put)
    source.start()
    assert ALL_LISTED == [change.kind for change in told.get(timeout=5)]

    began = time.monotonic()
    (tmp_path / "a.json").write_text(json.dumps(service()))
    (change,) = told.get(timeout=5)
    seen_after = time.monotonic() - began
    source.stop()

    assert ObjectName("default", "web") == change.name
    assert seen_after < 1
    assert "manifests" not in [thread.name for thread in threading.enumerate()]


def test_a_file_replaced_within_a_tick_of_a_coarse_clock_is_read_again(bench, monkeypatch):
    """hostfs, ext3 and NFS version 2 tell whole seconds, and the inode of what was replaced is used again."""
    path = bench.path / "web.yaml"
    bench.source = Manifests(path, bench.changes.extend)
    now = 1_000_000.0
    stat = os.stat

    def coarse(*args, **kwargs):
        found = stat(*args, **kwargs)
        fields = list(found)
        fields[1], fields[7:10] = 77, [1_000_000] * 3  # inode and times
        return os.stat_result(fields, {"st_mtime_ns": 10**15, "st_ctime_ns": 10**15})

    monkeypatch.setattr(os, "stat", coarse)
    monkeypatch.setattr(time, "time", lambda: now)
    path.write_text(yaml_service(port=80))
    assert "put default/web 80" in bench.scan(2)
    path.write_text(yaml_service(port=81))
    assert [] == bench.scan(2)
    now += 2.0
    assert ["put default/web 81"] == bench.scan()
    monkeypatch.setattr(Manifests, "_read", None)  # from now on it is known
    assert [] == bench.scan(2)

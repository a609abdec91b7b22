"""The file of notes: what the agent writes, and what `status` makes of any file in its place."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from ipvs_agent.model import ObjectName
from ipvs_agent.serve import notes
from ipvs_agent.serve.notes import Notes, NotesError, NotesWriter, read
from ipvs_agent.status.notes import decode, encode, render

WEB, SHOP = ObjectName("default", "web"), ObjectName("default", "shop")
TAKEN = ("192.0.2.1:80/TCP is taken by default/older",)


class Agent(Notes):
    """Notes with what they warned of."""

    def __init__(self, path):
        self.warnings = []
        super().__init__(path, self.warnings.append)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "notes.json"


@pytest.fixture
def agent(path):
    with contextlib.closing(Agent(path)) as agent:
        yield agent


def reason(path):
    with pytest.raises(NotesError) as caught:
        read(path)
    return str(caught.value).removeprefix(f"{path}: ")


class TestRemoving:
    def test_the_file_of_an_agent_that_runs_is_not_left(self, agent, path):
        agent.flush()

        assert not notes.is_left(path)

    def test_what_an_agent_has_left_goes_with_its_folder(self, agent, path):
        agent.flush()
        agent.close()
        path.with_name(".notes.json.new").touch()  # it was killed while it wrote
        assert notes.is_left(path)
        notes.remove(path)

        assert not notes.is_left(path)
        assert not path.parent.exists()

    def test_a_folder_with_something_of_others_stays(self, agent, path):
        agent.flush()
        agent.close()
        path.with_name("other").touch()
        notes.remove(path)

        assert [path.with_name("other")] == list(path.parent.iterdir())

    def test_something_else_in_its_place_is_not_ours(self, path):
        path.parent.mkdir()
        os.mkfifo(path)

        assert not notes.is_left(path)


class TestWriting:
    def test_what_was_noted_is_read(self, agent, path):
        agent.replace(WEB, TAKEN)
        agent.replace(SHOP, ("a", "b"))
        agent.flush()

        assert {WEB: TAKEN, SHOP: ("a", "b")} == read(path)
        assert 0o644 == path.stat().st_mode & 0o777

    def test_lines_are_replaced_and_removed(self, agent, path):
        agent.replace(WEB, TAKEN)
        agent.replace(SHOP, ("a",))
        agent.flush()
        agent.replace(WEB, ("b",))
        agent.replace(SHOP, ())
        agent.flush()

        assert {WEB: ("b",)} == read(path)

    def test_an_agent_with_nothing_to_say_says_so(self, agent, path):
        agent.flush()

        assert {} == read(path)

    def test_it_is_written_only_when_it_changed(self, agent, path):
        agent.replace(WEB, TAKEN)
        agent.flush()
        before = path.stat().st_ino
        agent.replace(WEB, TAKEN)
        agent.replace(SHOP, ())
        agent.flush()
        assert before == path.stat().st_ino

        agent.replace(WEB, ())
        agent.flush()
        assert before != path.stat().st_ino

    def test_each_replacement_lets_go_of_the_file_before(self, agent):
        agent.flush()
        before = len(os.listdir("/proc/self/fd"))
        for number in range(3):
            agent.replace(WEB, (str(number),))
            agent.flush()

        assert before == len(os.listdir("/proc/self/fd"))

    def test_nothing_but_the_file_is_left(self, agent, path):
        path.parent.mkdir()
        path.with_name(".notes.json.new").write_text("left by an agent that was killed")
        agent.flush()

        assert ["notes.json"] == os.listdir(path.parent)

    def test_a_reader_never_sees_a_part(self, agent, path):
        """While it is replaced again and again, each reading is whole."""
        agent.flush()
        ended = threading.Event()

        def write():
            for number in range(300):
                agent.replace(WEB, (str(number) * 5000,))
                agent.flush()
            ended.set()

        thread = threading.Thread(target=write)
        thread.start()
        faults = []
        while not ended.is_set():
            try:
                for (line,) in read(path).values():
                    assert line == line[: len(line) // 5000] * 5000
            except NotesError as error:
                faults.append(str(error))
        thread.join()

        assert [] == [fault for fault in faults if "faster" not in fault]

    @pytest.mark.parametrize("kind", ["no folder", "a folder in its place", "a file for a folder"])
    def test_what_cannot_be_written_is_told_once_and_tried_again(self, tmp_path, kind):
        path = {
            "no folder": tmp_path / "a" / "b" / "notes.json",
            "a folder in its place": tmp_path / "c" / "notes.json",
            "a file for a folder": tmp_path / "d" / "notes.json",
        }[kind]
        (tmp_path / "c" / "notes.json").mkdir(parents=True)
        (tmp_path / "d").touch()
        with contextlib.closing(Agent(path)) as agent:
            for _ in range(3):
                agent.replace(WEB, TAKEN)
                agent.flush()
            assert 1 == len(agent.warnings)
            assert agent.warnings[0].startswith("notes for `status` cannot be written: [Errno ")
            assert [] == list((tmp_path / "c").glob(".*"))

            (tmp_path / "c" / "notes.json").rmdir()
            (tmp_path / "d").unlink()
            path.parent.mkdir(parents=True, exist_ok=True)
            agent.flush()
            assert {WEB: TAKEN} == read(path)
            assert 1 == len(agent.warnings)

    def test_a_failure_after_a_success_is_told_again(self, agent, path):
        agent.flush()
        for _ in range(2):
            moved = path.parent.rename(path.parent.with_name("away"))
            path.parent.touch()
            agent.replace(WEB, (str(len(agent.warnings)),))
            agent.flush()
            path.parent.unlink()
            moved.rename(path.parent)
            agent.flush()

        assert 2 == len(agent.warnings)


class TestWriter:
    """The thread that writes for the loop."""

    @pytest.fixture
    def writer(self, agent):
        writer = NotesWriter(agent)
        writer.start()
        yield writer
        writer.stop()

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr(notes, "_BETWEEN_WRITES", 0.05)

    def until(self, path, expected):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(NotesError):
                if read(path) == expected:
                    return
            time.sleep(0.001)
        raise AssertionError(f"{path} never says {expected}")

    def test_it_says_at_once_that_there_is_nothing_to_say(self, writer, path):
        self.until(path, {})

    def test_it_writes_what_was_noted_last(self, writer, path):
        for number in range(100):
            writer.replace(WEB, (str(number),))
            writer.replace(SHOP, TAKEN)
            writer.flush()
        self.until(path, {WEB: ("99",), SHOP: TAKEN})
        writer.replace(WEB, ())
        writer.flush()
        self.until(path, {SHOP: TAKEN})

    def test_many_changes_are_few_writes(self, writer, agent, path, monkeypatch):
        monkeypatch.setattr(notes, "_BETWEEN_WRITES", 0.2)
        self.until(path, {})
        writes = []
        write = agent._write
        monkeypatch.setattr(agent, "_write", lambda content: (writes.append(content), write(content)))
        began = time.monotonic()
        for number in range(1000):
            writer.replace(WEB, (str(number),))
            writer.flush()
        self.until(path, {WEB: ("999",)})

        assert len(writes) <= 2 + (time.monotonic() - began) / 0.2

    def test_who_notes_something_does_not_wait_for_the_file(self, agent):
        """Nor for what notes of others take."""
        writer = NotesWriter(agent)  # whose thread has not begun
        writer.replace(WEB, TAKEN)
        writer.flush()

        assert not agent._path.exists()

    def test_what_cannot_be_written_is_tried_again(self, writer, agent, path):
        self.until(path, {})
        moved = path.parent.rename(path.parent.with_name("away"))
        path.parent.touch()
        writer.replace(WEB, TAKEN)
        writer.flush()
        while not agent.warnings:
            time.sleep(0.001)
        path.parent.unlink()
        moved.rename(path.parent)

        self.until(path, {WEB: TAKEN})
        assert 1 == len(agent.warnings)

    def test_it_lets_go_of_the_file_at_its_end(self, agent, path):
        writer = NotesWriter(agent)
        writer.start()
        self.until(path, {})
        writer.stop()

        assert "was left by an agent that has ended" == reason(path)


class TestReading:
    def test_nothing_is_there(self, path):
        assert "No such file or directory" == reason(path)

    def test_an_agent_that_ended_left_it(self, agent, path):
        agent.replace(WEB, TAKEN)
        agent.flush()
        agent.close()

        assert "was left by an agent that has ended" == reason(path)

    def test_an_agent_that_was_killed_left_it(self, path):
        code = (
            "import os, pathlib, signal, sys\n"
            "from ipvs_agent.serve.notes import Notes, read\n"
            "path = pathlib.Path(sys.argv[1])\n"
            "Notes(path, print).flush()\n"
            "read(path)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        ended = subprocess.run([sys.executable, "-c", code, path], check=False)

        assert -9 == ended.returncode
        assert "was left by an agent that has ended" == reason(path)

    def test_the_next_agent_takes_it_over(self, path):
        with contextlib.closing(Agent(path)) as first, contextlib.closing(Agent(path)) as second:
            first.replace(WEB, TAKEN)
            first.flush()
            first.close()
            second.flush()

            assert {} == read(path)

    def test_a_program_that_the_agent_starts_does_not_hold_it(self, agent, path):
        agent.flush()
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                agent.close()
                assert "was left by an agent that has ended" == reason(path)
            finally:
                child.kill()

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            pytest.param(b"", "Input data was truncated", id="empty"),
            pytest.param(b"{", "Input data was truncated", id="cut"),
            pytest.param(b"\xff\xfe", "JSON is malformed", id="no text"),
            pytest.param(b'{"version": 1, "notes": {"a/b": ["\xff"]}}', "utf-8", id="not UTF-8"),
            pytest.param(b"[]", "Expected `object`, got `array`", id="a list"),
            pytest.param(b'{"version": 1}', "missing required field `notes`", id="no notes"),
            pytest.param(b'{"version": 2, "notes": {}}', "version 2 is not 1", id="another version"),
            pytest.param(b'{"version": 1, "notes": {"a/b": "c"}}', "Expected `array`", id="no lines"),
            pytest.param(
                b'{"version": 1, "notes": {"web": ["c"]}}', "'web' is not NAMESPACE/NAME", id="a name"
            ),
            pytest.param(b"[" * 100000, "Expected `object`", id="deep"),
        ],
    )
    def test_what_is_malformed_is_said(self, agent, path, content, expected):
        agent.flush()
        path.write_bytes(content)  # in place, so that it is the file that the agent holds

        assert expected in reason(path)

    def test_too_large(self, agent, path, monkeypatch):
        monkeypatch.setattr(notes, "_LARGEST", 1 << 20)
        agent.replace(WEB, ("x" * (1 << 20),))
        agent.flush()

        assert "is larger than 1 MiB" == reason(path)

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_what_is_no_file_is_not_waited_for(self, path, make):
        path.parent.mkdir()
        make(path)

        assert "is not a regular file" == reason(path)


class TestText:
    def test_it_is_the_same_again(self):
        given = {WEB: ("a", "é\n"), SHOP: TAKEN}

        assert given == decode(encode(given))
        assert encode(given) == encode(dict(reversed(given.items())))

    def test_a_line_for_each_in_order_of_names(self):
        assert "\nNot served as asked:\ndefault/shop: b\ndefault/shop: a\ndefault/web: c\n" == render(
            {WEB: ("c",), SHOP: ("b", "a")}
        )

    def test_nothing_without_notes(self):
        assert "" == render({})

    def test_nothing_acts_on_the_terminal(self):
        assert "\nNot served as asked:\ndefault/web: a\\x1b[2J\\nb\n" == render({WEB: ("a\x1b[2J\nb",)})

"""What the launcher of machines decides and writes, without a machine: tests/vm has the rest."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.lab.agent import ROOT
from tools.vm import cache, choose, cli, cpus, guest, kvm, machine, qemu, uml
from tools.vm.errors import Died, Hung, Unavailable

FOLDER = guest.Folder(Path("/tmp/machine"))
KERNEL = Path("/boot/vmlinuz-6.1.0-1-cloud-amd64")


def request(*command, directory="/work", network=None, **environment):
    return guest.Request(command or ("true",), Path(directory), environment, "1G", network)


def command_line(init_script):
    """Return the words of the init script's line that runs the command."""
    lines = init_script.replace("\\\n", " ")
    start = lines.index("env --ignore-environment")
    return shlex.split(lines[start : lines.index(">>", start)])


class FakeBackend:
    """A backend that this host has, or has not."""

    def __init__(self, name, is_there=True):
        self.name, self.is_there = name, is_there

    def require(self):
        if not self.is_there:
            raise Unavailable(self.name)


@pytest.mark.parametrize(
    ("asked", "has_host_ipvs", "expected"),
    [
        pytest.param("auto", True, "host", id="auto, a host with IPVS"),
        pytest.param("auto", False, "uml", id="auto, a host without"),
        pytest.param("qemu", True, "qemu", id="by name, whatever the host has"),
        pytest.param("host", False, "host", id="by name, even if it will be refused"),
    ],
)
def test_choice_of_backend(asked, has_host_ipvs, expected):
    backends = {name: FakeBackend(name) for name in ("uml", "qemu")}
    backends["host"] = FakeBackend("host", has_host_ipvs)

    assert expected == choose.choose(asked, backends).name


def test_every_backend_is_found_by_its_name():
    assert ["host", "uml", "qemu"] == list(choose.BACKENDS)
    assert all(name == backend.name for name, backend in choose.BACKENDS.items())


TRICKY = ["a b", "it's", '"', "two\nlines", "", "--", "$HOME", "`id`", "\\", "é", "\udcff"]


def test_init_script_quotes_command_and_variables():
    script = guest.init_script(request("run", *TRICKY, TEXT="x 'y'\n$z"), FOLDER, "uml", "")

    words = command_line(script)

    assert ["run", *TRICKY] == words[-len(TRICKY) - 1 :]
    assert "TEXT=x 'y'\n$z" in words


def test_init_script_names_the_backend_and_turns_buffering_off():
    words = command_line(guest.init_script(request(), FOLDER, "qemu", ""))

    assert {"IPVS_AGENT_VM=qemu", "PYTHONUNBUFFERED=1", "HOME=/root"} <= set(words)


def test_variables_of_the_request_win():
    words = command_line(guest.init_script(request(HOME="/elsewhere"), FOLDER, "uml", ""))

    assert ["HOME=/elsewhere"] == [word for word in words if word.startswith("HOME=")]


def test_init_script_runs_setup_before_the_network_and_both_before_the_command():
    script = guest.init_script(request("the-command", network="lab"), FOLDER, "uml", "the setup")

    steps = ["mount -t tmpfs tmpfs /run", "the setup", "198.18.0.2/30", "cd /work", "the-command"]

    assert steps == sorted(steps, key=script.index)


def test_init_script_sets_up_no_network_unasked():
    assert "eth9" not in guest.init_script(request(), FOLDER, "uml", "")


def test_init_script_quotes_the_current_folder():
    assert "cd '/tmp/a folder'\n" in guest.init_script(request(directory="/tmp/a folder"), FOLDER, "uml", "")


def test_machine_ends_with_its_first_process_and_with_the_launcher():
    expected = (
        "setpriv --pdeathsig KILL unshare --mount --net --uts --pid --fork --kill-child bash -ec 'a script'"
    )

    assert expected == shlex.join(machine.command(("--net", "--uts"), "a script"))


def test_uml_command_line():
    expected = (
        "linux.uml mem=1G uml_dir=/tmp/machine/ rootfstype=hostfs rootflags=/ rw init=/tmp/machine/init"
        " con=null con0=null,fd:1 quiet"
    )

    assert expected == shlex.join(uml.kernel_command(request(), FOLDER))


def test_uml_gets_the_tap_device_as_its_link():
    assert "eth9=tuntap,tap0" == uml.kernel_command(request(network="lab"), FOLDER)[-1]


@pytest.mark.parametrize("accelerator", [kvm.ARGUMENTS, qemu.EMULATION], ids=["kvm", "tcg"])
def test_qemu_command_line(accelerator):
    expected = (
        f"qemu-system-x86_64 {shlex.join(accelerator)} -smp 2 -m 1G"
        " -object memory-backend-memfd,id=memory,size=1G,share=on -numa node,memdev=memory"
        " -chardev socket,id=files,path=/tmp/machine/virtiofs"
        " -device vhost-user-fs-pci,chardev=files,tag=rootfs"
        " -nodefaults -no-user-config -no-reboot -display none -serial stdio"
        " -kernel /boot/vmlinuz-6.1.0-1-cloud-amd64 -initrd /tmp/machine/ramdisk.cpio"
        " -append 'console=ttyS0 quiet panic=-1'"
    )

    assert expected == shlex.join(qemu.qemu_command(request(), FOLDER, KERNEL, accelerator))


def test_qemu_gets_the_tap_device_as_its_link():
    words = qemu.qemu_command(request(network="lab"), FOLDER, KERNEL, qemu.EMULATION)

    assert ["-netdev", "tap,id=link,ifname=tap0,script=no,downscript=no"] == words[-4:-2]
    assert ["-device", "virtio-net-pci,netdev=link"] == words[-2:]


def test_kernels_are_sorted_by_their_numbers():
    expected = ["vmlinuz-6.1.0-9-cloud-amd64", "vmlinuz-6.1.0-10-cloud-amd64", "vmlinuz-6.12.1-cloud-amd64"]

    assert expected == qemu.by_version(sorted(expected))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({"XDG_CACHE_HOME": "{}/xdg", "HOME": "{}"}, "xdg/ipvs-agent", id="XDG_CACHE_HOME"),
        pytest.param({"HOME": "{}"}, ".cache/ipvs-agent", id="home"),
        pytest.param({"XDG_CACHE_HOME": "", "HOME": "{}"}, ".cache/ipvs-agent", id="XDG_CACHE_HOME empty"),
    ],
)
def test_cache_folder(tmp_path, environment, expected):
    folder = cache.folder({name: value.format(tmp_path) for name, value in environment.items()})

    assert tmp_path / expected == folder
    assert folder.is_dir()


def test_cache_files_appear_whole(tmp_path):
    cache.write(tmp_path / "answer", b"yes")

    assert [("answer", b"yes")] == [(path.name, path.read_bytes()) for path in tmp_path.iterdir()]


@pytest.mark.parametrize(("boots", "expected"), [(True, True), (False, False)])
def test_kvm_is_tried_once_for_each_boot_of_the_host(tmp_path, monkeypatch, boots, expected):
    tries = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kvm, "_boots", lambda kernel: tries.append(kernel) or boots)

    assert [expected, expected] == [kvm.works(KERNEL), kvm.works(KERNEL)]
    assert [KERNEL] == tries


def test_kvm_without_its_device_does_not_work(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "kvm")

    assert not kvm.works(KERNEL)


def test_command_starts_after_the_first_dashes():
    options, command = cli.parse(["--backend", "uml", "--env", "A", "--env", "B", "--", "x", "--", "--env"])

    assert ("uml", ["A", "B"], ["x", "--", "--env"]) == (options.backend, options.env, command)


def test_defaults():
    options, _ = cli.parse(["--", "true"])

    assert {
        "backend": "auto",
        "memory": "2G",
        "timeout": 900,
        "network": None,
        "env": [],
        "which": False,
    } == vars(options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "no command: name it after --", id="nothing"),
        pytest.param(["--"], "no command: name it after --", id="nothing after the dashes"),
        pytest.param(["true"], "unrecognized arguments: true", id="no dashes"),
        pytest.param(["--memory", "lots", "--", "x"], "'lots' is not a size such as 512M or 2G", id="memory"),
        pytest.param(["--env", "A=B", "--", "x"], "'A=B' is not the name of a variable", id="variable"),
        pytest.param(["--network", "no-such", "--", "x"], "no network namespace 'no-such'", id="namespace"),
        pytest.param(["--network", "../x", "--", "x"], "no network namespace '../x'", id="path as namespace"),
        pytest.param(["--timeout", "0", "--", "x"], "'0' is not a number of seconds above 0", id="no time"),
        pytest.param(["--timeout", "nan", "--", "x"], "'nan' is not a number of seconds", id="not a number"),
    ],
)
def test_wrong_usage_is_explained(capsys, arguments, message):
    with pytest.raises(SystemExit) as outcome:
        cli.parse(arguments)

    assert 2 == outcome.value.code
    assert message in capsys.readouterr().err


def test_which_prints_the_backend_and_runs_nothing(capsys):
    assert 0 == cli.main(["--backend", "qemu", "--which"])
    assert "qemu\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(Hung("too long"), 124, id="hung"),
        pytest.param(Died("gone"), 125, id="died"),
        pytest.param(Unavailable("missing"), 125, id="unavailable"),
    ],
)
def test_trouble_with_the_machine_has_a_status_of_its_own(capsys, monkeypatch, error, status):
    def refuse(*_):
        raise error

    monkeypatch.setattr(machine, "run", refuse)
    monkeypatch.setattr(choose, "choose", FakeBackend)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    assert status == cli.main(["--", "true"])
    assert f"vm: {error}\n" == capsys.readouterr().err


class TestCpus:
    @pytest.fixture(autouse=True)
    def _locks(self, tmp_path, monkeypatch):
        held = []
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # of other processes
        monkeypatch.setattr(cache.folder, "__defaults__", ({"XDG_CACHE_HOME": str(tmp_path)},))
        monkeypatch.setattr(cpus, "_held", held)
        yield
        for lock in held:
            os.close(lock)

    def test_each_machine_has_one_of_its_own(self):
        assert [1, 4, 6] == sorted(cpus.claim({1, 4, 6}) for _ in range(3))

    def test_where_all_are_taken_one_is_shared(self):
        assert 2 == cpus.claim({2}) == cpus.claim({2})

    def test_one_is_free_again_when_its_process_has_ended(self):
        program = "from tools.vm import cpus; print(cpus.claim({3}))"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        said = subprocess.run(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True
        )

        assert (b"3\n", 3) == (said.stdout, cpus.claim({3}))
        assert 5 == cpus.claim({3, 5})

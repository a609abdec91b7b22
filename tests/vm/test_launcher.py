"""The launcher on real machines, of the backend that `--backend` names, as root."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BOOT_LIMIT = {"host": 3, "uml": 10, "qemu": 30}
"""Seconds within which a machine has booted on two busy CPUs."""


@pytest.fixture
def backend(request):
    return request.config.getoption("--backend")


@pytest.fixture
def start(backend):
    """Start the launcher with these arguments; whatever still runs at the end is ended."""
    launchers = []

    def start_launcher(*arguments, stderr=None, **variables):
        command = ["python3", "-m", "tools.vm", "--backend", backend, *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment)
        launchers.append(launcher)
        return launcher

    yield start_launcher
    for launcher in launchers:
        launcher.terminate()
        launcher.wait()
        launcher.stdout.close()


def result(launcher):
    """Wait for the launcher; return its output and exit status."""
    output, _ = launcher.communicate()
    return output.decode(), launcher.returncode


def descendants(pid):
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(each for child in children for each in descendants(child))]


def all_end(process_descriptors, seconds):
    """Return whether all processes end in time."""
    deadline = time.monotonic() + seconds
    return all(
        select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0]
        for descriptor in process_descriptors
    )


def test_exit_status_is_the_commands(start):
    assert ("", 7) == result(start("--", "sh", "-c", "exit 7"))


def test_missing_command_is_127(start):
    output, status = result(start("--", "no-such-command"))

    assert 127 == status
    assert "no-such-command" in output


def test_a_command_that_was_killed_is_said_to_be(start):
    output, status = result(start("--", "sh", "-c", "kill -KILL $$", stderr=subprocess.STDOUT))

    assert 128 + signal.SIGKILL == status
    assert "vm: the command was killed; the end of its console:" in output


def test_machine_is_a_node_with_ipvs(start, backend):
    """The kernel makes virtual servers and dummy links, and nothing of the host's is in the way."""
    script = """
        echo "$IPVS_AGENT_VM $(hostname) $(ls /run/netns | wc -l)"
        modprobe ip_vs && ipvsadm --add-service --tcp-service 10.96.0.1:443 && ipvsadm --save --numeric
        ip link add kube-ipvs0 type dummy && ls /sys/class/net | grep kube
        iptables --append OUTPUT --destination 10.96.0.1 && iptables --list-rules OUTPUT
    """
    expected = [
        f"{backend} node-a 0",
        "-A -t 10.96.0.1:443 -s wlc",
        "kube-ipvs0",
        "-P OUTPUT ACCEPT",
        "-A OUTPUT -d 10.96.0.1/32",
    ]

    output, status = result(start("--", "sh", "-ec", script))

    assert (expected, 0) == (output.splitlines(), status)


def test_arguments_and_variables_arrive_as_they_are(start):
    arguments = ["a b", "it's", '"quoted"', "two\nlines", "", "--", "$HOME", "`id`", "back\\slash", "é"]
    script = "import os, sys; print([*sys.argv[1:], os.environ['TRICKY'], os.environ.get('ABSENT')])"

    tricky = "'x'\n$y "
    passed_on = ("--env", "TRICKY", "--env", "ABSENT")

    launcher = start(*passed_on, "--", "python3", "-c", script, *arguments, TRICKY=tricky)

    assert (f"{[*arguments, tricky, None]}\n", 0) == result(launcher)


def test_output_is_shown_while_the_command_runs(start, tmp_path):
    """The command waits for a file that is made only when its first line has been read."""
    go_on = tmp_path / "go-on"
    script = f"echo first; until [ -e {go_on} ]; do sleep 0.05; done; echo second >&2"
    launcher = start("--", "sh", "-c", script, stderr=subprocess.DEVNULL)

    assert b"first\n" == launcher.stdout.readline()
    go_on.touch()
    assert ("second\n", 0) == result(launcher)


def test_time_limit_ends_the_command_and_shows_the_console(start, backend):
    # In a machine of its own the kernel's words are on the console; the host's kernel has another.
    say = "true" if backend == "host" else "echo '<1>said by the kernel' >/dev/kmsg"
    command = ("--", "sh", "-c", f"{say}; echo begun; sleep 1000")

    for limit in (BOOT_LIMIT[backend], BOOT_LIMIT[backend] * 10):  # the longer one on a machine that is slow
        launcher = start("--timeout", str(limit), *command, stderr=subprocess.PIPE)
        output, errors = launcher.communicate()
        launcher.stderr.close()
        if output:
            break

    assert (b"begun\n", 124) == (output, launcher.returncode)
    assert f"did not end within {limit} s; the end of its console:".encode() in errors
    assert backend == "host" or b"said by the kernel" in errors


def test_machine_that_dies_is_reported_with_its_console(backend):
    """The init script fails where the current folder is not in the machine."""
    folder = Path("/run", f"launcher-test-{os.getpid()}")
    folder.mkdir()
    try:
        outcome = subprocess.run(
            ["python3", "-m", "tools.vm", "--backend", backend, "--timeout", "600", "--", "true"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        )
    finally:
        folder.rmdir()

    assert 125 == outcome.returncode
    assert f"{folder}: No such file or directory".encode() in outcome.stderr


def test_several_machines_run_at_once(start, tmp_path):
    """Each of two commands waits for the other's file."""
    script = "touch {}; until [ -e {} ]; do sleep 0.05; done; echo met"
    one, other = tmp_path / "one", tmp_path / "other"
    launchers = [
        start("--", "sh", "-c", script.format(one, other)),
        start("--", "sh", "-c", script.format(other, one)),
    ]

    assert [("met\n", 0)] * 2 == [result(launcher) for launcher in launchers]


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, 130, id="interrupt"),
        pytest.param(signal.SIGTERM, 143, id="terminate"),
        pytest.param(signal.SIGKILL, -9, id="kill"),
    ],
)
def test_signal_ends_the_machine_and_leaves_nothing(start, number, status):
    launcher = start("--", "sh", "-c", "tr '\\0' '\\n' </proc/1/cmdline; sleep 1000")
    init = next(line for line in map(bytes.decode, launcher.stdout) if line.endswith("/init\n"))
    folder = Path(init.strip()).parent
    processes = [os.pidfd_open(pid) for pid in descendants(launcher.pid)]

    launcher.send_signal(number)

    assert status == launcher.wait()
    assert processes
    assert all_end(processes, seconds=60)
    for process in processes:
        os.close(process)
    if number is signal.SIGKILL:  # nobody is left to clear up the files
        shutil.rmtree(folder)
    assert not folder.exists()


def test_reader_that_goes_away_ends_the_machine(start):
    launcher = start("--", "yes", stderr=subprocess.PIPE)
    launcher.stdout.readline()
    launcher.stdout.close()

    assert 128 + signal.SIGPIPE == launcher.wait()
    assert b"" == launcher.stderr.read()
    launcher.stderr.close()


@pytest.fixture
def namespace(backend):
    """A network namespace with the link tap0, and a server on its address that says hello."""
    name = f"launcher-{os.getpid()}"
    # The machine that the host backend is itself tested in has no tap devices, and needs none.
    link = "link add tap0 type dummy" if backend == "host" else "tuntap add tap0 mode tap"
    server = """if True:
        import socket
        listener = socket.create_server(("198.18.0.1", 80))
        print("ready", flush=True)
        listener.accept()[0].send(b"hello")
    """
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for change in (link, "address add 198.18.0.1/30 dev tap0", "link set tap0 up"):
            subprocess.run(["ip", "-netns", name, *change.split()], check=True)
        command = ["ip", "netns", "exec", name, sys.executable, "-c", server]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            yield name
            process.kill()
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_network_connects_the_machine_to_a_namespace(start, namespace):
    launcher = start(
        "--network",
        namespace,
        "--",
        "bash",
        "-c",
        "cat </dev/tcp/198.18.0.1/80; ip -brief -4 address show eth9",
    )

    output, status = result(launcher)

    assert 0 == status
    assert output.startswith("hello")
    assert "198.18.0.2/30" in output

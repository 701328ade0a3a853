"""Untrusted programs: every attack is tried for real, and outside too where it does no harm."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rewardjax
from rewardjax import sandbox
from rewardjax.sandbox import reads_contained, run_python
from tests.sandboxed import LINUX, X86, inside, lines, living, outside, tree, trial

pytestmark = LINUX


def test_files_outside(tmp_path):
    attempts = """
    open(f"{folder}/file", "w")
    open(f"{folder}/file", "a")
    open(f"{folder}/file", "r+b")
    open(f"{folder}/new", "x")
    os.open(f"{folder}/new2", os.O_RDONLY | os.O_CREAT)
    os.open(f"{folder}/file", os.O_RDONLY | os.O_TRUNC)
    os.open(folder, os.O_TMPFILE | os.O_WRONLY)
    os.truncate(f"{folder}/file", 1)
    os.mkdir(f"{folder}/made")
    os.mkfifo(f"{folder}/fifo")
    os.symlink("x", f"{folder}/symlink")
    os.link(f"{folder}/file", f"{folder}/link")
    os.chmod(f"{folder}/file", 0o777)
    os.utime(f"{folder}/file", (1, 1))
    os.setxattr(f"{folder}/file", "user.x", b"1")
    os.rename(f"{folder}/file", f"{folder}/renamed")
    os.unlink(f"{folder}/gone")
    os.rmdir(f"{folder}/empty")
    """
    for name in ("control", "kept"):
        (tmp_path / name / "empty").mkdir(parents=True)
        (tmp_path / name / "file").write_text("text")
        (tmp_path / name / "gone").write_text("text")
    before = tree(tmp_path / "kept")
    control = outside(trial(attempts, folder=str(tmp_path / "control")))
    assert {line: errno for line, errno in control.items() if errno and "xattr" not in line} == {}
    # EPERM: the filter's own answer, so it holds without Landlock and for root.
    assert inside(trial(attempts, folder=str(tmp_path / "kept"))) == dict.fromkeys(control, 1)
    assert tree(tmp_path / "kept") == before


def test_its_own_folder():
    attempts = """
    open("new", "w")
    os.mkdir("new")
    os.chmod(".", 0o777)
    os.rmdir(os.getcwd())
    """
    outcome = run_python(trial(attempts) + "print(os.getcwd())\nprint(oct(os.stat('.').st_mode))")
    assert outcome.status == "ok"
    done, folder, mode = outcome.stdout.splitlines()
    assert set(json.loads(done).values()) == {1}
    assert mode == "0o40500"
    assert "rewardjax-" in folder
    assert not Path(folder).exists()


@pytest.mark.skipif(not reads_contained(), reason="this kernel has no Landlock")
def test_files_to_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("text")
    attempts = """
    open(secret).read()
    os.listdir(folder)
    open("/etc/passwd").read()
    open(library).read()
    open(f"/proc/{parent}/environ").read()
    open("/proc/self/mem").read(0)
    os.listdir("/")
    """
    given = {"secret": str(secret), "folder": str(tmp_path), "parent": os.getpid()}
    code = trial(attempts, library=rewardjax.__file__, **given)
    assert set(outside(code).values()) == {0}
    assert set(inside(code).values()) == {13}  # EACCES


def test_network(tmp_path):
    tcp, udp, local = socket.socket(), socket.socket(type=socket.SOCK_DGRAM), socket.socket(1)
    with tcp, udp, local:
        for server, address in (
            (tcp, ("127.0.0.1", 0)),
            (udp, ("127.0.0.1", 0)),
            (local, str(tmp_path / "s")),
        ):
            server.bind(address)
            server.setblocking(False)
        tcp.listen()
        local.listen()
        attempts = """
        socket.create_connection(("127.0.0.1", tcp))
        socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", udp))
        socket.socket(socket.AF_UNIX).connect(local)
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        socket.socketpair()
        """
        given = {"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1]}
        code = trial(attempts, local=str(tmp_path / "s"), **given)
        for run, expected in ((inside, 1), (outside, 0)):
            assert run(code) == dict.fromkeys(lines(attempts), expected)
            reached = []
            for ask in (tcp.accept, lambda: udp.recv(1), local.accept):
                try:
                    reached.append(ask())
                except BlockingIOError:
                    reached.append(None)
            assert [found is not None for found in reached] == [expected == 0] * 3
            for connection in (reached[0], reached[2]):
                if connection is not None:
                    connection[0].close()


BOMB = """
import json, os, subprocess, sys, threading, multiprocessing, time, _thread
made = 0
def attempt(make):
    global made
    for _ in range(20):
        try:
            if make() == 0:  # a child of fork
                time.sleep(30)
                os._exit(0)
            made += 1
        except (OSError, RuntimeError):
            pass
attempt(os.fork)
attempt(lambda: os.forkpty()[0])
attempt(lambda: subprocess.Popen([sys.executable, "-c", "while True: pass"]))
attempt(lambda: os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 30 &"], {}))
attempt(lambda: os.execv("/bin/sh", ["sh", "-c", "sleep 30 &"]))
attempt(lambda: multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,)).start())
attempt(lambda: threading.Thread(target=time.sleep, args=(30,)).start())
attempt(lambda: _thread.start_new_thread(time.sleep, (30,)))
print(json.dumps([made, os.getpid()]))
"""


def test_no_other_process_or_thread():
    made, session = inside(BOMB)
    assert made == 0
    assert living(session) == []
    # Both ways of looking see what is there.
    control = "import os, json\npid = os.fork()\nif pid == 0:\n    import time; os.close(1)\n"
    control += "    time.sleep(30)\nprint(json.dumps(pid))"
    with subprocess.Popen(
        [sys.executable, "-c", control], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        child = int(process.communicate(timeout=30)[0])
        assert living(process.pid) == [str(child)]
        os.kill(child, signal.SIGKILL)


def test_other_processes_are_left_alone():
    attempts = """
    os.kill(victim, 9)
    os.killpg(victim, 9)
    signal.pidfd_send_signal(os.pidfd_open(victim), 9)
    fcntl.fcntl(1, fcntl.F_SETOWN, victim)
    os.setpriority(os.PRIO_PROCESS, victim, 19)
    os.sched_setaffinity(victim, [0])
    resource.prlimit(victim, resource.RLIMIT_CPU, (1, 1))
    """
    with subprocess.Popen(["sleep", "30"], start_new_session=True) as victim:
        code = trial(attempts, victim=victim.pid)
        done = inside("import fcntl, resource, signal\n" + code)
        assert victim.poll() is None
        victim.kill()
    assert set(done.values()) <= {1, 38}  # ENOSYS of pidfd_open
    assert len(done) == 7


# name: x86_64, aarch64, arguments; ENOSYS (38) is of calls that libc has an older one for
RAW = {
    "socket": (41, 198, (2, 1, 0)),
    "clone": (56, 220, (17, 0, 0, 0, 0)),
    "clone, a thread": (56, 220, (0x10F00, 0, 0, 0, 0)),
    "fork": (57, None, ()),
    "vfork": (58, None, ()),
    "execve": (59, 221, (0, 0, 0)),
    "execveat": (322, 281, (0, 0, 0, 0, 0)),
    "ptrace": (101, 117, (0, 0, 0, 0)),
    "process_vm_writev": (311, 271, (0, 0, 0, 0, 0, 0)),
    "memfd_create": (319, 279, (0, 0)),
    "prctl": (157, 167, (22, 0, 0, 0, 0)),
    "seccomp": (317, 277, (1, 0, 0)),
    "setrlimit": (160, 164, (7, 0)),
    "prlimit64": (302, 261, (0, 7, 0, 0)),
    "setuid": (105, 146, (0,)),
    "capset": (126, 91, (0, 0)),
    "unshare": (272, 97, (0x10000000,)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "bpf": (321, 280, (0, 0, 0)),
    "keyctl": (250, 219, (0, 0, 0, 0, 0)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "userfaultfd": (323, 282, (0,)),
    "perf_event_open": (298, 241, (0, 0, -1, -1, 0)),
    "open_by_handle_at": (304, 265, (0, 0, 0)),
    "io_uring_setup": (425, 425, (1, 0)),
    "pidfd_open": (434, 434, (1, 0)),
    "clone3": (435, 435, (0, 0)),
    "openat2": (437, 437, (-100, 0, 0, 0)),
    "landlock_create_ruleset": (444, 444, (0, 0, 1)),
    "x32 socket": (0x40000029, None, (2, 1, 0)),
    "x32 fork": (0x40000039, None, ()),
    "x32 execve": (0x40000208, None, (0, 0, 0)),
}


def test_raw_system_calls():
    calls = {name: (row[not X86], row[2]) for name, row in RAW.items()}
    calls = {name: call for name, call in calls.items() if call[0] is not None}
    code = f"""
import ctypes, json
libc, done = ctypes.CDLL(None, use_errno=True), {{}}
for name, (number, arguments) in {calls!r}.items():
    assert libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) == -1, name
    done[name] = ctypes.get_errno()
print(json.dumps(done))
"""
    expected = {name: 1 if number < 424 else 38 for name, (number, _) in calls.items()}
    assert inside(code) == expected


@pytest.mark.skipif(not X86, reason="the 32-bit interface of x86")
def test_32_bit_interface():
    # mov eax, 20 (getpid); int 0x80; ret
    code = r"""
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""
    assert run_python(code) == sandbox.Outcome("killed", "", "")


def test_locks_as_the_kernel_has_them_and_death_with_its_parent():
    root = str(Path(rewardjax.__file__).parents[1])
    program = "import os, time\nos.write(2, b'')\ntime.sleep(60)"
    caller = f"from rewardjax.sandbox import *\nrun_python({program!r}, limits=Limits(seconds=60))"
    with subprocess.Popen([sys.executable, "-c", caller], env={"PYTHONPATH": root}) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        child = wait_for(lambda: children.read_text().split())[0]
        about = Path(f"/proc/{child}/status")
        wait_for(lambda: "Seccomp:\t2" in about.read_text())  # it is in the program
        assert "NoNewPrivs:\t1" in about.read_text()
        for powers in ("CapInh", "CapPrm", "CapEff", "CapAmb"):  # root's, if a test is run by it
            assert f"{powers}:\t{0:016x}" in about.read_text()
        limits = " ".join(Path(f"/proc/{child}/limits").read_text().split())
        assert "Max processes 0 0" in limits
        assert "Max file size 0 0" in limits
        assert "Max core file size 0 0" in limits
        assert f"Max address space {256 << 20} {256 << 20}" in limits
        parent.kill()
    assert wait_for(lambda: not Path(f"/proc/{child}").exists())


def wait_for(seen):
    deadline = time.monotonic() + 20
    while not (found := seen()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found

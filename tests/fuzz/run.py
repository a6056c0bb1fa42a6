"""Runs the fuzz targets under AddressSanitizer: `make fuzz FUZZ_TIME=60`.

A target is a file fuzz_<name>.py beside this one, run by atheris on the modules of build/fuzz/tree
(PICOWS_BUILD=fuzz: built by clang, so that the fuzzer sees the branches of the C code too). It
defines

    def one_input(data: bytes) -> None      garbage is accepted, or raises what is allowed to

or fuzz_<name>.c, a libFuzzer target of C_SOURCES alone. The corpus of both is corpus/<name>/;
test_corpus.py replays it through one_input in the ordinary suite, without any fuzzer.

New inputs are gathered in build/fuzz/<name>/; a finding is left there as crash-*, and its bytes
belong into the corpus once it is mended.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "fuzz"

C_SOURCES = {"utf8": ["picows/wire/mask.c", "picows/wire/utf8.c"]}
C_FLAGS = ["-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
ASAN_OPTIONS = "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1"


def files() -> list[str]:
    return sorted(path.name for path in HERE.glob("fuzz_*") if path.suffix in (".py", ".c"))


def fuzz_python(file: str, arguments: list[str]) -> None:
    """In a child process: hand the target to libFuzzer. Does not return."""
    import atheris

    # Plain Python layers are instrumented, so that the fuzzer sees their branches.
    with atheris.instrument_imports(include=["picows.handshake", "picows.urls"]):
        # What the targets share with the tests.
        sys.path[:0] = [str(HERE), str(HERE.parent)]
        target = importlib.import_module(Path(file).stem)
    atheris.Setup([file, *arguments], target.one_input)
    atheris.Fuzz()


def command_for(file: str, gathered: Path) -> tuple[list[str], dict[str, str]]:
    env = dict(os.environ, ASAN_OPTIONS=ASAN_OPTIONS)
    if file.endswith(".py"):
        # atheris' own libFuzzer and ASan, where our modules find what clang made them call.
        found = importlib.util.find_spec("asan_with_fuzzer")
        assert found is not None, "atheris is not installed"
        assert found.origin is not None
        env.update(LD_PRELOAD=found.origin, PYTHONPATH=str(BUILD / "tree"), PYTHONMALLOC="malloc")
        return [sys.executable, __file__, "--child", file], env
    program = gathered / "target"
    sources = [str(HERE / file), *C_SOURCES[Path(file).stem.removeprefix("fuzz_")]]
    compile_it = ["clang", *C_FLAGS, "-Ipicows/wire", *sources, "-o", str(program)]
    subprocess.run(compile_it, cwd=ROOT, check=True)
    return [str(program)], env


def start(file: str, seconds: int) -> int:
    name = Path(file).stem.removeprefix("fuzz_")
    gathered = BUILD / file.replace(".", "_")
    (gathered / "corpus").mkdir(parents=True, exist_ok=True)
    command, env = command_for(file, gathered)
    arguments = [
        f"-max_total_time={seconds}",
        "-timeout=25",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={gathered}/",
        "-print_final_stats=1",
        "-verbosity=0",
        str(gathered / "corpus"),
        str(HERE / "corpus" / name),
    ]
    print(f"== {file}: {seconds} s", flush=True)
    # Not from the root: the modules in place must not be found.
    return subprocess.run([*command, *arguments], env=env, cwd=BUILD).returncode


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        fuzz_python(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description="run the fuzz targets")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("files", nargs="*", help="fuzz_*.py, fuzz_*.c; all of them by default")
    args = parser.parse_args()
    unknown = set(args.files) - set(files())
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {files()}")
    failed = [file for file in args.files or files() if start(file, args.seconds) != 0]
    if failed:
        print(f"findings in {', '.join(failed)}: see {BUILD.relative_to(ROOT)}/*/crash-*")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""gimbal and PyTorch side by side, in turns, on one machine in one session: ratios, and their spread.

    bench/compare.py --quick          make bench: four frames of 128x128, decoding, a text; a few minutes
    bench/compare.py --full           make bench-full: the sizes people run; about an hour and a half, 16 GiB
    bench/compare.py --work unet --family modelscope --frames 8 --size 256x256 --rounds 3
    bench/compare.py --install        PyTorch from PyPI into build/peer-venv (bench/peer_diffusers.py)

Both sides load the same folder of random weights (`gimbal bench model`, kept in build/bench) and get the same inputs. First the
results are compared: float32 must agree to 1e-4, else nothing is timed and the exit status is 1. Then in every round each
variant of PyTorch takes one turn, and gimbal one before each of them; a ratio is made of two neighbours, so that a machine
that slows down slows both. A turn is a call that is not counted and one that is; gimbal's is a process of its own, PyTorch
stays loaded.

Needs nothing but Python and the built program; without PyTorch gimbal's own figures are printed. Python serves for comparing
only. Knows both programs' command lines; refuses to know networks."""
import argparse, json, os, select, statistics, subprocess, sys, tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # no folder of Python's own beside the sources
import peer_diffusers as peer

AGREE = 1e-4
PROMPT = "a red boat on a calm sea at sunrise, waves, detailed"
EAGER = ["f32", "f32-channels-last", "bf16"]
USED = {"unet": list(peer.VARIANTS), "vae": list(peer.VARIANTS),
        "text": ["f32", "f32-compile", "bf16"]}  # a text encoder has no pictures
QUICK = [("unet", "animatediff-sd15", 4, "128x128"), ("vae", "animatediff-sd15", 4, "128x128"),
         ("text", "animatediff-sd15", 0, "")]
FULL = [("unet", "animatediff-sd15", 16, "256x256"), ("unet", "modelscope", 16, "256x256"),
        ("vae", "animatediff-sd15", 16, "256x256"), ("text", "animatediff-sd15", 0, "")]
# Both sides held to one instruction set
LIMITS = {"avx2": {"GIMBAL_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2",
                   "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}

MISSING = """
PyTorch is missing, so these are gimbal's figures alone. `make bench-peer` (bench/compare.py --install) gets it from PyPI
into build/peer-venv: about 3 GB to download, 6 GB on disk. `--python PATH` uses an interpreter that has torch, diffusers,
transformers and safetensors already."""


class Failed(Exception):
    """A message for the user, no traceback."""


# ---- gimbal ---------------------------------------------------------------------------------------


def gimbal(args, *words):
    """Runs the program; its standard output."""
    words = [str(w) for w in words]
    r = subprocess.run([args.gimbal, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if r.returncode:
        said = r.stderr.strip() or (f"ended by signal {-r.returncode}" if r.returncode < 0 else "said nothing")
        raise Failed("\n  ".join([f"gimbal {' '.join(words)}", *said.splitlines()[-4:]]))
    return r.stdout


def model_folder(args, family):
    folder = args.models / family
    if not folder.exists():
        print(f"{folder}: making random weights of {family}, 3 to 6 GB, kept for the next time", file=sys.stderr, flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        gimbal(args, "bench", "model", "--family", family, "--quiet", "-o", folder)
    return folder


def bench(args, job, dtype="f32", *more):
    """One `gimbal bench`: its line of the total."""
    words = ["--model", job.folder, "--family", job.family, "--threads", args.threads, "--repeat", job.repeat]
    if job.work == "unet":
        words += ["--dtype", dtype]
    if job.work != "text":
        words += ["--frames", job.frames, "--size", job.size]
    printed = gimbal(args, "bench", job.work, *words, "--json", "--quiet", *more)
    lines = [json.loads(line) for line in printed.splitlines()]
    return next(line for line in lines if line["row"] == "total")


class Job:
    """One work at one size: where its weights and the files of inputs and results are."""

    def __init__(self, args, work, family, frames, size, temporary):
        self.work, self.family, self.frames, self.size = work, family, frames, size
        self.folder = model_folder(args, family)
        self.input = temporary / f"{work}.safetensors"
        self.repeat = args.repeat or (15 if work == "text" else 1)
        self.results = {}  # "f32" or "bf16": gimbal's file
        self.lines = {}  # the same: its line, of the run that wrote the file
        self.asked = {}  # the same: the --dtype that gave it
        self.ids = ""

    def title(self):
        clip = f", {self.frames} frames of {self.size}" if self.frames else ""
        return f"{self.work}, {self.family}{clip}" + (", one guided step" if self.work == "unet" else "")


def results_of(args, job):
    """gimbal's results in files, and the inputs that PyTorch shall have."""
    if job.work == "unet":
        return unet_results(args, job)
    job.lines["f32"], job.asked["f32"] = bench(args, job), "f32"
    job.results["f32"] = job.input.with_name(f"{job.work}-result.safetensors")
    if job.work == "vae":
        width, height = job.size.split("x")
        gimbal(args, "noise", "--frames", job.frames, "--width", width, "--height", height, "--seed", 7, "-o", job.input)
        gimbal(args, "decode", "--model", job.folder, "--quiet", job.input, "-o", job.results["f32"])
    else:
        job.ids = gimbal(args, "tokenize", "--model", job.folder, PROMPT).strip()
        gimbal(args, "encode-text", "--model", job.folder, "--prompt", PROMPT, "--save", job.results["f32"])


def unet_results(args, job):
    """The float32 run draws the inputs; the others read them."""
    line = bench(args, job, "f32", "--save", job.input)
    job.lines["f32"], job.results["f32"], job.asked["f32"] = line, job.input, "f32"
    for dtype in args.dtypes:
        file = job.input.with_name(f"unet-{dtype}.safetensors")
        line = bench(args, job, dtype, "--input", job.input, "--save", file)
        if line["dtype"] not in job.lines:  # auto is float32 where the CPU has no bf16
            job.lines[line["dtype"]], job.results[line["dtype"]], job.asked[line["dtype"]] = line, file, dtype
    if "f32" not in args.dtypes:
        del job.lines["f32"]


# ---- PyTorch --------------------------------------------------------------------------------------


class Torch:
    """The other process: a command is a line, an answer one JSON object."""

    def __init__(self, args, job, variants):
        self.log, self.seconds = args.models / "peer.log", args.seconds
        words = [args.python, "-B", Path(__file__).with_name("peer_diffusers.py"), "--model", job.folder, "--work", job.work,
                 "--input", job.input, "--ids", job.ids, "--threads", args.threads, "--repeat", job.repeat,
                 "--seconds", args.seconds, "--variants", *variants]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([str(w) for w in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=log, text=True)
        try:
            self.facts = self.answer()
        except BaseException:
            self.close()
            raise
        if "error" in self.facts:
            self.close()
            raise Failed(f"PyTorch's side cannot begin: {self.facts['error']}")

    def answer(self):
        out = self.process.stdout
        if not select.select([out], [], [], self.seconds + 60)[0]:
            raise Failed(f"PyTorch's side has not answered for {self.seconds + 60} s; its log is {self.log}")
        line = out.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        why = ": was memory too small?" if code == -9 else ""
        raise Failed(f"PyTorch's side ended ({'signal' if code < 0 else 'status'} {abs(code)}){why}; its log is {self.log}")

    def ask(self, command):
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # answer() says how it ended
        return self.answer()

    def close(self):
        """Only this process, which we started."""
        try:
            self.process.stdin.close()
            self.process.wait(5)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


# ---- comparing results ----------------------------------------------------------------------------


def verdict(d):
    return f"rms {d['rms']:.1e}, largest {d['largest']:.1e}"


def warm(args, torch, variants):
    """Every variant once: {variant: its answer}, without those that do not work here."""
    warmed = {}
    for v in variants:
        note(args, f"{v}: first call" + (", compiling may take minutes" if "compile" in v else ""))
        a = torch.ask(f"warm {v}")
        if "error" in a:
            if v == "f32":
                raise Failed(f"PyTorch's float32 does not run here: {a['error']}")
            say(args, f"PyTorch {v} does not work here and is left out: {a['error']}")
            continue
        warmed[v] = a
    return warmed


def agree(args, job, torch, warmed):
    """Says how far the results lie apart. Float32 must agree; bf16 is told."""
    bad = []
    found = [(f"gimbal {d}", d, torch.ask(f"against {file}")) for d, file in job.results.items()]
    found += [(f"PyTorch {v}", v, a) for v, a in warmed.items() if v != "f32"]
    say(args, "\nresults against PyTorch's f32, relative (root mean square; largest over largest):")
    for name, kind, d in found:
        if "error" in d:
            raise Failed(f"{name}: cannot be compared: {d['error']}")
        exact = kind.startswith("f32")
        wrong = exact and not (d["rms"] <= AGREE and d["largest"] <= AGREE)
        say(args, f"  {name:28} {verdict(d)}" + ("  DISAGREES" if wrong else "  agrees" if exact else ""))
        bad += [name] if wrong else []
    if bad:
        raise Failed(f"{job.title()}: {', '.join(bad)}: not the same result to {AGREE:g} in float32, so nothing is timed")
    return {name: {"rms": d["rms"], "largest": d["largest"]} for name, _, d in found}


# ---- rounds ---------------------------------------------------------------------------------------


def rounds(args, job, torch, variants):
    """times[name] and ratios[variant, dtype]: a list with one entry a round (gimbal: a turn)."""
    times = {name: [] for name in [*variants, *(f"gimbal {d}" for d in job.lines)]}
    ratios = {(v, d): [] for v in variants for d in job.lines}
    given = ["--input", job.input] if job.work == "unet" else []
    for r in range(args.rounds):
        for v in variants:
            note(args, f"round {r + 1} of {args.rounds}: {v}")
            ours = {d: bench(args, job, job.asked[d], *given)["s_per_step"] for d in job.lines}
            theirs = torch.ask(f"step {v}")
            if "error" in theirs:
                raise Failed(f"PyTorch {v}: {theirs['error']}")
            times[v].append(theirs["seconds"])
            for d, seconds in ours.items():
                times[f"gimbal {d}"].append(seconds)
                ratios[v, d].append(theirs["seconds"] / seconds)
    return times, ratios


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(args, job, variants, times, ratios):
    say(args, f"\n| seconds: median (least to most), {args.rounds} rounds | s | "
        + " | ".join(f"times gimbal {d}" for d in job.lines) + " |")
    say(args, "|---|---|" + "---|" * len(job.lines))
    for d in job.lines:
        say(args, f"| gimbal {d} | {spread(times[f'gimbal {d}'], 3)} |" + " |" * len(job.lines))
    for v in variants:
        cells = " | ".join(spread(ratios[v, d], 2) for d in job.lines)
        say(args, f"| PyTorch {v} | {spread(times[v], 3)} | {cells} |")
    say(args, "")
    for d in job.lines:
        for kind, words in [("f32", "float32")] + ([] if d == "f32" else [("", "of any type")]):
            best = fastest(variants, times, kind)
            say(args, f"gimbal {d}: {spread(ratios[best, d], 2)} times as fast as PyTorch's best {words}, {best}")


def fastest(variants, times, kind):
    return min((v for v in variants if v.startswith(kind)), key=lambda v: statistics.median(times[v]))


def json_lines(args, job, torch, found, times, ratios):
    """The same as objects: a line for each pair."""
    for (v, d), values in ratios.items():
        line = job.lines[d]
        kept = {k: line[k] for k in ("peak_bytes", "mapped_bytes", "open_seconds", "commit", "cpu", "threads", "isa", "dtype")}
        print(json.dumps({
            "row": "ratio", "what": job.work, "family": job.family, "frames": job.frames, "size": job.size,
            "peer": f"PyTorch {v}", "ratio": statistics.median(values), "ratio_least": min(values), "ratio_most": max(values),
            "rounds": args.rounds, "s_per_step": statistics.median(times[f"gimbal {d}"]),
            "peer_s_per_step": statistics.median(times[v]), "difference": found[f"gimbal {d}"], **kept,
            "peer_isa": torch.facts["isa"], "torch": torch.facts["torch"], "diffusers": torch.facts["diffusers"]}), flush=True)


# ---- one work -------------------------------------------------------------------------------------


def memory_of(line):
    return f"{line['peak_bytes'] / 2**30:.2f} GiB above {line['mapped_bytes'] / 2**30:.2f} GiB mapped"


def alone(args, job):
    """Without PyTorch: what gimbal takes."""
    for d, line in job.lines.items():
        if args.json:
            print(json.dumps(line), flush=True)
        say(args, f"gimbal {d}: {line['s_per_step']:.3f} s, {line['gflops']:.0f} GFLOP/s, {memory_of(line)}; "
                  f"commit {line['commit']}, {line['cpu']}, {line['threads']} threads, {line['isa']}")


def heading(args, job, torch, warmed):
    line, f = next(iter(job.lines.values())), torch.facts
    say(args, f"{line['cpu']}, {args.threads} threads on either side (PyTorch says {f['threads']}); "
              f"gimbal {line['commit']} ({line['isa']}); PyTorch {f['torch']} ({f['isa']}), diffusers {f['diffusers']}, "
              f"transformers {f['transformers']}")
    for d, line in job.lines.items():
        say(args, f"gimbal {d}: {memory_of(line)}, open to first operator {line['open_seconds']:.3f} s, "
                  f"bound {line['s_bound']:.3g} s")
    say(args, f"PyTorch f32: {warmed['f32']['resident'] / 2**30:.2f} GiB resident")


def compare(args, job):
    say(args, f"\n## {job.title()}\n")
    results_of(args, job)
    if not args.python:
        return alone(args, job)
    wanted = args.variants or (EAGER if args.eager else USED[job.work])
    # f32 first: it is what the others are held to
    variants = ["f32"] + [v for v in wanted if v in USED[job.work] and v != "f32"]
    torch = Torch(args, job, variants)
    try:
        warmed = warm(args, torch, variants)
        heading(args, job, torch, warmed)
        found = agree(args, job, torch, warmed)
        times, ratios = rounds(args, job, torch, list(warmed))
    finally:
        torch.close()
    table(args, job, list(warmed), times, ratios)
    if args.json:
        json_lines(args, job, torch, found, times, ratios)


# ---- the command line -----------------------------------------------------------------------------


def say(args, text):
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def note(args, text):
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}\r", end="", file=sys.stderr, flush=True)


def jobs(args):
    if args.quick or args.full:
        return QUICK if args.quick else FULL
    return [(args.work, args.family, *((0, "") if args.work == "text" else (args.frames, args.size)))]


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}, expected 1 or more")
    return value


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--quick", action="store_true", help="the short form: small sizes, no torch.compile")
    p.add_argument("--full", action="store_true", help="the sizes people run")
    p.add_argument("--install", action="store_true", help="get PyTorch from PyPI into build/peer-venv, then stop")
    p.add_argument("--work", choices=list(USED), default="unet")
    p.add_argument("--family", default="animatediff-sd15", help="as `gimbal bench --family`")
    p.add_argument("--frames", type=positive, default=16)
    p.add_argument("--size", default="256x256")
    p.add_argument("--rounds", type=positive, help="3, with --quick 2")
    p.add_argument("--repeat", type=positive, help="calls of one turn, whose median counts: 1, of a text 15")
    p.add_argument("--dtypes", nargs="+", choices=["f32", "bf16", "auto"], default=["f32", "auto"],
                   help="unet: gimbal's --dtype")
    p.add_argument("--variants", nargs="+", choices=list(peer.VARIANTS),
                   help="PyTorch's, f32 always; all, with --quick the eager ones")
    p.add_argument("--threads", type=positive, default=2)
    p.add_argument("--isa", choices=list(LIMITS), help="hold both sides to this instruction set")
    p.add_argument("--seconds", type=positive, default=1800, help="longest wait for an answer of PyTorch, compiling included")
    p.add_argument("--gimbal", type=Path, default=peer.TOP / "build" / "release" / "gimbal")
    p.add_argument("--python", type=Path, help="an interpreter that has PyTorch; build/peer-venv's if that is made")
    p.add_argument("--models", type=Path, default=peer.TOP / "build" / "bench", help="where random weights are kept")
    p.add_argument("--json", action="store_true", help="an object a line on stdout, words on stderr")
    return p.parse_args()


def check(args):
    args.gimbal = args.gimbal.absolute()
    if not os.access(args.gimbal, os.X_OK):
        raise Failed(f"{args.gimbal}: gimbal is not built: make build")
    if args.python and not os.access(args.python, os.X_OK):
        raise Failed(f"--python {args.python}: there is no such program")
    args.python = args.python.absolute() if args.python else peer.venv_python()  # not resolve: a venv's is a link
    args.eager, args.rounds = args.quick, args.rounds or (2 if args.quick else 3)
    os.environ.update(LIMITS[args.isa] if args.isa else {})


def main():
    args = parse()
    if args.install:
        return peer.install()
    check(args)
    with tempfile.TemporaryDirectory(prefix="gimbal-compare-") as temporary:
        for n, (work, family, frames, size) in enumerate(jobs(args)):
            place = Path(temporary) / str(n)
            place.mkdir()
            compare(args, Job(args, work, family, frames, size, place))
    if not args.python:
        say(args, MISSING)


if __name__ == "__main__":
    try:
        main()
    except (Failed, peer.Refused) as e:
        sys.exit(f"\ncompare: {e}")
    except KeyboardInterrupt:
        sys.exit(130)

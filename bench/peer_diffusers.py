#!/usr/bin/env python3
"""PyTorch's side of bench/compare.py: the same network, the same random weights, the same inputs, by diffusers.

    bench/peer_diffusers.py --install             makes build/peer-venv with the packages below, from PyPI
    bench/peer_diffusers.py --model DIR --work unet --input FILE [...]      answers commands until its input ends

The folder is what `gimbal bench model -o DIR` writes; diffusers reads it like any other. A command is a line, an answer is
one JSON object on a line, so that the networks stay loaded while the other side is measured:

    warm VARIANT     builds what the variant needs, runs one call that is not counted, and compares its result with PyTorch's
                     own float32 (the first variant warmed must be f32)
    step VARIANT     {"seconds": one call, after one that is not counted}
    against FILE     how far gimbal's result in FILE lies from PyTorch's float32

    unet    one guided step: both branches in one call, then e = e(negative) + cfg (e(prompt) - e(negative))
    vae     latents to RGB bytes               text    token ids to the text encoder's last hidden state

Knows diffusers. Refuses to know gimbal's program and how results are shown. Python serves for comparing only: nothing of
gimbal is built, run or tested with it."""
import argparse, json, math, os, re, shutil, signal, subprocess, sys, time, traceback
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
VENV = TOP / "build" / "peer-venv"
PACKAGES = ["torch==2.15.0", "diffusers==0.33.1", "transformers==4.57.6", "safetensors", "numpy"]
DISK = 9e9  # bytes for the folder and pip's temporary files
GIB = 2.0 ** 30

# name: (type, channels last, compiled)
VARIANTS = {
    "f32": ("float32", False, False),
    "f32-channels-last": ("float32", True, False),
    "f32-compile": ("float32", True, True),
    "bf16": ("bfloat16", True, False),
    "bf16-compile": ("bfloat16", True, True),
}
# Measured: bytes that a float32 call takes beyond its weights, per latent pixel of each frame and branch
ACTIVATIONS = {"unet": 90e3, "vae": 330e3, "text": 0}
BASE = 0.7 * GIB  # the interpreter with its libraries


class Refused(Exception):
    """What the user can do something about: a message, no traceback."""


# ---- the environment ------------------------------------------------------------------------------


def venv_python():
    """The interpreter of a finished build/peer-venv, or None."""
    done = VENV / "installed"
    return VENV / "bin" / "python" if done.exists() and done.read_text().split() == PACKAGES else None


def run_logged(command, log, why):
    with open(log, "a") as out:
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
    if code:
        tail = "".join("    " + line for line in open(log, errors="replace").readlines()[-8:])
        raise Refused(f"{why}\n  the end of {log}:\n{tail.rstrip()}")


def install():
    """build/peer-venv, whole or not at all: the file `installed` is written last."""
    if venv_python():
        return print(f"{VENV}: is there already")
    if sys.version_info < (3, 10):
        raise Refused(f"PyTorch 2.15 needs Python 3.10 or newer, this is {sys.version.split()[0]}")
    VENV.parent.mkdir(exist_ok=True)
    free = shutil.disk_usage(VENV.parent).free
    if free < DISK:
        raise Refused(f"{VENV}: PyTorch needs about {DISK / 1e9:.0f} GB there, {free / 1e9:.1f} GB are free")
    log = VENV.parent / "peer-venv.log"
    log.unlink(missing_ok=True)
    print(f"{VENV}: installing {', '.join(PACKAGES)} from PyPI, about 3 GB to download; log in {log}", flush=True)
    run_logged([sys.executable, "-m", "venv", "--clear", VENV], log,
               f"{VENV}: the environment could not be made (on Debian: apt-get install python3-venv)")
    run_logged([VENV / "bin" / "python", "-m", "pip", "install", "--no-cache-dir", *PACKAGES], log,
               "pip could not install PyTorch: is PyPI reachable? `--python PATH` of bench/compare.py uses an interpreter"
               " that has the packages already")
    (VENV / "installed").write_text("\n".join(PACKAGES) + "\n")
    print(f"{VENV}: ready")


# ---- memory ---------------------------------------------------------------------------------------


def number_in(path, pattern=r"(\d+)"):
    try:
        found = re.search(pattern, Path(path).read_text())
        return int(found.group(1)) if found else None
    except OSError:
        return None


def available():
    """Bytes that this process may still take: of the machine, and of its control group, whose page cache can go."""
    found = [(number_in("/proc/meminfo", r"MemAvailable:\s*(\d+)") or 1 << 40) * 1024]
    for folder, most, now, cache in (("", "memory.max", "memory.current", "file"),
                                     ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")):
        group = Path("/sys/fs/cgroup") / folder
        limit, used = number_in(group / most), number_in(group / now)
        if limit and used is not None:
            found.append(limit - used + (number_in(group / "memory.stat", rf"(?m)^{cache} (\d+)") or 0))
    return min(found)


def resident():
    """Highest resident bytes since forget_resident."""
    return (number_in("/proc/self/status", r"VmHWM:\s*(\d+)") or 0) * 1024


def forget_resident():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def parameters(files):
    """Values in these safetensors files, from their headers."""
    total = 0
    for path in files:
        with open(path, "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        total += sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    return total


def check_memory(args, inputs):
    """Float32 weights stay for the whole run, bfloat16 ones beside them when a variant wants them."""
    count = parameters(weight_files(args.model, args.work))
    z = inputs["latents"].shape if "latents" in inputs else (1, 0, 0, 0, 0)
    branches = 2 if args.work == "unet" else 1
    need = BASE + count * 4 + ACTIVATIONS[args.work] * branches * z[2] * z[3] * z[4]
    both = need + count * 2
    free = available()
    wanted = both if any(v.startswith("bf16") for v in args.variants) else need
    if wanted > free:
        small = "; without the bf16 variants it needs %.1f GiB" % (need / GIB) if need < wanted else ""
        raise Refused(f"PyTorch needs about {wanted / GIB:.1f} GiB for this, {free / GIB:.1f} GiB are available{small}."
                      " Fewer --frames or a smaller --size need less")


# ---- networks -------------------------------------------------------------------------------------


def part_files(folder, part):
    names = ("diffusion_pytorch_model.safetensors", "model.safetensors")
    found = [folder / part / n for n in names if (folder / part / n).exists()]
    if not found:
        raise Refused(f"{folder / part}: no weights there; `gimbal bench model --family NAME -o DIR` makes such a folder")
    return found[0]


def config(folder, part):
    return json.loads((folder / part / "config.json").read_text())


def parts_of(folder, work):
    if work == "unet":
        return ["unet"] + (["motion_adapter"] if (folder / "motion_adapter").exists() else [])
    return {"vae": ["vae"], "text": ["text_encoder"]}[work]


def weight_files(folder, work):
    return [part_files(folder, part) for part in parts_of(folder, work)]


def empty_unet(folder):
    from diffusers import MotionAdapter, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
    kind = {"UNet2DConditionModel": UNet2DConditionModel, "UNet3DConditionModel": UNet3DConditionModel}
    unet = kind[config(folder, "unet")["_class_name"]].from_config(config(folder, "unet"))
    if not (folder / "motion_adapter").exists():
        return unet
    return UNetMotionModel.from_unet2d(unet, MotionAdapter.from_config(config(folder, "motion_adapter")))


def empty_net(folder, work):
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel
    if work == "text":  # it has buffers that no file holds
        return CLIPTextModel(CLIPTextConfig(**config(folder, "text_encoder")))
    with torch.device("meta"):
        return empty_unet(folder) if work == "unet" else AutoencoderKL.from_config(config(folder, "vae"))


def load(folder, work, dtype):
    """The network with the folder's weights; every parameter must be there, and nothing else."""
    from safetensors import safe_open
    net, state = empty_net(folder, work), {}
    for path in weight_files(folder, work):
        with safe_open(path, "pt") as f:
            state.update({name: f.get_tensor(name).to(dtype) for name in f.keys()})
    net.load_state_dict(state, strict=True, assign=True)
    return net.eval().requires_grad_(False)


def lay_out(net, last):
    """Pictures' weights with channels last, or contiguous again."""
    import torch
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for p in net.parameters():
        if p.dim() in formats:
            p.data = p.data.contiguous(memory_format=formats[p.dim()] if last else torch.contiguous_format)


# ---- one call of each work: (network, its inputs of the network's type) -> float32 result -----------


def frames_as_pictures(x):
    """[B,C,F,h,w] -> [B*F,C,h,w]"""
    return x.permute(0, 2, 1, 3, 4).flatten(0, 1)


def call_unet(net, module, i):
    kind, frames = type(module).__name__, i["latents"].shape[2]
    x = i["latents"].expand(2, -1, -1, -1, -1)
    text = i["context"] if kind == "UNet3DConditionModel" else i["context"].repeat_interleave(frames, dim=0)
    if kind == "UNet2DConditionModel":
        e = net(frames_as_pictures(x), i["timestep"], encoder_hidden_states=text).sample
        e = e.unflatten(0, (2, frames)).permute(0, 2, 1, 3, 4)
    else:
        e = net(x, i["timestep"], encoder_hidden_states=text).sample
    e = e.float()
    return e[:1] + i["guidance"] * (e[1:] - e[:1])


def call_vae(net, module, i):
    """To bytes as a clip needs them; the values before rounding are what is compared."""
    import torch
    z = frames_as_pictures(i["latents"]) / module.config.scaling_factor
    rgb = net(z).sample.float().permute(0, 2, 3, 1)
    values = (rgb / 2 + 0.5).clamp(0, 1) * 255
    values.round().to(torch.uint8)
    return values


def call_text(net, module, i):
    return net(i["ids"]).last_hidden_state.float()


WORKS = {
    "unet": (call_unet, lambda module: module),
    "vae": (call_vae, lambda module: module.decode),
    "text": (call_text, lambda module: module),
}


def read_inputs(args):
    import torch
    from safetensors.torch import load_file
    if args.work == "text":
        return {"ids": torch.tensor([[int(word) for word in args.ids.split()]])}
    given = load_file(args.input)
    if args.work == "vae":
        return {"latents": given["latents"]}
    return {"latents": given["latents"], "context": given["context"], "timestep": given["timestep"][0],
            "guidance": float(given["guidance"][0])}


# ---- comparing ------------------------------------------------------------------------------------


def differences(have, want, rounded=False):
    """Relative to what PyTorch's float32 made: root mean square, and largest over largest. `rounded`: `have` are bytes, which
    may lie half a step off."""
    d = (have.double() - want.double()).abs()
    if rounded:
        d = (d - 0.5).clamp(min=0)
    return {"rms": (d.norm() / want.double().norm()).item(), "largest": (d.max() / want.double().abs().max()).item()}


def read_result(path, work):
    """What gimbal wrote, in PyTorch's shape, and whether it is rounded to bytes."""
    from safetensors.torch import load_file
    names = {"unet": "prediction", "vae": "frames", "text": "context"}
    return load_file(path)[names[work]], work == "vae"


# ---- serving --------------------------------------------------------------------------------------


class Peer:
    def __init__(self, args):
        self.args = args
        self.inputs = read_inputs(args)
        check_memory(args, self.inputs)
        self.module, self.last, self.compiled, self.exact = {}, {}, {}, None

    def prepare(self, variant):
        """The variant's network, ready to be called; what it takes to get there is never timed."""
        import torch
        name, last, compiled = VARIANTS[variant]
        if name not in self.module:
            self.module[name] = load(self.args.model, self.args.work, getattr(torch, name))
            self.last[name] = False
        if self.last[name] != last:
            lay_out(self.module[name], last)
            self.last[name] = last
        net = WORKS[self.args.work][1](self.module[name])
        if not compiled:
            return net
        if name not in self.compiled:
            self.compiled[name] = torch.compile(net)
        return self.compiled[name]

    def call(self, variant, net):
        import torch
        name = VARIANTS[variant][0]
        dtype = getattr(torch, name)
        inputs = {k: v.to(dtype) if torch.is_tensor(v) and k in ("latents", "context") else v for k, v in self.inputs.items()}
        start = time.perf_counter()
        with torch.inference_mode():
            result = WORKS[self.args.work][0](net, self.module[name], inputs)
        return time.perf_counter() - start, result

    def warm(self, variant):
        net = self.prepare(variant)
        forget_resident()
        seconds, result = self.call(variant, net)
        if self.exact is None:
            self.exact = result.clone()
        return {"seconds": seconds, "resident": resident(), **differences(result, self.exact)}

    def step(self, variant):
        net = self.prepare(variant)
        self.call(variant, net)
        took = sorted(self.call(variant, net)[0] for _ in range(self.args.repeat))
        return {"seconds": took[len(took) // 2]}

    def against(self, path):
        have, rounded = read_result(path, self.args.work)
        return differences(have.reshape(self.exact.shape), self.exact, rounded)


def too_long(*_):
    raise TimeoutError("it took too long")


def answer(peer, line, seconds):
    command, _, operand = line.strip().partition(" ")
    if command not in ("warm", "step", "against") or (command != "against" and operand not in VARIANTS):
        raise Refused(f"unknown command: {line.strip()[:80]}")
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        return getattr(peer, command)(operand)
    finally:
        signal.alarm(0)


def describe():
    import diffusers, torch, transformers
    return {"ready": True, "torch": torch.__version__.split("+")[0], "diffusers": diffusers.__version__,
            "transformers": transformers.__version__, "threads": torch.get_num_threads(),
            "isa": torch.backends.cpu.get_cpu_capability()}


def serve(args):
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # libraries' own prints go to stderr
    os.dup2(2, 1)

    def say(thing):
        answers.write(json.dumps(thing) + "\n")

    try:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from a hub
        import torch
        torch.set_num_threads(args.threads)
        torch.set_num_interop_threads(1)
        peer = Peer(args)
        say(describe())
    except Refused as e:
        return say({"error": str(e)})
    except ImportError as e:
        return say({"error": f"{sys.executable}: {e}; needed are {', '.join(PACKAGES)}, which --install gets from PyPI"})
    except (OSError, KeyError, ValueError, RuntimeError) as e:
        return say({"error": f"{type(e).__name__}: {e}"})
    for line in sys.stdin:
        try:
            say(answer(peer, line, args.seconds))
        except Exception as e:  # a variant that fails must not end the others
            traceback.print_exc()
            say({"error": f"{type(e).__name__}: {(str(e).strip().splitlines() or [''])[0]}"})


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="bench/compare.py is the other side.")
    p.add_argument("--install", action="store_true", help=f"make {VENV.relative_to(TOP)} with PyTorch from PyPI")
    p.add_argument("--model", type=Path, help="folder that `gimbal bench model` wrote")
    p.add_argument("--work", choices=sorted(WORKS), default="unet")
    p.add_argument("--input", help="safetensors file: latents; unet: also context, timestep, guidance")
    p.add_argument("--ids", default="", help="text: the token ids, separated by spaces")
    p.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="which will be asked for")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeat", type=int, default=1, help="calls for one answer, whose median counts")
    p.add_argument("--seconds", type=int, default=1800, help="longest wait for one command, compiling included")
    args = p.parse_args()
    if args.install:
        return install()
    if not args.model or not (args.ids if args.work == "text" else args.input):
        p.error("--model and --input (text: --ids) are needed")
    serve(args)


if __name__ == "__main__":
    try:
        main()
    except Refused as e:
        sys.exit(f"peer_diffusers: {e}")

"""batchlab beside what one would use instead: same work, one machine, one run, one table.

usage: compare_peers.py --device cuda|cpu [--output STEM] [--bundle FOLDER] [--kernels FILE] [--recorded FILE] [--timeout S]
                        [--peers NAME,…] [--models NAME,…] [--batch-sizes 1,8,64,256] [--prompt-len 13] [--new-tokens 32]
                        [--dtype T] [--peer-dtype T] [--rounds 1] [--repeats 3] [--threads N]

Generation: random weights of the model's shape, random prompts, greedy, no end token. total = a whole generation,
prefill = a generation of one token, step = (total - prefill) / (new tokens - 1). Rounds alternate between batchlab
and each peer, so that a change of the machine's load meets all of them; numbers are medians over rounds.
Attention (on CUDA): the shapes of `cargo bench --bench kernels`, each as a CUDA graph of calls on buffers of their own.
A peer that is not installed is a line below the tables. --recorded (default benches/results/peers-recorded.json) are
numbers measured earlier, in columns of their own, shown beside the same kind of GPU and the same work only.
ratio = the bar (the fastest peer, recorded ones too) over batchlab, so that above 1 batchlab is faster.
--bundle is a folder with the compiled benches `decode` and `kernels` (scripts/bundle.sh makes it); without it they run
through cargo. --kernels is what `kernels --output` has written in this run, where it already has. --output writes STEM.json and STEM.md.
"""
import argparse, json, os, pathlib, platform, re, statistics, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
GENERATE = {"HF transformers": "hf_generate", "vLLM": "vllm_generate", "llama.cpp": "llama_cpp"}
ATTENTION = {
    "SDPA FA2": ("torch_sdpa", "flash", ("prefill", "decode")),
    "SDPA cuDNN": ("torch_sdpa", "cudnn", ("prefill", "decode")),
    "SDPA boolean mask": ("torch_sdpa", "mask", ("padded",)),
    "FlashInfer": ("flashinfer_decode", None, ("decode",)),
}
OURS = "batchlab"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", choices=["cpu", "cuda"], required=True)
    p.add_argument("--bundle", type=lambda folder: pathlib.Path(folder).resolve())
    p.add_argument("--kernels", type=pathlib.Path)
    # In a bundle it lies beside this script.
    p.add_argument("--recorded", type=pathlib.Path, default=next(
        (f for f in (HERE / "peers-recorded.json", HERE.parent / "benches/results/peers-recorded.json") if f.exists()), None))
    p.add_argument("--peers", default=",".join([*GENERATE, *ATTENTION]))
    p.add_argument("--models", help="default distilgpt2, and on cuda smollm2-135m and llama-7b too")
    p.add_argument("--batch-sizes", help="default 1,8,64,256; on cpu 1,4,8")
    p.add_argument("--prompt-len", type=int, default=13)
    p.add_argument("--new-tokens", type=int, default=32)
    p.add_argument("--dtype", choices=["f32", "f16", "bf16"], help="default bf16 on cuda, f32 on cpu")
    p.add_argument("--peer-dtype", choices=["f32", "f16", "bf16"], help="default --dtype")
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--repeats", type=int, default=3, help="generations in each round")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="of all, on cpu")
    p.add_argument("--timeout", type=int, default=600, help="seconds for each run of a program")
    p.add_argument("--output", help="path without extension")
    a = p.parse_args()
    cpu = a.device == "cpu"
    a.models = (a.models or ("distilgpt2" if cpu else "distilgpt2,smollm2-135m,llama-7b")).split(",")
    a.batches = [int(b) for b in (a.batch_sizes or ("1,4,8" if cpu else "1,8,64,256")).split(",")]
    a.dtype = a.dtype or ("f32" if cpu else "bf16")
    a.peer_dtype = a.peer_dtype or a.dtype
    a.peers = a.peers.split(",")
    return a


class Comparison:
    def __init__(self, a):
        self.a = a
        self.missing = []  # lines
        self.versions = {}
        self.device = None  # as batchlab names it
        self.generations = {}  # (model, prompt, new, batch) -> {engine: {number: [one a round]}}
        self.attention = {}  # kind, then shape -> {engine: µs}
        self.kernels = None

    # -- programs, each in a process of its own

    def bench(self, name, *options):
        """What a bench of ours writes with --output; None, with a line, where it fails."""
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out.json")
            command = [str(self.a.bundle / name)] if self.a.bundle else ["cargo", "bench", "--quiet", "--bench", name, "--"]
            env = os.environ | ({"RAYON_NUM_THREADS": str(self.a.threads)} if self.a.device == "cpu" else {})
            try:
                subprocess.run(command + [str(o) for o in options] + ["--output", out], check=True, env=env, timeout=self.a.timeout,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                with open(out) as f:
                    return json.load(f)
            except (OSError, subprocess.SubprocessError) as error:
                said = getattr(error, "stderr", None) or ""
                said = said.decode(errors="replace") if isinstance(said, bytes) else said  # bytes after a timeout
                said = said.strip().splitlines()[-1:]
                self.missing.append(f"{OURS} {name} {' '.join(map(str, options))}: failed: {' '.join([str(error), *said])}")

    def peer(self, name, script, job):
        """What a peer measured, without what failed."""
        command = [sys.executable, str(HERE / "peers" / f"{script}.py")]
        try:
            out = subprocess.run(command, input=json.dumps(job).encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 timeout=self.a.timeout).stdout
        except subprocess.TimeoutExpired as error:
            out = error.stdout or b""
            self.note(f"{name}: cut off after {self.a.timeout} s")
        measured = []
        for line in out.decode(errors="replace").splitlines():
            try:
                answer = json.loads(line)
            except ValueError:  # a library's own words, or cut off
                continue
            if "missing" in answer:
                self.note(f"{name}: not installed ({answer['missing']})")
            elif "version" in answer:
                self.versions[name] = answer["version"]
            elif "failed" in answer:
                where = " ".join(f"{k}={v}" for k, v in answer.items() if k != "failed" and isinstance(v, int))
                self.note(f"{name}: failed {where} ({answer['failed']})")
            else:
                measured.append(answer)
        return measured

    def note(self, line):
        if line not in self.missing:
            self.missing.append(line)

    # -- generation

    def work(self, model):
        """[(prompt, new, batches)]; on CUDA two of the models also get a longer context and whole prompts."""
        a = self.a
        longer = {"distilgpt2": [(496, 33, [64, 256]), (512, 2, [32])], "llama-7b": [(512, 2, [8])]}
        return [(a.prompt_len, a.new_tokens, a.batches), *(longer.get(model, []) if a.device == "cuda" else [])]

    def generate(self):
        a = self.a
        for round in range(a.rounds):
            for model in a.models:
                for prompt, new, batches in self.work(model):
                    rows = self.bench("decode", "--device", a.device, "--model", f"dummy:{model}", "--dtype", a.dtype, "--batch-sizes",
                                      ",".join(map(str, batches)), "--prompt-len", prompt, "--new-tokens", new, "--repeats", a.repeats)
                    for row in rows or []:
                        self.device = row["device"]
                        self.add(OURS, row | dict(model=model))
                work = [dict(prompt_len=p, new_tokens=n, batch=b) for p, n, batches in self.work(model) for b in batches]
                job = dict(model=model, device=a.device, dtype=a.peer_dtype, threads=a.threads, repeats=a.repeats, work=work)
                for name in [n for n in GENERATE if n in a.peers and self.worth_asking(n)]:
                    for row in self.peer(name, GENERATE[name], job):
                        self.add(name, row | dict(model=model))
                print(f"round {round + 1}, {model}: done", file=sys.stderr, flush=True)

    def worth_asking(self, name):
        return not any(line.startswith(f"{name}: not installed") for line in self.missing)

    def add(self, engine, row):
        key = (row["model"], row["prompt_len"], row["new_tokens"], row["batch"])
        numbers = self.generations.setdefault(key, {}).setdefault(engine, {})
        for name, value in row.items():
            if isinstance(value, float):
                numbers.setdefault(name, []).append(value)

    def number(self, key, engine, name):
        values = self.generations.get(key, {}).get(engine, {}).get(name)
        return statistics.median(values) if values else None

    # -- attention

    def attend(self):
        a = self.a
        if a.kernels:
            self.kernels = json.loads(a.kernels.read_text())
        else:
            self.kernels = self.bench("kernels", "attention")
        work = {"prefill": [], "decode": [], "padded": []}
        for r in (self.kernels or {}).get("results", []):
            w = attention_shape(r)
            if w:
                work[w["kind"]].append(w)
                self.attention.setdefault(w["kind"], {})[w["case"]] = {OURS: r["median_us"]}
        for name, (script, backend, kinds) in ATTENTION.items():
            wanted = [w for kind in kinds for w in work[kind]]
            if name in a.peers and wanted:
                for row in self.peer(name, script, dict(backend=backend, work=wanted)):
                    self.attention[row["kind"]][row["case"]][name] = row["us"]
                print(f"{name}: done", file=sys.stderr, flush=True)

    # -- what was measured earlier

    def recorded(self):
        """{column: {(model, prompt, new, batch): {number: value}}} of this kind of GPU."""
        columns = {}
        for one in json.loads(self.a.recorded.read_text()) if self.a.recorded else []:
            # f16 and bf16 are the same work.
            if one["gpu"] not in (self.device or "") or (one["dtype"] == "f32") != (self.a.dtype == "f32"):
                self.note(f"{one['engine']} recorded on {one['gpu']} in {one['dtype']}: not shown beside {self.device} in {self.a.dtype}")
                continue
            columns[" ".join([one["engine"], one["version"] + ",", "recorded", one["date"] or ""]).strip()] = {
                (r["model"], one["prompt_len"], one["new_tokens"], r["batch"]): r for r in one["rows"]}
        return columns

    # -- tables

    def tables(self):
        recorded = self.recorded()

        def generation(title, name, better, chosen):
            rows = []
            for key in [k for k in self.generations if chosen(k)]:
                cells = {engine: self.number(key, engine, name) for engine in [OURS, *GENERATE]}
                cells |= {column: values.get(key, {}).get(name) for column, values in recorded.items()}
                model, prompt, _, batch = key
                rows.append((f"{model}, {prompt} tokens, B {batch}", cells))
            return table(title, better, rows)

        short = lambda key: key[1] == self.a.prompt_len and key[2] == self.a.new_tokens
        prompts = lambda key: key[2] == 2
        longer = lambda key: not short(key) and not prompts(key)
        tables = [
            generation("Decode step, ms", "step_ms", "lower", short),
            generation("Output tokens a second", "output_tok_s", "higher", short),
            generation("Decode step at a longer context, ms", "step_ms", "lower", longer),
            generation("Whole prompts, ms", "prefill_ms", "lower", prompts),
        ]
        titles = dict(prefill="Attention of prompts, causal, µs", decode="Attention of decode steps, µs",
                      padded="Attention of prompts of 64 to 1024 tokens, µs")
        tables += [table(titles[kind], "lower", list(rows.items())) for kind, rows in self.attention.items()]
        return [t for t in tables if t["rows"]]

    def limits(self):
        """How near batchlab's own steps and prompts come to what this device reaches."""
        lines = []
        for key in self.generations:
            of_copy, of_gemm, rate = (self.number(key, OURS, n) for n in ("step_percent_of_copy", "prefill_percent_of_gemm", "prefill_tok_s"))
            if rate:
                model, prompt, new, batch = key
                lines.append(f"{model}, {prompt} + {new} tokens, B {batch}: prompts {rate:,.0f} tok/s, {of_gemm:.1f} % of the GEMM rate; "
                             f"steps {of_copy:.1f} % of the copy rate")
        return lines


def attention_shape(result):
    """A kernel's shape, as peers want it; None for other kernels."""
    shape = re.fullmatch(r"B=(\d+) (?:(mixed|padded) S<|S)=(\d+) (\d+),(\d+),(\d+)(?: splits=\d+)?", result["shape"])
    kind = result["kernel"].removeprefix("attention_")
    if not shape or kind not in ("prefill", "decode"):
        return None
    rows, length, heads, kv_heads, head_dim = (int(shape[i]) for i in (1, 3, 4, 5, 6))
    case = f"B {rows}, S {length}, {heads}/{kv_heads} heads of {head_dim}"
    start = [0] * rows
    if shape[2]:
        # The prompts of benches/kernels/attention.rs, which a peer gets padded whether batchlab pads them or not.
        kind, case = "padded", f"{case}, batchlab {'ragged' if shape[2] == 'mixed' else 'padded'}"
        start = [length - (64 + row * 389 % 961) for row in range(rows)]
    return dict(kind=kind, case=case, rows=rows, query_len=1 if kind == "decode" else length, kv_len=length,
                heads=heads, kv_heads=kv_heads, head_dim=head_dim, kv_start=start)


def table(title, better, rows):
    """Columns with no number are left out; bar and ratio are added."""
    columns = list(dict.fromkeys(c for _, cells in rows for c, v in cells.items() if v is not None))
    filled = []
    for case, cells in rows:
        peers = {c: v for c, v in cells.items() if c != OURS and v is not None}
        bar = (min if better == "lower" else max)(peers, key=peers.get) if peers else None
        ours = cells.get(OURS)
        ratio = None
        if bar and ours:
            ratio = peers[bar] / ours if better == "lower" else ours / peers[bar]
        filled.append(dict(case=case, values=cells, bar=bar, ratio=ratio))
    return dict(title=title, better=better, columns=columns, rows=filled)


def digits(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def markdown(result):
    lines = [f"{result['device']}; batchlab {result['commit']}, {result['dtype']} beside {result['peer_dtype']}; load {result['load_average_before']:.1f} before", ""]
    for t in result["tables"]:
        head = ["", *t["columns"], "bar", "ratio"]
        lines += [f"### {t['title']}", "", "| " + " | ".join(head) + " |", "|---|" + "---:|" * len(t["columns"]) + "---|---:|"]
        for r in t["rows"]:
            ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
            cells = [r["case"], *(digits(r["values"].get(c)) for c in t["columns"]), r["bar"] or "", ratio]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    if result["limits"]:
        lines += ["### batchlab beside this device's limits", "", *(f"- {line}" for line in result["limits"]), ""]
    lines += [f"- {name} {version}" for name, version in result["versions"].items() if version]
    return "\n".join(lines + [f"- {line}" for line in result["missing"]])


def commit():
    bundled = HERE / "COMMIT"  # scripts/bundle.sh writes it: there is no git on the GPU machine
    if bundled.exists():
        return bundled.read_text()[:7]
    return subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip() or None


def main():
    a = arguments()
    load = os.getloadavg()[0]
    comparison = Comparison(a)
    comparison.generate()
    if a.device == "cuda":
        comparison.attend()
    result = dict(
        command="scripts/compare_peers.py " + " ".join(sys.argv[1:]), device=comparison.device, dtype=a.dtype, peer_dtype=a.peer_dtype,
        commit=commit(), python=platform.python_version(), cores=os.cpu_count(), load_average_before=load,
        tables=comparison.tables(), limits=comparison.limits(), versions=comparison.versions, missing=comparison.missing,
        generations=[dict(model=m, prompt_len=p, new_tokens=n, batch=b, rounds=r) for (m, p, n, b), r in comparison.generations.items()])
    text = markdown(result)
    print(text)
    if a.output:
        pathlib.Path(a.output + ".json").write_text(json.dumps(result, indent=1))
        pathlib.Path(a.output + ".md").write_text(text + "\n")
    if not any(OURS in engines for engines in comparison.generations.values()):
        sys.exit("batchlab's generations were not measured; see the lines below the tables")


main()

/**
 * PyTorch's scaled_dot_product_attention in a Python process: peers/torch-sdpa.py, asked in lines of JSON. It measures its
 * chains of calls itself, so neither the way there nor the way back is in a time.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { AttentionCase } from "../cases.ts";
import { keySets } from "../cuda-targets.ts";
import { bytesOf, PERIOD } from "../numbers.ts";
import { drawn } from "../truth.ts";
import { headsToCheck, rowsToCheck } from "../verify.ts";
import { chainsOf } from "./chains.ts";
import { CUDA_CHAINS } from "./ours-cuda.node.ts";
import type { Played, Player, PlayerSpec } from "./player.ts";

const SCRIPT = fileURLToPath(new URL("../../peers/torch-sdpa.py", import.meta.url));

/** What can be asked, with its argument and answer. */
interface Questions {
  open: [{ software: boolean }, what: string];
  /** Paths of the streams. */
  load: [{ streams: Record<string, string>; elements: number }, null];
  /** The back end that it is given to. */
  place: [
    { handle: number; dtype: string; q: readonly number[]; kv: readonly number[]; causal: boolean; sets: number },
    backend: string,
  ];
  /** `out` in base64: float32 [heads, rows, D]. */
  first: [
    { handle: number; heads: readonly number[]; rows: readonly number[] },
    { readonly ms: number; readonly out: string },
  ];
  chain: [{ handle: number; calls: number }, ms: number];
  free: [{ handle: number }, null];
  matmul: [Record<string, never>, gflops: number];
  copy: [Record<string, never>, bytesASecond: number];
}

type Answer = { readonly value: unknown } | { readonly error: string };

/** One question at a time. */
class Python {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  #complaints = "";
  #failed: Error | undefined;

  constructor(program: string) {
    const child = spawn(program, [SCRIPT], { stdio: ["pipe", "pipe", "pipe"] });
    child.stderr.on("data", (text) => (this.#complaints = `${this.#complaints}${text}`.slice(-2000)));
    child.on("error", ({ message, code }: NodeJS.ErrnoException) => {
      this.#failed = new Error(
        code === "ENOENT" ? `${program} is not installed, or not in PATH: name another Python in PYTHON` : message,
      );
    });
    // A question to a process that has ended: what it said last is told by `ask`.
    child.stdin.on("error", () => {});
    this.#child = child;
    this.#answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  /** @throws Error with what it said, or how it ended */
  async ask<Name extends keyof Questions>(name: Name, argument: Questions[Name][0]): Promise<Questions[Name][1]> {
    this.#child.stdin!.write(`${JSON.stringify({ name, argument })}\n`);
    const { value: line, done } = await this.#answers.next();
    if (done) {
      const said = this.#complaints.trimEnd().split("\n").at(-1);
      throw this.#failed ?? new Error(`Python ended${said && `: ${said}`}`);
    }
    const answer = JSON.parse(line) as Answer;
    if ("error" in answer) throw new Error(answer.error);
    return answer.value as Questions[Name][1];
  }
}

/** @throws Error when there is no Python, no PyTorch, or no GPU that it can use */
export async function openTorch({ software = false }: PlayerSpec): Promise<Player> {
  const python = new Python(process.env["PYTHON"] ?? "python3");
  const what = await python.ask("open", { software });
  await loadStreams(python);
  let handles = 0;
  return {
    what,
    place: (item) => place(python, item, handles++),
    gauge: (name) => {
      if (name !== "matmul" && name !== "copy") throw new Error(`PyTorch has no gauge ${name}`);
      return python.ask(name, {});
    },
  };
}

/** Through files: a hundred megabytes. */
async function loadStreams(python: Python): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "fa-torch-"));
  try {
    const streams: Record<string, string> = {};
    for (const name of ["q", "k", "v"] as const) {
      streams[name] = join(folder, name);
      writeFileSync(streams[name], bytesOf("bfloat16", drawn(name, PERIOD)));
    }
    await python.ask("load", { streams, elements: PERIOD });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function place(python: Python, item: AttentionCase, handle: number): Promise<Played> {
  const { inputs, problem, facts } = item;
  const { dtype } = problem;
  const [q, kv] = [inputs.q.shape, inputs.k.shape];
  const sets = keySets(item);
  const kernel = await python.ask("place", { handle, dtype, q, kv, causal: facts.causal, sets });
  const chain = (calls: number): Promise<number> => python.ask("chain", { handle, calls });
  return {
    kernel,
    chains: chainsOf(chain, CUDA_CHAINS),
    inputSets: sets,
    async call() {
      const { out } = await python.ask("first", { handle, heads: headsToCheck(problem), rows: rowsToCheck(problem) });
      const bytes = Uint8Array.from(Buffer.from(out, "base64"));
      return { numbers: async () => ({ out: new Float32Array(bytes.buffer) }), dispose() {} };
    },
    free: async () => void (await python.ask("free", { handle })),
  };
}
